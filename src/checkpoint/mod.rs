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
//! | `carried` | the files beside the weights of a folder, and copies of them |
//! | `found` | what lies at a path where a model was expected |
//! | `weights`, `index` | safetensors checkpoints, open for reading |
//! | `encoding` | whether weights are numbers, or packed |
//! | `spelling` | tensors under other names, heads that are tied or not |
//! | `gguf` | GGUF files, open for reading |
//! | `locate` | models by path or hub id |
//! | `config` | the configuration as it was written |
//! | `digest` | which model it is |
//! | `writer`, `cells` | safetensors files that are written in any order, with their digests |
//! | `record` | what was written to the files of a folder |
//! | `swap` | finished folders put in their place |

mod beside;
mod carried;
mod cells;
mod companions;
mod config;
mod digest;
mod encoding;
mod found;
mod gguf;
mod index;
mod locate;
mod record;
mod spelling;
mod swap;
mod weights;
mod writer;

pub use beside::{TOOL_TEMPLATE, companion_json, companion_text, write_companions};
pub use carried::Companions;
pub use companions::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADDED_TOKENS, CHAT_TEMPLATE, COMPANIONS, CONFIG, Companion,
    FileKind, GENERATION, INDEX, Role, SINGLE, SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG,
    kind_of,
};
pub use config::read_config;
pub use digest::{adapter_digest, companions_digest, model_digest, tokenizer_digest};
pub use encoding::{Encoding, PackedWeights, refuse_packed, remove_quantisation};
pub use found::{Found, folder_of, has_weights};
pub use gguf::{Gguf, GgufSummary, GgufTensor, GgufType, gguf_files, is_gguf};
pub use locate::{locate, tokenizer_dir};
pub use record::{FolderRecord, RECORD};
pub use swap::{Place, Target};
pub use weights::{Checkpoint, WeightFiles, weight_files};
pub use writer::{CheckpointWriter, Layout};

#[cfg(test)]
mod tests;
