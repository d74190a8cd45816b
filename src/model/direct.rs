//! A decoder forward and back without candle's graph, where all of its layers are of the common kind.

use candle_core::{Result, Tensor};

use super::decoder::Decoder;
use super::layers::{Direct, Kept, Norm, Rotary, is_plain, norm_backward};
use super::ops::Sums;
use crate::error::{self, Context};

/// A forward pass over tokens, and what its backward needs.
pub(crate) struct DirectPass<'a> {
    /// (batch · len, hidden size), what the head reads.
    pub hidden: Tensor,
    decoder: &'a Decoder,
    norm: &'a Norm,
    layers: Vec<Direct<'a>>,
    ids: Vec<u32>,
    rotary: Rotary,
    /// The input of each layer, and of the final norm.
    borders: Vec<Tensor>,
    /// Of each layer, unless layers are computed again.
    kept: Vec<Kept>,
}

impl<'a> DirectPass<'a> {
    /// Runs the decoder on `ids` (batch, len) u32, if it is in f32 on the CPU and of the common
    /// kind; with `again`, only the inputs of layers are kept.
    pub fn forward(
        decoder: &'a Decoder,
        ids: &Tensor,
        rotary: Rotary,
        again: bool,
    ) -> error::Result<Option<Self>> {
        let (config, norm) = (decoder.config(), decoder.norm());
        let layers = decoder.layers().iter().map(|layer| layer.direct(config));
        let Some(layers) = layers
            .collect::<Option<Vec<_>>>()
            .filter(|_| is_plain(norm))
        else {
            return Ok(None);
        };
        let embedded = decoder.embed(ids, &rotary)?;
        let run = || -> Result<Self> {
            let mut borders = vec![embedded.detach().flatten_to(1)?];
            let mut kept = Vec::new();
            for (index, layer) in layers.iter().enumerate() {
                let (output, inside) = layer.forward(&borders[index], &rotary)?;
                borders.push(output);
                if !again {
                    kept.push(inside);
                }
            }
            Ok(Self {
                hidden: norm.forward(&borders[layers.len()])?.detach(),
                decoder,
                norm,
                layers,
                ids: ids.flatten_all()?.to_vec1()?,
                rotary,
                borders,
                kept,
            })
        };
        run().map(Some).during(|| "running the layers".to_owned())
    }

    /// Adds ∂L/∂parameter to `sums`, given `seed`, ∂L/∂hidden.
    pub fn backward(mut self, seed: &Tensor, sums: &mut Sums) -> Result<()> {
        let embedder = self.decoder.embedder();
        // Below this layer nothing is trained.
        let lowest = match embedder.is_trained() {
            true => Some(0),
            false => self.layers.iter().position(Direct::is_trained),
        };
        let lowest = lowest.unwrap_or(self.layers.len());
        let Some(last) = self.borders.pop() else {
            return Ok(());
        };
        let mut grad = norm_backward(self.norm, &last, seed, sums)?;
        while self.borders.len() > lowest {
            let input = self.borders.pop();
            let layer = &self.layers[self.borders.len()];
            let kept = match (self.kept.pop(), input) {
                (Some(kept), _) => kept,
                (None, Some(x)) => layer.forward(&x, &self.rotary)?.1,
                (None, None) => break,
            };
            grad = layer.backward(kept, &self.rotary, grad, sums)?;
        }
        match embedder.is_trained() {
            true => embedder.backward(&self.ids, &grad, sums),
            false => Ok(()),
        }
    }
}
