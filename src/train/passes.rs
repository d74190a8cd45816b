//! The decoder forward and back for one micro batch, with all activations kept or only those
//! between layers.
//!
//! With checkpointing each layer is computed a second time when its gradient is due, so that the
//! activations of one layer exist at a time. The operations and their order are the same, and so is the
//! result, bit by bit on a CPU.

use candle_core::{Tensor, Var};

use super::data::MicroBatch;
use crate::error::{Context, Result};
use crate::model::{Decoder, Rotary, attach1};

/// A forward pass, and what its backward needs.
pub(super) struct Pass {
    /// (sequences · length, hidden size), with its graph.
    pub hidden: Tensor,
    kept: Option<Kept>,
}

/// What layers are computed from again.
struct Kept {
    ids: Tensor,
    rotary: Rotary,
    /// The input of each layer, and of the final norm.
    borders: Vec<Var>,
}

impl Pass {
    /// Runs the decoder; with `checkpointing`, only the inputs of the layers are kept.
    pub fn forward(decoder: &Decoder, micro: &MicroBatch, checkpointing: bool) -> Result<Self> {
        let shape = (micro.sequences, micro.len);
        let ids = Tensor::from_slice(&micro.ids, shape, decoder.device())
            .during(|| "preparing a batch".to_owned())?;
        let rotary = match &micro.starts {
            Some(starts) => decoder.rotary_packed(starts, micro.len)?,
            None => decoder.rotary(micro.len)?,
        };
        let flat = |hidden: Tensor| {
            hidden
                .flatten_to(1)
                .during(|| "preparing a batch".to_owned())
        };
        if !checkpointing {
            return Ok(Self {
                hidden: flat(decoder.hidden_at(&ids, &rotary)?)?,
                kept: None,
            });
        }
        let border = |x: &Tensor| {
            Var::from_tensor(&x.detach()).during(|| "keeping the input of a layer".to_owned())
        };
        let mut borders = vec![border(&decoder.embed(&ids, &rotary)?)?];
        for index in 0..decoder.config().num_hidden_layers {
            let x = borders[index].as_detached_tensor();
            borders.push(border(&decoder.layer(index, &x, &rotary)?)?);
        }
        let last = borders[borders.len() - 1].as_tensor();
        Ok(Self {
            hidden: flat(decoder.final_norm(last)?)?,
            kept: Some(Kept {
                ids,
                rotary,
                borders,
            }),
        })
    }

    /// ∂L/∂parameter, in the order of the names, given `seed`, ∂L/∂hidden; `None` is zero.
    pub fn backward(self, decoder: &Decoder, seed: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut params = vec![None; decoder.trained().len()];
        let Some(mut kept) = self.kept else {
            pull(decoder, &self.hidden, seed, None, &mut params)?;
            return Ok(params);
        };
        let (mut output, mut seed) = (self.hidden, seed.clone());
        while let Some(border) = kept.borders.pop() {
            let Some(grad) = pull(decoder, &output, &seed, Some(&border), &mut params)? else {
                return Ok(params);
            };
            seed = grad;
            output = match kept.borders.last() {
                Some(input) => {
                    decoder.layer(kept.borders.len() - 1, input.as_tensor(), &kept.rotary)?
                }
                None => decoder.embed(&kept.ids, &kept.rotary)?,
            };
        }
        pull(decoder, &output, &seed, None, &mut params)?;
        Ok(params)
    }
}

/// Adds the gradients of the parameters that `output` was computed from, given that of `output`;
/// returns that of `input`.
fn pull(
    decoder: &Decoder,
    output: &Tensor,
    seed: &Tensor,
    input: Option<&Var>,
    params: &mut [Option<Tensor>],
) -> Result<Option<Tensor>> {
    let mut run = || -> candle_core::Result<Option<Tensor>> {
        // `backward` starts from ones, so the seed comes in as the gradient of a scalar.
        let zero = Tensor::zeros((), output.dtype(), output.device())?;
        let seed = seed.clone();
        let scalar = attach1(output, &zero, move |_, _, _| Ok(seed.clone()))?;
        let mut gradients = scalar.backward()?;
        for (sum, var) in params.iter_mut().zip(decoder.trained().values()) {
            let Some(gradient) = gradients.remove(var.as_tensor()) else {
                continue;
            };
            *sum = Some(match sum.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
        }
        Ok(input.and_then(|input| gradients.remove(input.as_tensor())))
    };
    run().during(|| "computing gradients".to_owned())
}

#[cfg(test)]
#[path = "passes_tests.rs"]
mod tests;
