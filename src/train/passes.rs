//! The decoder forward and back for one micro batch, with all activations kept or only those
//! between layers.
//!
//! With checkpointing each layer is computed a second time when its gradient is due, so that the
//! activations of one layer exist at a time. The operations and their order are the same, and so is the
//! result, bit by bit on a CPU.

use candle_core::{Tensor, Var};

use super::data::MicroBatch;
use crate::error::{Context, Result};
use crate::model::ops::{self, Sums};
use crate::model::{Decoder, DirectPass, Rotary, attach1};

/// A forward pass, and what its backward needs.
pub(super) struct Pass<'a> {
    decoder: &'a Decoder,
    /// (sequences · length, hidden size).
    hidden: Tensor,
    kept: Kept<'a>,
}

enum Kept<'a> {
    /// No graph at all.
    Direct(DirectPass<'a>),
    /// The graph of `hidden`.
    Graph,
    /// What layers are computed from again.
    Again {
        ids: Tensor,
        rotary: Rotary,
        /// The input of each layer, and of the final norm.
        borders: Vec<Var>,
    },
}

impl<'a> Pass<'a> {
    /// Runs the decoder; with `checkpointing`, only the inputs of the layers are kept.
    pub fn forward(decoder: &'a Decoder, micro: &MicroBatch, checkpointing: bool) -> Result<Self> {
        let shape = (micro.sequences, micro.len);
        let ids = Tensor::from_slice(&micro.ids, shape, decoder.device())
            .during(|| "preparing a batch".to_owned())?;
        let rotary = match &micro.starts {
            Some(starts) => decoder.rotary_packed(starts, micro.len)?,
            None => decoder.rotary(micro.len)?,
        };
        if let Some(pass) = DirectPass::forward(decoder, &ids, rotary.clone(), checkpointing)? {
            return Ok(Self {
                decoder,
                hidden: pass.hidden.clone(),
                kept: Kept::Direct(pass),
            });
        }
        Self::by_graph(decoder, ids, rotary, checkpointing)
    }

    /// [`Pass::forward`] with candle's graph, which knows every kind of layer.
    fn by_graph(
        decoder: &'a Decoder,
        ids: Tensor,
        rotary: Rotary,
        checkpointing: bool,
    ) -> Result<Self> {
        let flat = |hidden: Tensor| {
            hidden
                .flatten_to(1)
                .during(|| "preparing a batch".to_owned())
        };
        if !checkpointing {
            return Ok(Self {
                decoder,
                hidden: flat(decoder.hidden_at(&ids, &rotary)?)?,
                kept: Kept::Graph,
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
            decoder,
            hidden: flat(decoder.final_norm(last)?)?,
            kept: Kept::Again {
                ids,
                rotary,
                borders,
            },
        })
    }

    /// (sequences · length, hidden size), what the head reads.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Adds ∂L/∂parameter to `params`, in the order of the names, given `seed`, ∂L/∂hidden; `None`
    /// is zero.
    pub fn backward(
        self,
        seed: &Tensor,
        params: Vec<Option<Tensor>>,
    ) -> Result<Vec<Option<Tensor>>> {
        let decoder = self.decoder;
        let trained = decoder.trained().values().map(|var| var.as_tensor());
        let mut sums = Sums::new(trained, params);
        match self.kept {
            Kept::Direct(pass) => pass
                .backward(seed, &mut sums)
                .during(|| "computing gradients".to_owned())?,
            Kept::Graph => drop(pull(decoder, &self.hidden, seed, None, &mut sums)?),
            Kept::Again {
                ids,
                rotary,
                mut borders,
            } => {
                let (mut output, mut seed) = (self.hidden, seed.clone());
                while let Some(border) = borders.pop() {
                    let Some(grad) = pull(decoder, &output, &seed, Some(&border), &mut sums)?
                    else {
                        return Ok(sums.into_inner());
                    };
                    seed = grad;
                    output = match borders.last() {
                        Some(input) => {
                            decoder.layer(borders.len() - 1, input.as_tensor(), &rotary)?
                        }
                        None => decoder.embed(&ids, &rotary)?,
                    };
                }
                pull(decoder, &output, &seed, None, &mut sums)?;
            }
        }
        Ok(sums.into_inner())
    }
}

/// Adds the gradients of the parameters that `output` was computed from, given that of `output`;
/// returns that of `input`.
fn pull(
    decoder: &Decoder,
    output: &Tensor,
    seed: &Tensor,
    input: Option<&Var>,
    sums: &mut Sums,
) -> Result<Option<Tensor>> {
    let mut run = || -> candle_core::Result<Option<Tensor>> {
        // `backward` starts from ones, so the seed comes in as the gradient of a scalar.
        let zero = Tensor::zeros((), output.dtype(), output.device())?;
        let seed = seed.clone();
        let scalar = attach1(output, &zero, move |_, _, _| Ok(seed.clone()))?;
        let mut gradients = ops::collect(sums, || scalar.backward())?;
        for var in decoder.trained().values() {
            if let Some(gradient) = gradients.remove(var.as_tensor()) {
                sums.add_any(var.as_tensor(), gradient)?;
            }
        }
        Ok(input.and_then(|input| gradients.remove(input.as_tensor())))
    };
    run().during(|| "computing gradients".to_owned())
}

#[cfg(test)]
#[path = "passes_tests.rs"]
mod tests;
