//! Running a decoder step by step, remembering keys and values.

use candle_core::Tensor;

use super::decoder::Decoder;
use crate::error::{Context, Error, Result};

/// Keys and values of all positions so far, for every layer.
///
/// Memory: 2 · layers · batch · key/value heads · capacity · head_dim elements of the decoder's
/// dtype, allocated at once.
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    batch: usize,
    capacity: usize,
    len: usize,
}

impl Cache {
    /// An empty cache for `batch` sequences of at most `capacity` tokens.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn new(decoder: &Decoder, batch: usize, capacity: usize) -> Result<Self> {
        let config = decoder.config();
        let shape = (batch, config.num_key_value_heads, capacity, config.head_dim);
        let zeros = || Tensor::zeros(shape, decoder.dtype(), decoder.device());
        let layers = (0..config.num_hidden_layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<candle_core::Result<_>>()
            .during(|| format!("allocating a cache for {capacity} tokens"))?;
        Ok(Self {
            layers,
            batch,
            capacity,
            len: 0,
        })
    }

    /// Number of positions seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Decoder {
    /// Hidden states (batch, len, hidden), after the final norm, of the tokens `ids`
    /// (batch, len) u32 that follow those in `cache`, which then holds them too.
    ///
    /// No gradient flows through a cache.
    ///
    /// # Errors
    /// The cache is full, has another batch size, or the model's context is exceeded.
    pub fn step(&self, ids: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let (batch, len) = ids.dims2().during(|| "reading token ids".to_owned())?;
        let (begin, end) = (cache.len, cache.len.saturating_add(len));
        if batch != cache.batch || end > cache.capacity {
            return Err(Error::usage(format!(
                "a cache for {} sequences of {} tokens cannot take {batch} of {end}",
                cache.batch, cache.capacity
            )));
        }
        let rotary = self.rotary_from(begin, len)?;
        let mut x = self.embed(ids, &rotary)?.detach();
        for (index, (keys, values)) in cache.layers.iter().enumerate() {
            x = self.layer_with(index, &x, &rotary, |key, value| {
                keys.slice_set(&key.detach().contiguous()?, 2, begin)?;
                values.slice_set(&value.detach().contiguous()?, 2, begin)?;
                Ok((keys.narrow(2, 0, end)?, values.narrow(2, 0, end)?))
            })?;
        }
        cache.len = end;
        self.final_norm(&x)
    }
}
