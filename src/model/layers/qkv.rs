//! Projections to queries, keys and values.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use crate::model::config::Config;

/// The projections, in a checkpoint's layout.
pub(crate) enum Qkv {
    /// A matrix for each.
    Separate([Linear; 3]),
    /// All queries, all keys, all values.
    Joined(Linear),
    /// For each key/value head: its queries, its key, its value.
    Grouped(Linear),
}

impl Qkv {
    /// `x` (rows, hidden) to queries (rows, heads, head_dim), keys and values (rows, key/value
    /// heads, head_dim).
    pub fn forward(&self, c: &Config, x: &Tensor) -> Result<[Tensor; 3]> {
        let (heads, groups, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let rows = x.dim(0)?;
        let clip = |y: Tensor| match c.qkv_clip {
            Some(clip) => y.clamp(-clip, clip),
            None => Ok(y),
        };
        // Parts of (rows, parts, d), counted in `d`s, to (rows, count, d).
        let [q, k, v] = match self {
            Self::Separate([q, k, v]) => [q.forward(x)?, k.forward(x)?, v.forward(x)?],
            Self::Joined(linear) => {
                let y = linear.forward(x)?;
                [
                    y.narrow(1, 0, heads * d)?,
                    y.narrow(1, heads * d, groups * d)?,
                    y.narrow(1, (heads + groups) * d, groups * d)?,
                ]
            }
            Self::Grouped(linear) => {
                let share = heads / groups;
                let y = linear.forward(x)?.reshape((rows, groups, share + 2, d))?;
                [
                    y.narrow(2, 0, share)?,
                    y.narrow(2, share, 1)?,
                    y.narrow(2, share + 1, 1)?,
                ]
            }
        };
        Ok([
            clip(q.reshape((rows, heads, d))?)?,
            clip(k.reshape((rows, groups, d))?)?,
            clip(v.reshape((rows, groups, d))?)?,
        ])
    }
}
