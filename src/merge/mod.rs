//! Merging checkpoints of one architecture, by weights alone.
//!
//! ```text
//! YAML ──► MergeConfig ──► plan() ──► Plan (Display) ──► run() ──► checkpoint, MergeSummary
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | `arithmetic` | the numbers of one tensor: walks in fixed blocks, sums, selections |
//! | [`methods`] | the table of methods: each with its parameters and its kernel |
//! | `config` | what the user wrote: mergekit's YAML, read strictly |
//! | `tie`, `inputs` | the models' tensors, with scales and adapters applied |
//! | `stacks`, `follow` | the models' layers; a configuration that follows the output's |
//! | `vocabulary` | the output's tokens, and the rows of embeddings placed by token |
//! | `plan` | every tensor of the output, checked before a byte is written; `fingerprint` |
//! | `run` | goes through the tensors, each in blocks shared out over the threads; `journal`, `output`, `template` |
//! | `single`, `stats`, `stage` | one tensor from anywhere; `merge_stats`; the stage |
//!
//! Each part imports only those above it. [`run()`] writes into a folder beside the output that is
//! renamed at the end. To add a method, see [`methods`].
//!
//! * Arithmetic is in `f32`, sums are in `f64` over fixed blocks: the same bytes for any number
//!   of threads and any chunk size.
//! * Memory is bounded by threads × models, not by the size of a tensor or a model.
//! * A killed merge continues at the tensor where it stopped.
//! * 8-bit weights are read as the numbers they stand for ([`ScaleMap`](crate::tensors::ScaleMap)).
//! * A number that is infinite or NaN, in an input or in what would be written, is an error.

mod arithmetic;
mod config;
mod fingerprint;
mod follow;
mod inputs;
mod journal;
pub mod methods;
mod output;
mod plan;
mod run;
mod single;
mod stacks;
mod stage;
mod stats;
mod template;
mod tie;
mod vocabulary;

pub use arithmetic::Output;
pub use config::{
    ChatTemplate, MergeConfig, Setting, Settings, Slice, Source, TokenConfig, TokenSource,
    TokenizerConfig, TokenizerSource,
};
pub use plan::{MergeOptions, Plan, plan};
pub use run::{MergeStat, MergeSummary, run, run_observed};
pub use single::{TensorInputs, merge_elements};
pub use stage::Merge;
pub use stats::write_stats;

#[cfg(test)]
mod tests;
