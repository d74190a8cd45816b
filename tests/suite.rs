//! Tests of the whole: the layering of the source, and the real binary on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod suite {
    pub mod adapter_cases;
    pub mod adapters;
    pub mod bad_artifacts;
    pub mod bad_input;
    pub mod bad_weights;
    pub mod captures;
    pub mod command_line;
    pub mod content;
    pub mod convert;
    pub mod damage;
    pub mod exchange;
    pub mod f8;
    pub mod folders;
    pub mod full_disk;
    pub mod generation;
    pub mod gguf;
    pub mod hostile;
    pub mod killed;
    pub mod layers;
    pub mod limits;
    pub mod measures;
    pub mod merge_memory;
    pub mod moments;
    pub mod offload;
    pub mod other_programs;
    pub mod pairs;
    pub mod pipeline;
    pub mod program;
    pub mod readable;
    pub mod readings;
    pub mod readme;
    pub mod rows;
    pub mod sampled;
    pub mod shards;
    pub mod shared_models;
    pub mod steps;
    pub mod variants;
    pub mod vocabularies;
}
