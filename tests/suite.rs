//! Tests of the whole: the layering of the source, and the real binary on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod suite {
    pub mod layers;
    pub mod pipeline;
    pub mod program;
}
