//! How a merge is carried out.

use crate::error::{Error, Result};

/// How a merge is carried out; nothing here changes a byte of a tensor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct MergeOptions {
    /// Most bytes of tensors in one output file (5 GB, as Hugging Face has it).
    #[arg(long, default_value_t = MergeOptions::default().out_shard_size)]
    pub out_shard_size: u64,
    /// Elements that a thread works on at a time, rounded up to blocks of
    /// 65,536.
    #[arg(long, default_value_t = MergeOptions::default().chunk)]
    pub chunk: usize,
    /// Replace an output folder that holds a model.
    #[arg(long)]
    pub force: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            out_shard_size: 5_000_000_000,
            chunk: 1 << 18,
            force: false,
        }
    }
}

impl MergeOptions {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// A shard size or chunk of zero.
    pub fn validate(&self) -> Result<()> {
        if self.out_shard_size == 0 {
            return Err(Error::usage("`out_shard_size` must be at least 1 byte"));
        }
        if self.chunk == 0 || self.chunk > 1 << 30 {
            return Err(Error::usage("`chunk` must be from 1 to 2^30 elements"));
        }
        Ok(())
    }
}
