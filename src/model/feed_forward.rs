//! The feed-forward block of a layer.

use candle_core::{Result, Tensor};

use super::config::Activation;
use super::experts::Mixture;
use super::linear::Linear;
use super::ops;

/// The block, in a checkpoint's layout.
pub(crate) enum FeedForward {
    Gated(Gated),
    /// The same with gate and up in one matrix, gate first.
    Joined {
        gate_up: Linear,
        down: Linear,
    },
    Plain {
        up: Linear,
        down: Linear,
    },
    Mixture(Mixture),
}

impl FeedForward {
    /// (rows, hidden) to the same.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match self {
            Self::Gated(gated) => gated.forward(x, activation),
            Self::Joined { gate_up, down } => {
                let y = gate_up.forward(x)?;
                let width = y.dim(1)? / 2;
                let (gate, up) = (y.narrow(1, 0, width)?, y.narrow(1, width, width)?);
                down.forward(&gate_with(&gate, &up, activation)?)
            }
            Self::Plain { up, down } => down.forward(&activate(&up.forward(x)?, activation)?),
            Self::Mixture(mixture) => mixture.forward(x, activation),
        }
    }
}

/// down(act(gate(x)) · up(x)).
pub(crate) struct Gated {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Gated {
    /// (rows, hidden) to the same.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        self.down.forward(&gate_with(&gate, &up, activation)?)
    }
}

fn gate_with(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => ops::swiglu(gate, up),
        other => activate(gate, other)? * up,
    }
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    }
}
