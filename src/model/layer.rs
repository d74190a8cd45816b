//! One layer of the decoder.
//!
//! Everything is flattened to two-dimensional matrix products (a broadcast product of three
//! dimensions by two is slow in candle, and its backward worse).

use candle_core::Tensor;

use super::attention::{Causal, attention};
use super::config::Config;
use super::decoder::Rotary;
use super::experts::Mixture;
use super::feed_forward::{FeedForward, Gated};
use super::linear::Linear;
use super::names::{FeedForwardNames, HEAD_NORMS, QkvNames};
use super::norm::Norm;
use super::ops;
use super::qkv::Qkv;
use crate::error::{Error, Result};

/// Keys and values of one layer for all positions so far: (batch, heads, positions, head_dim).
pub(crate) type KeyValue = (Tensor, Tensor);

/// The parameters of one layer.
pub(crate) struct Layer {
    qkv: Qkv,
    output: Linear,
    feed_forward: FeedForward,
    input_norm: Norm,
    attention_norm: Option<Norm>,
    middle_norm: Norm,
    feed_forward_norm: Option<Norm>,
    query_norm: Option<Tensor>,
    key_norm: Option<Tensor>,
    window: Option<usize>,
}

impl Layer {
    /// Layer `index` of `config` from the parameters that `find` knows by their names.
    ///
    /// # Errors
    /// `find` does not know a parameter.
    pub fn assemble(
        config: &Config,
        index: usize,
        find: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<Self> {
        let names = config.names();
        let prefix = format!("{}{index}.", names.layers);
        let get = |name: &str| {
            let name = format!("{prefix}{name}.weight");
            find(&name).ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
        };
        let linear = |name: &str| -> Result<Linear> {
            Ok(Linear {
                weight: get(name)?,
                bias: find(&format!("{prefix}{name}.bias")),
            })
        };
        let gated = |gate: &str, up: &str, down: &str| -> Result<Gated> {
            Ok(Gated {
                gate: linear(gate)?,
                up: linear(up)?,
                down: linear(down)?,
            })
        };
        let norm = |name: &str| -> Result<Norm> {
            Ok(Norm {
                weight: get(name)?,
                eps: config.norm_eps,
                kind: config.norm,
            })
        };
        let [query_norm, key_norm] = match config.qk_norm {
            true => [Some(get(HEAD_NORMS[0])?), Some(get(HEAD_NORMS[1])?)],
            false => [None, None],
        };
        Ok(Self {
            qkv: match &names.qkv {
                QkvNames::Separate([q, k, v]) => {
                    Qkv::Separate([linear(q)?, linear(k)?, linear(v)?])
                }
                QkvNames::Joined(name) => Qkv::Joined(linear(name)?),
                QkvNames::Grouped(name) => Qkv::Grouped(linear(name)?),
            },
            output: linear(names.output)?,
            feed_forward: match &names.feed_forward {
                FeedForwardNames::Gated([gate, up, down]) => {
                    FeedForward::Gated(gated(gate, up, down)?)
                }
                FeedForwardNames::Joined([gate_up, down]) => FeedForward::Joined {
                    gate_up: linear(gate_up)?,
                    down: linear(down)?,
                },
                FeedForwardNames::Plain([up, down]) => FeedForward::Plain {
                    up: linear(up)?,
                    down: linear(down)?,
                },
                FeedForwardNames::Experts {
                    router,
                    experts,
                    gated: [gate, up, down],
                } => {
                    let shape = config.experts.unwrap_or_default();
                    let expert = |number: usize| {
                        let name = |part: &str| format!("{experts}{number}.{part}");
                        gated(&name(gate), &name(up), &name(down))
                    };
                    FeedForward::Mixture(Mixture {
                        router: linear(router)?,
                        experts: (0..shape.count).map(expert).collect::<Result<_>>()?,
                        per_token: shape.per_token,
                    })
                }
            },
            input_norm: norm(names.input_norm)?,
            attention_norm: names.attention_norm.map(norm).transpose()?,
            middle_norm: norm(names.middle_norm)?,
            feed_forward_norm: names.feed_forward_norm.map(norm).transpose()?,
            query_norm,
            key_norm,
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

        let [query, key, value] = self.qkv.forward(c, &self.input_norm.forward(&x)?)?;
        let place = |y: Tensor, heads: usize, norm: Option<&Tensor>| {
            let y = match norm {
                Some(norm) => ops::rms_norm(&y, norm, c.norm_eps)?,
                None => y,
            };
            let y = y.reshape((batch, len, heads, d))?;
            match &rotary.tables {
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
            scale: c.attention_scale,
        };
        let mixed = attention(&query, &key, &value, &causal)?.reshape((batch * len, heads * d))?;
        let mixed = normed(self.output.forward(&mixed)?, self.attention_norm.as_ref())?;
        let x = (x + mixed)?;

        let inner = self.middle_norm.forward(&x)?;
        let inner = self.feed_forward.forward(&inner, c.activation)?;
        let inner = normed(inner, self.feed_forward_norm.as_ref())?;
        (x + inner)?.reshape((batch, len, hidden))
    }
}

fn normed(x: Tensor, norm: Option<&Norm>) -> candle_core::Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}
