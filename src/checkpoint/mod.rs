//! Model folders: what they hold, and how they are found, read, written and put in their place.
//!
//! Reading: [`Checkpoint::open`] maps a single `model.safetensors`, the shards of a
//! `model.safetensors.index.json`, or one safetensors file (an adapter's), and checks every header
//! once; afterwards a [`View`](crate::tensors::View) is a slice of the map. Nothing is held in
//! memory beyond the headers (about 200 bytes per tensor). A [`Gguf`] file is mapped in the same way.
//!
//! Writing: [`Layout`] computes shards, headers and offsets before the first byte, and
//! [`CheckpointWriter`] writes bytes at their final place, in any order and from any thread. A
//! [`Target`] is where the folder will be, a [`Place`] has its lock and puts it there with a
//! [`FolderRecord`] of what was written.
//!
//! | file | holds |
//! |---|---|
//! | `companions` | the names of files, what depends on each |
//! | `weights`, `index` | safetensors checkpoints, open for reading |
//! | `gguf` | GGUF files, open for reading |
//! | `locate` | models by path or hub id |
//! | `config` | the configuration as it was written |
//! | `digest` | which model it is |
//! | `writer`, `cells` | safetensors files that are written in any order, with their digests |
//! | `record` | what was written to the files of a folder |
//! | `swap` | finished folders put in their place |

mod beside;
mod cells;
mod companions;
mod config;
mod digest;
mod gguf;
mod index;
mod locate;
mod record;
mod swap;
mod weights;
mod writer;

pub use beside::{TOOL_TEMPLATE, companion_json, companion_text, write_companions};
pub use companions::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADDED_TOKENS, CHAT_TEMPLATE, COMPANIONS, CONFIG, Companion,
    GENERATION, INDEX, Role, SINGLE, SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG,
    copy_companions,
};
pub use config::read_config;
pub use digest::{adapter_digest, companions_digest, has_weights, model_digest, tokenizer_digest};
pub use gguf::{Gguf, GgufTensor, gguf_files, is_gguf};
pub use locate::{locate, tokenizer_dir};
pub use record::{FolderRecord, RECORD};
pub use swap::{Place, Target};
pub use weights::{Checkpoint, weight_files};
pub use writer::{CheckpointWriter, Layout};

#[cfg(test)]
mod tests;
