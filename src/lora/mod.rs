//! LoRA adapters (Hu et al., arXiv 2106.09685) in PEFT's format.
//!
//! An adapted matrix W counts as W + s · B A, where A (rank × in) and B (out × rank) are thin.
//! What is known of adapters is known here and nowhere else:
//!
//! | file | holds |
//! |---|---|
//! | `config` | `adapter_config.json`: what it says, read and written |
//! | `names` | the names of tensors, and which modules a name stands for |
//! | `low_rank` | W + s · B A, and DoRA's rows |
//! | `adapter` | a folder that is open for reading, checked against a model |
//! | `apply` | the tensors of the model with it |
//! | `split`, `path` | `BASE+ADAPTER`, which is a model wherever one is named |
//! | `write` | a folder that is written |
//! | `extract`, `svd` | the difference of two models as an adapter |
//!
//! Merging and predicting read a model's tensors through an [`Adapter`]; training keeps A and B
//! apart (`model::lora`) and writes them with an [`AdapterWriter`].

mod adapter;
mod apply;
mod config;
mod extract;
mod low_rank;
mod names;
mod path;
mod split;
mod svd;
mod write;

pub use adapter::{Adapter, ShapeOf};
pub use config::{LoraConfig, Pattern};
pub use extract::{ExtractOptions, Extracted, extract};
pub use low_rank::Update;
pub use names::{Module, halves, names_module};
pub use path::{ModelPath, locate};
pub use split::split;
pub use write::AdapterWriter;
