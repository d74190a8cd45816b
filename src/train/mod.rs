//! Training a model on samples, and on what other models say about them.
//!
//! ```text
//!  tokens, targets ──reading thread──► steps of micro batches (bounded channel)
//!                                              │
//!           ┌──────────────────────────────────┤ workers, one micro batch each
//!           ▼                                  ▼
//!   decoder forward ─► loss at the head ─► decoder backward ─► Σ in order ─► clip, AdamW
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `options` | what can be set |
//! | `order` | which samples make up which step |
//! | `data` | the reading thread: samples, targets, micro batches |
//! | `rows`, `loss` | what is learnt at each position; the loss and its gradient at the head |
//! | `gradient`, `passes`, `gradients` | one micro batch, the decoder forward and back, and the sum of all |
//! | `workers` | micro batches side by side, results in order |
//! | `optim`, `schedule`, `groups` | AdamW, learning rate, which parameters learn how |
//! | `stopping` | the best validation, and early stopping |
//! | `memory` | what a training will need, said and checked before it |
//! | `batching` | how a step is divided, and how much is computed side by side |
//! | `run`, `prepare`, `trainer` | the stage; what is checked and loaded before; the loop |
//! | `checkpoint`, `steps` | the state of an unfinished training, the log |
//!
//! The result is the same for any number of threads, and bit by bit the same after an
//! interruption, on a CPU.
//!
//! # Memory
//! 4 bytes a parameter in f32, 12 for each that is trained (gradient, two moments), 4 more for each
//! worker; the activations of a micro batch for each worker; what [`data`] says.

pub mod batching;
pub mod checkpoint;
pub mod data;
pub mod gradient;
pub mod gradients;
pub mod groups;
pub mod loss;
mod memory;
pub mod optim;
mod options;
pub mod order;
mod passes;
mod prepare;
pub mod rows;
mod run;
pub mod schedule;
mod state_file;
pub mod steps;
pub mod stopping;
mod trainer;
pub mod workers;

use std::path::PathBuf;

use candle_core::Device;
use serde_json::{Map, Value};

pub use groups::ParamGroup;
pub use options::{
    Checkpointing, LoraOptions, LoraTargets, Method, MicroBatchTokens, Precision, TrainOptions,
};
pub use rows::Tail;
pub use schedule::Schedule;

/// The weights that a training starts from.
#[derive(Clone, Debug)]
pub enum Init {
    /// A Hugging Face model folder; the trained model takes its tokenizer and settings over.
    Model(PathBuf),
    /// Random weights, drawn from the seed, in the shape of a `config.json`; the trained model
    /// takes over the tokenizer of `tokenizer`.
    Random {
        /// The object in `config.json`.
        config: Map<String, Value>,
        /// A folder with the tokenizer and its settings.
        tokenizer: PathBuf,
    },
}

/// The stage: what a training reads and writes.
#[derive(Clone, Debug)]
pub struct Train {
    /// The model to start from.
    pub pivot: Init,
    /// The `tokens` artifact, in the pivot's vocabulary.
    pub tokens: PathBuf,
    /// The `targets` artifact; without it, or with `lambda` 1, the next token is all that is learnt.
    pub targets: Option<PathBuf>,
    /// A `tokens` artifact whose loss is logged after each epoch.
    pub valid_tokens: Option<PathBuf>,
    /// The model folder to write. Beside it, `<out>.state` holds the state of an unfinished
    /// training.
    pub out: PathBuf,
    /// The `steps` artifact to write.
    pub steps_out: PathBuf,
    /// Name of the target, for messages.
    pub name: String,
    /// Where to compute.
    pub device: Device,
    /// How.
    pub options: TrainOptions,
}

/// What a training did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainSummary {
    /// Optimiser steps, also those before an interruption.
    pub steps: u64,
    /// Positions that the model read in all of them, without padding.
    pub tokens: u64,
    /// Trained parameters.
    pub parameters: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Validation loss of what was written, nats per token.
    pub valid_loss: Option<f64>,
    /// The step that was written, if it is not the last.
    pub best_step: Option<u64>,
    /// Whether the training ended before its last step, because validation no longer improved.
    pub stopped_early: bool,
    /// Whether an interrupted training was continued.
    pub resumed: bool,
    /// Share of the time in which the trainer waited for samples.
    pub waiting: f64,
    /// Share of the computed positions that were padding.
    pub padding: f64,
    /// Tokens per second of this process.
    pub tokens_per_second: f64,
}

#[cfg(test)]
mod tests;
