//! LoRA adapters (Hu et al., arXiv 2106.09685) in PEFT's format.
//!
//! An adapted matrix W counts as W + s · B A, where A (rank × in) and B (out × rank) are thin.
//! What is known of adapters is known here and nowhere else:
//!
//! | file | holds |
//! |---|---|
//! | `settings` | every key of `adapter_config.json`, and what becomes of it |
//! | `read`, `targets`, `expression` | what the settings say: ranks, strengths, which modules |
//! | `config`, `write` | a folder that is written |
//! | `names` | the names of tensors, and which modules a name stands for |
//! | `base` | what is known of the model that an adapter is for |
//! | `low_rank` | W + s · B A, and DoRA's rows |
//! | `adapter`, `open` | a folder that is open for reading |
//! | `sort`, `complete`, `parameters`, `parts`, `check` | what its tensors are to the model, and whether they fit |
//! | `apply`, `begin` | the tensors of the model with it |
//! | `split`, `path` | `BASE+ADAPTER`, which is a model wherever one is named |
//! | `extract`, `difference`, `svd` | the difference of two models as an adapter |
//!
//! Merging and predicting read a model's tensors through an [`Adapter`]; training keeps A and B
//! apart (`model::lora`) and writes them with an [`AdapterWriter`].

mod adapter;
mod apply;
mod base;
mod begin;
mod check;
mod complete;
mod config;
mod difference;
mod expression;
mod extract;
mod low_rank;
mod names;
mod open;
mod parameters;
mod parts;
mod path;
mod read;
mod settings;
mod sort;
mod split;
mod svd;
mod targets;
mod write;

pub use adapter::Adapter;
pub use base::Base;
pub use config::LoraConfig;
pub use extract::{ExtractOptions, Extracted, Form, extract};
pub use low_rank::Update;
pub use names::{Module, halves, names_module};
pub use path::{ModelPath, locate};
pub use split::split;
pub use write::AdapterWriter;

#[cfg(test)]
mod tests;
