//! How positions enter attention.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::error::{Context, Error, Result};
use crate::model::config::Config;

/// How the positions of a batch enter attention; computed once per batch, shared by all layers.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosines and sines, f32 (len, rotated dimensions / 2), or (batch · len, ..) where rows are
    /// packed; none for a model that does not rotate.
    pub(super) tables: Option<(Tensor, Tensor)>,
    /// Penalties on distance, f32 (heads), for a model that has them.
    pub(super) slopes: Option<Tensor>,
    /// Where rows are packed: the first token of each token's sample, u32 (batch, len).
    pub(super) starts: Option<Tensor>,
    /// Position of the first token.
    pub(super) offset: usize,
    /// Number of tokens.
    pub(super) len: usize,
}

/// The positions that a model knows.
pub(crate) struct Positions {
    /// Radians per position for each rotated pair.
    frequencies: Vec<f32>,
    /// Factor on cosines and sines; none for a model that does not rotate.
    factor: Option<f32>,
    /// Penalties on distance, f32 (heads), for a model that has them.
    slopes: Option<Tensor>,
    /// Longest sequence, in tokens.
    limit: usize,
    device: Device,
}

impl Positions {
    /// The positions of `config`, whose heads are rotated with `frequencies`.
    pub fn new(config: &Config, frequencies: Vec<f32>, device: &Device) -> Result<Self> {
        let slopes = config.alibi_slopes();
        let slopes = slopes.map(|slopes| Tensor::new(slopes, device)).transpose();
        Ok(Self {
            frequencies,
            factor: config.rope.as_ref().map(|rope| rope.attention_factor()),
            slopes: slopes.during(|| "computing the slopes of ALiBi".to_owned())?,
            limit: config.max_position_embeddings,
            device: device.clone(),
        })
    }

    /// Angles for consecutive positions.
    ///
    /// # Errors
    /// There are none, or the last is beyond `max_position_embeddings`.
    pub fn rotary(&self, positions: Range<usize>) -> Result<Rotary> {
        let (end, limit) = (positions.end, self.limit);
        if positions.is_empty() || end > limit {
            return Err(Error::usage(format!(
                "a sequence of {end} tokens does not fit the model's context of {limit} tokens"
            )));
        }
        Ok(Rotary {
            tables: self.angles(positions.clone())?,
            slopes: self.slopes.clone(),
            starts: None,
            offset: positions.start,
            len: positions.len(),
        })
    }

    /// Angles for rows of `len` tokens that hold several samples: `starts` (rows · len) is the
    /// place in its row at which each token's sample begins. Positions count from there.
    pub fn packed(&self, starts: &[u32], len: usize) -> Result<Rotary> {
        let mut positions = Vec::with_capacity(starts.len());
        for (index, &start) in starts.iter().enumerate() {
            match (index % len.max(1)).checked_sub(start as usize) {
                Some(position) if position < self.limit => positions.push(position),
                _ => {
                    return Err(Error::usage(format!(
                        "token {} of a packed row, in a sample from {start} on, does not fit \
                         the model's context of {} tokens",
                        index % len.max(1),
                        self.limit
                    )));
                }
            }
        }
        let rows = starts.len() / len.max(1);
        let starts = Tensor::from_slice(starts, (rows, len), &self.device)
            .during(|| "preparing packed rows".to_owned())?;
        Ok(Rotary {
            tables: self.angles(positions.into_iter())?,
            slopes: self.slopes.clone(),
            starts: Some(starts),
            offset: 0,
            len,
        })
    }

    /// Cosines and sines (positions, rotated dimensions / 2), if the model rotates.
    fn angles(&self, positions: impl Iterator<Item = usize>) -> Result<Option<(Tensor, Tensor)>> {
        let Some(factor) = self.factor else {
            return Ok(None);
        };
        let angles = positions.flat_map(|position| {
            let position = position as f32;
            self.frequencies
                .iter()
                .map(move |frequency| position * frequency)
        });
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| (angle.cos() * factor, angle.sin() * factor))
            .unzip();
        let count = cos.len() / self.frequencies.len().max(1);
        let shape = (count, self.frequencies.len());
        let table = |values| Tensor::from_vec(values, shape, &self.device);
        let tables = table(cos).and_then(|cos| Ok((cos, table(sin)?)));
        tables
            .map(Some)
            .during(|| "computing rotary angles".to_owned())
    }
}
