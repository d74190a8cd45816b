//! The parts of a layer, from its parameters by their names.

use candle_core::Tensor;

use super::feed_forward::{FeedForward, Gated, Mixture};
use super::linear::Linear;
use super::norm::Norm;
use super::qkv::Qkv;
use crate::error::{Error, Result};
use crate::model::config::{Config, FeedForwardNames, QkvNames};
use crate::model::lora::Adapter;

/// Knows the parameters of one layer.
pub(super) struct Parts<'a, F, A> {
    config: &'a Config,
    /// The number of the layer.
    index: usize,
    /// What is before the names of the layer's parts.
    prefix: String,
    /// Finds a parameter by its name in the checkpoint.
    find: F,
    /// Finds an adapter by the name of its projection.
    adapter: A,
}

impl<'a, F, A> Parts<'a, F, A>
where
    F: Fn(&str) -> Option<Tensor>,
    A: Fn(&str) -> Option<Adapter>,
{
    pub fn new(config: &'a Config, index: usize, find: F, adapter: A) -> Self {
        Self {
            config,
            index,
            prefix: format!("{}{index}.", config.names().layers),
            find,
            adapter,
        }
    }

    /// The weight of part `name`.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let name = format!("{}{name}.weight", self.prefix);
        (self.find)(&name).ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
    }

    pub fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight(name)?,
            transposed: self.config.names().transposed,
            bias: (self.find)(&format!("{}{name}.bias", self.prefix)),
            adapter: (self.adapter)(&format!("{}{name}", self.prefix)),
        })
    }

    pub fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm {
            weight: self.weight(name)?,
            bias: (self.find)(&format!("{}{name}.bias", self.prefix)),
            eps: self.config.norm_eps,
            kind: self.config.norm,
        })
    }

    pub fn optional_norm(&self, name: Option<&str>) -> Result<Option<Norm>> {
        name.map(|name| self.norm(name)).transpose()
    }

    pub fn qkv(&self, names: &QkvNames) -> Result<Qkv> {
        Ok(match names {
            QkvNames::Separate([q, k, v]) => {
                Qkv::Separate([self.linear(q)?, self.linear(k)?, self.linear(v)?])
            }
            QkvNames::Joined(name) => Qkv::Joined(self.linear(name)?),
            QkvNames::Grouped(name) => Qkv::Grouped(self.linear(name)?),
        })
    }

    fn gated(&self, [gate, up, down]: [&str; 3]) -> Result<Gated> {
        Ok(Gated {
            gate: self.linear(gate)?,
            up: self.linear(up)?,
            down: self.linear(down)?,
        })
    }

    pub fn feed_forward(&self, names: &FeedForwardNames) -> Result<FeedForward> {
        Ok(match *names {
            FeedForwardNames::Gated(names) => FeedForward::Gated(self.gated(names)?),
            FeedForwardNames::Joined([gate_up, down]) => FeedForward::Joined {
                gate_up: self.linear(gate_up)?,
                down: self.linear(down)?,
            },
            FeedForwardNames::Plain([up, down]) => FeedForward::Plain {
                up: self.linear(up)?,
                down: self.linear(down)?,
            },
            FeedForwardNames::Experts {
                router,
                experts,
                gated,
                dense,
            } => {
                let Some(shape) = self.config.experts[self.index] else {
                    return Ok(FeedForward::Gated(self.gated(dense)?));
                };
                let expert = |number: usize| {
                    let names = gated.map(|part| format!("{experts}{number}.{part}"));
                    self.gated(names.each_ref().map(String::as_str))
                };
                FeedForward::Mixture(Mixture {
                    router: self.linear(router)?,
                    experts: (0..shape.count).map(expert).collect::<Result<_>>()?,
                    per_token: shape.per_token,
                    normalised: shape.normalised,
                })
            }
        })
    }
}
