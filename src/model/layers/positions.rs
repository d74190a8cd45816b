//! How positions enter attention.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::error::{Context, Error, Result};
use crate::model::config::Config;

/// Cosines and sines.
pub(super) type Tables = (Tensor, Tensor);

/// How the positions of a batch enter attention; computed once per batch, shared by all layers.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosines and sines, f32 (len, rotated dimensions / 2), or (batch · len, ..) where rows are
    /// packed; none for a model that does not rotate.
    pub(super) tables: Option<Tables>,
    /// The same for layers with a window, where their angles are others.
    pub(super) window_tables: Option<Tables>,
    /// Positions, u32 (1, len), or (batch, len) where rows are packed, for a model that has learned
    /// them.
    pub(super) places: Option<Tensor>,
    /// Penalties on distance, f32 (heads), for a model that has them.
    pub(super) slopes: Option<Tensor>,
    /// Where rows are packed: the first token of each token's sample, u32 (batch, len).
    pub(super) starts: Option<Tensor>,
    /// Position of the first token.
    pub(super) offset: usize,
    /// Number of tokens.
    pub(super) len: usize,
}

impl Rotary {
    /// The angles in a layer that looks back over `window`.
    pub(super) fn of(&self, window: Option<usize>) -> Option<&Tables> {
        let own = window.and(self.window_tables.as_ref());
        own.or(self.tables.as_ref())
    }
}

/// The positions that a model knows.
pub(crate) struct Positions {
    /// None for a model that does not rotate.
    rotation: Option<Rotation>,
    /// Of layers with a window, where it is another one.
    window_rotation: Option<Rotation>,
    /// Whether the model has learned positions.
    learned: bool,
    /// Penalties on distance, f32 (heads), for a model that has them.
    slopes: Option<Tensor>,
    /// Longest sequence, in tokens.
    limit: usize,
    device: Device,
}

/// How heads are rotated.
struct Rotation {
    /// Radians per position for each rotated pair.
    frequencies: Vec<f32>,
    /// Factor on cosines and sines.
    factor: f32,
}

impl Rotation {
    /// Cosines and sines (positions, rotated dimensions / 2).
    fn tables(
        &self,
        positions: impl Iterator<Item = usize>,
        device: &Device,
    ) -> candle_core::Result<Tables> {
        let angles = positions.flat_map(|position| {
            let position = position as f32;
            self.frequencies
                .iter()
                .map(move |frequency| position * frequency)
        });
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| (angle.cos() * self.factor, angle.sin() * self.factor))
            .unzip();
        let count = cos.len() / self.frequencies.len().max(1);
        let shape = (count, self.frequencies.len());
        let table = |values| Tensor::from_vec(values, shape, device);
        Ok((table(cos)?, table(sin)?))
    }
}

impl Positions {
    /// The positions of `config`, whose heads are rotated with `frequencies` (but for layers with a
    /// window, where these have others).
    pub fn new(config: &Config, frequencies: Vec<f32>, device: &Device) -> Result<Self> {
        let slopes = config.alibi_slopes();
        let slopes = slopes.map(|slopes| Tensor::new(slopes, device)).transpose();
        Ok(Self {
            rotation: config.rope.as_ref().map(|rope| Rotation {
                frequencies,
                factor: rope.attention_factor(),
            }),
            window_rotation: config.window_rope.as_ref().map(|rope| Rotation {
                frequencies: rope.frequencies(),
                factor: rope.attention_factor(),
            }),
            learned: config.names().positions.is_some(),
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
        let [tables, window_tables] = self.angles(&positions)?;
        Ok(Rotary {
            tables,
            window_tables,
            places: self.places(&positions, (1, positions.len()))?,
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
        let [tables, window_tables] = self.angles(&positions)?;
        Ok(Rotary {
            tables,
            window_tables,
            places: self.places(&positions, (rows, len))?,
            slopes: self.slopes.clone(),
            starts: Some(starts),
            offset: 0,
            len,
        })
    }

    /// The positions, for a model that has learned them.
    fn places(
        &self,
        positions: &(impl IntoIterator<Item = usize> + Clone),
        shape: (usize, usize),
    ) -> Result<Option<Tensor>> {
        let places = self.learned.then(|| {
            let places = positions.clone().into_iter();
            let places: Vec<u32> = places.map(|place| place as u32).collect();
            Tensor::from_vec(places, shape, &self.device)
        });
        places
            .transpose()
            .during(|| "preparing positions".to_owned())
    }

    /// Cosines and sines of all layers, and those of layers with a window, as far as the model has
    /// them.
    fn angles(
        &self,
        positions: &(impl IntoIterator<Item = usize> + Clone),
    ) -> Result<[Option<Tables>; 2]> {
        let tables = |rotation: &Option<Rotation>| {
            let rotation = rotation.as_ref();
            let tables = rotation.map(|r| r.tables(positions.clone().into_iter(), &self.device));
            tables
                .transpose()
                .during(|| "computing rotary angles".to_owned())
        };
        Ok([tables(&self.rotation)?, tables(&self.window_rotation)?])
    }
}
