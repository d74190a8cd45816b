//! Merging checkpoints of one architecture, by weights alone.
//!
//! ```text
//! YAML ──► MergeConfig ──► plan() ──► Plan (Display) ──► run() ──► checkpoint, MergeSummary
//! ```
//!
//! [`methods`] is the table of methods and their parameters; [`MergeConfig`] reads mergekit's
//! YAML strictly; [`plan()`] opens all inputs and checks every tensor before a byte is written;
//! [`run()`] goes through the tensors one by one, each in fixed blocks shared out over the
//! threads, and writes into a folder beside the output that is renamed at the end.
//!
//! * Arithmetic is in `f32`, sums are in `f64` over fixed blocks: the same bytes for any number
//!   of threads and any chunk size.
//! * Memory is bounded by threads × models, not by the size of a tensor or a model.
//! * A killed merge continues at the tensor where it stopped.
//! * 8-bit weights are read as the numbers they stand for ([`ScaleMap`](crate::tensors::ScaleMap)).
//! * A number that is infinite or NaN, in an input or in what would be written, is an error.

mod blocks;
mod config;
mod fingerprint;
mod inputs;
mod journal;
mod kernels;
mod matching;
pub mod methods;
mod output;
mod plan;
mod run;
mod select;
mod shapes;
mod single;
mod stage;
mod stats;
mod vector;
mod vocabulary;

pub use config::{MergeConfig, Scalar, Setting, Settings, Slice, Source};
pub use plan::{MergeOptions, Plan, plan};
pub use run::{MergeStat, MergeSummary, run, run_observed};
pub use single::merge_elements;
pub use stage::Merge;
pub use stats::write_stats;
pub use vocabulary::{TokenConfig, TokenSource, TokenizerConfig, TokenizerSource};

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
