//! One layer of the decoder.
//!
//! Everything is flattened to two-dimensional matrix products (a broadcast product of three
//! dimensions by two is slow in candle, and its backward worse).

use candle_core::Tensor;

use super::attention::{Causal, attention};
use super::config::{Activation, Config};
use super::decoder::Rotary;
use super::linear::Linear;
use super::lora::Adapter;
use super::ops;
use crate::error::{Error, Result};

/// Keys and values of one layer for all positions so far: (batch, heads, positions, head_dim).
pub(crate) type KeyValue = (Tensor, Tensor);

/// The parameters of one layer.
pub(crate) struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
    input_norm: Tensor,
    middle_norm: Tensor,
    query_norm: Option<Tensor>,
    key_norm: Option<Tensor>,
    window: Option<usize>,
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
        let prefix = format!("model.layers.{index}.");
        let get = |name: &str| {
            let name = format!("{prefix}{name}.weight");
            find(&name).ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
        };
        let linear = |name: &str| -> Result<Linear> {
            Ok(Linear {
                weight: get(name)?,
                bias: find(&format!("{prefix}{name}.bias")),
                adapter: adapter(&format!("{prefix}{name}")),
            })
        };
        Ok(Self {
            query: linear("self_attn.q_proj")?,
            key: linear("self_attn.k_proj")?,
            value: linear("self_attn.v_proj")?,
            output: linear("self_attn.o_proj")?,
            gate: linear("mlp.gate_proj")?,
            up: linear("mlp.up_proj")?,
            down: linear("mlp.down_proj")?,
            input_norm: get("input_layernorm")?,
            middle_norm: get("post_attention_layernorm")?,
            query_norm: find(&format!("{prefix}self_attn.q_norm.weight")),
            key_norm: find(&format!("{prefix}self_attn.k_norm.weight")),
            window: config.windows[index],
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
        let (heads, groups, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let x = x.reshape((batch * len, hidden))?;

        let normed = ops::rms_norm(&x, &self.input_norm, c.rms_norm_eps)?;
        let split = |linear: &Linear, heads: usize, norm: Option<&Tensor>| {
            let y = linear.forward(&normed)?.reshape((batch, len, heads, d))?;
            match norm {
                Some(norm) => ops::rms_norm(&y, norm, c.rms_norm_eps),
                None => Ok(y),
            }
        };
        let query = split(&self.query, heads, self.query_norm.as_ref())?;
        let key = split(&self.key, groups, self.key_norm.as_ref())?;
        let value = split(&self.value, groups, None)?;
        let query = ops::rotate_heads(&query, &rotary.cos, &rotary.sin)?;
        let key = ops::rotate_heads(&key, &rotary.cos, &rotary.sin)?;
        let value = value.transpose(1, 2)?;
        let (key, value) = extend(key, value)?;

        let causal = Causal {
            offset: rotary.offset,
            window: self.window,
            starts: rotary.starts.clone(),
            ..Causal::new(1.0 / (d as f64).sqrt())
        };
        let mixed = attention(&query, &key, &value, &causal)?.reshape((batch * len, heads * d))?;
        let x = (x + self.output.forward(&mixed)?)?;

        let normed = ops::rms_norm(&x, &self.middle_norm, c.rms_norm_eps)?;
        let (gate, up) = (self.gate.forward(&normed)?, self.up.forward(&normed)?);
        let inner = match c.activation {
            Activation::Silu => ops::swiglu(&gate, &up)?,
            Activation::Gelu => (gate.gelu_erf()? * up)?,
            Activation::GeluTanh => (gate.gelu()? * up)?,
        };
        (x + self.down.forward(&inner)?)?.reshape((batch, len, hidden))
    }
}
