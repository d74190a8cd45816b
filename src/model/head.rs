//! What turns hidden states into logits.

use candle_core::Tensor;

use super::config::Config;
use crate::error::Result;

/// The head of a model.
#[derive(Clone, Debug)]
pub struct Head {
    /// (vocabulary, hidden size).
    pub weight: Tensor,
    /// Logits z become c · tanh(z / c), for this c.
    pub softcap: Option<f64>,
}

impl Head {
    /// The head of `config`; `get` knows the parameters that belong to no layer.
    pub(crate) fn of(config: &Config, get: impl Fn(&str) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            weight: get(config.head_name())?,
            softcap: config.final_softcap,
        })
    }
}
