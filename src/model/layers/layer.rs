//! One layer of the decoder.
//!
//! Everything is flattened to two-dimensional matrix products (a broadcast product of three
//! dimensions by two is slow in candle, and its backward worse).

use candle_core::Tensor;

use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::norm::Norm;
use super::parts::Parts;
use super::positions::Rotary;
use super::qkv::Qkv;
use crate::error::Result;
use crate::model::causal::Causal;
use crate::model::config::Config;
use crate::model::lora::Adapter;
use crate::model::ops;

/// Keys and values of one layer for all positions so far: (batch, heads, positions, head_dim).
pub(crate) type KeyValue = (Tensor, Tensor);

/// The parameters of one layer.
pub(crate) struct Layer {
    pub(super) qkv: Qkv,
    pub(super) output: Linear,
    pub(super) feed_forward: FeedForward,
    pub(super) input_norm: Norm,
    pub(super) attention_norm: Option<Norm>,
    pub(super) middle_norm: Norm,
    pub(super) feed_forward_norm: Option<Norm>,
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    pub(super) window: Option<usize>,
    /// Factor on the products of queries and keys.
    pub(super) scale: f64,
}

impl Layer {
    /// Layer `index` of `config` from the parameters that `find` knows by their names, and the
    /// adapters that `adapter` knows by those of their projections.
    ///
    /// # Errors
    /// `find` does not know a parameter.
    pub fn assemble(
        config: &Config,
        index: usize,
        find: impl Fn(&str) -> Option<Tensor>,
        adapter: impl Fn(&str) -> Option<Adapter>,
    ) -> Result<Self> {
        let (names, parts) = (config.names(), Parts::new(config, index, find, adapter));
        let head_norm = |name: &str| config.qk_norm.then(|| parts.norm(name)).transpose();
        Ok(Self {
            qkv: parts.qkv(&names.qkv)?,
            output: parts.linear(names.output)?,
            feed_forward: parts.feed_forward(&names.feed_forward)?,
            input_norm: parts.norm(names.input_norm)?,
            attention_norm: parts.optional_norm(names.attention_norm)?,
            middle_norm: parts.norm(names.middle_norm)?,
            feed_forward_norm: parts.optional_norm(names.feed_forward_norm)?,
            query_norm: head_norm(names.head_norms[0])?,
            key_norm: head_norm(names.head_norms[1])?,
            window: config.windows[index],
            scale: config.attention_scale_of(index),
        })
    }

    /// `x` (batch, len, hidden) to the same shape; `extend` turns new keys and values into all
    /// that are attended to.
    pub fn forward(
        &self,
        c: &Config,
        x: &Tensor,
        rotary: &Rotary,
        extend: impl FnOnce(Tensor, Tensor) -> candle_core::Result<KeyValue>,
    ) -> candle_core::Result<Tensor> {
        let (batch, len, hidden) = x.dims3()?;
        if len != rotary.len {
            candle_core::bail!("{len} tokens with angles for {}", rotary.len);
        }
        let x = x.reshape((batch * len, hidden))?;
        let y = self.input_norm.forward(&x)?;
        let mixed = self.attend(c, &y, rotary, extend)?;
        let mixed = normed(self.output.forward(&mixed)?, self.attention_norm.as_ref())?;
        let sum = (&x + mixed)?;

        let inner = self
            .middle_norm
            .forward(if c.parallel { &x } else { &sum })?;
        let inner = self.feed_forward.forward(&inner, c.activation)?;
        let inner = normed(inner, self.feed_forward_norm.as_ref())?;
        (sum + inner)?.reshape((batch, len, hidden))
    }

    /// What attention mixes for `y` (batch · len, hidden): (batch · len, heads · head_dim).
    fn attend(
        &self,
        c: &Config,
        y: &Tensor,
        rotary: &Rotary,
        extend: impl FnOnce(Tensor, Tensor) -> candle_core::Result<KeyValue>,
    ) -> candle_core::Result<Tensor> {
        let (heads, groups, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let (rows, len) = (y.dim(0)?, rotary.len);
        let batch = rows / len.max(1);
        let [query, key, value] = self.qkv.forward(c, y)?;
        let tables = rotary.of(self.window);
        let place = |y: Tensor, heads: usize, norm: Option<&Norm>| {
            let y = normed(y, norm)?.reshape((batch, len, heads, d))?;
            match tables {
                Some((cos, sin)) => ops::rotate_heads(&y, cos, sin),
                None => y.transpose(1, 2),
            }
        };
        let query = place(query, heads, self.query_norm.as_ref())?;
        let key = place(key, groups, self.key_norm.as_ref())?;
        let value = value.reshape((batch, len, groups, d))?.transpose(1, 2)?;
        let (key, value) = extend(key, value)?;
        let causal = Causal {
            offset: rotary.offset,
            window: self.window,
            starts: rotary.starts.clone(),
            softcap: c.attention_softcap,
            slopes: rotary.slopes.clone(),
            ..Causal::new(self.scale)
        };
        ops::attention(&query, &key, &value, &causal)?.reshape((rows, heads * d))
    }
}

fn normed(x: Tensor, norm: Option<&Norm>) -> candle_core::Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}
