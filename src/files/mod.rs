//! Files: written whole or not at all, known by their digests, and compared later with what was
//! written to them.
//!
//! Digests and lengths are taken while the bytes go by and kept beside the result: each part of an
//! artifact has a side file of its own ([`artifact`](crate::artifact) says more), a checkpoint
//! folder has one file for all ([`checkpoint`](crate::checkpoint)). Damage that no format would
//! notice, a flipped bit in a page of numbers or in a weight, is then found by reading the files
//! once, at about the speed of the disk: `fuselm check RUN` and `fuselm run RECIPE --verify`.
//!
//! | file | holds |
//! |---|---|
//! | `ancestor` | the folder that a path not yet written lies in |
//! | `atomic` | whole files or none |
//! | `digest` | digests of texts and files, cached |
//! | `hashing` | a writer that takes the digest of what it writes, and the digest of a file |
//! | `host` | which machine this is, and names that no other process makes |
//! | `json` | JSON files |
//! | `lease` | what one of several processes works on, also on several machines |
//! | `lock` | locks that end with their process |
//! | `parquet` | opening Parquet files that may be anything |
//! | `spelling` | numbers of JSON as they were written |
//! | `stamp` | whether a file can have changed since it was last read, without reading it |
//! | `verify` | many files compared with their records, in parallel |
//! | `yaml` | YAML, as PyYAML reads it and with lines |

mod ancestor;
pub mod atomic;
pub mod digest;
mod hashing;
mod host;
mod json;
mod lease;
mod lock;
mod parquet;
mod spelling;
mod stamp;
#[cfg(test)]
mod tests;
mod verify;
mod yaml;

use serde::{Deserialize, Serialize};

pub(crate) use ancestor::existing_ancestor;
pub(crate) use hashing::{Hashing, digest_of_file, digest_of_path, hex};
pub(crate) use json::{edit_json, json_line, numbers_as_strings};
pub use json::{json_text, read_json, read_object};
pub use lease::{Holder, Lease, Seen, Taken, Watch};
pub use lock::{Lock, beside, is_forbidden, lock_holder};
pub(crate) use parquet::{
    Bounded, ParquetBatches, open_parquet, parquet_batches, parquet_builder, parquet_metadata,
};
pub use stamp::Stamp;
pub(crate) use verify::check_length;
pub use verify::{Claim, verify};
pub(crate) use yaml::{Lines, read_located, read_yaml};

/// What was written to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// Its digest: 32 hexadecimal digits.
    pub digest: String,
    /// What the digest is of.
    #[serde(default, skip_serializing_if = "Of::is_bytes")]
    pub of: Of,
}

/// What a digest is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The file's bytes, from front to back.
    #[default]
    Bytes,
    /// The header and the tensors of a safetensors file ([`checkpoint`](crate::checkpoint)).
    Tensors,
}

impl Of {
    // What serde asks for takes a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_bytes(&self) -> bool {
        *self == Of::Bytes
    }
}
