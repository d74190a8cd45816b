//! Fuses the knowledge of several large language models into one, offline.
//!
//! Every expensive result (top-k distributions, alignments, vocabulary maps, training targets)
//! is materialised once as a checked Parquet artifact in a run folder, can be inspected with
//! SQL, and is reused by later runs. No two models are ever in memory at the same time.
//!
//! Data flows one way; each layer imports only the layers below it. `ARCHITECTURE.md` lists them.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stderr
    )
)]

mod contain;
pub mod error;
pub mod memory;
pub mod progress;
pub mod units;

pub mod artifact;
pub mod checkpoint;
pub mod files;
pub mod lora;
pub mod model;
pub mod tensors;
pub mod text;
pub mod vocab;

pub mod stage;

pub mod query;

pub mod align;
pub mod convert;
pub mod corpus;
pub mod eval;
pub mod export;
pub mod fuse;
pub mod import;
pub mod mapping;
pub mod merge;
pub mod project;
pub mod score;
pub mod train;

pub mod recipe;
