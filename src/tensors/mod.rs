//! Checkpoints on disk: Hugging Face folders of safetensors files.
//!
//! Reading: [`Checkpoint::open`] maps a single `model.safetensors` or the shards of a
//! `model.safetensors.index.json` and checks every header once; afterwards a [`View`] is a
//! slice of the map, and [`Elements::read`] turns any range of it into `f32`. Nothing is held
//! in memory beyond the headers (about 200 bytes per tensor).
//!
//! Weights of 8 bits are read together with their scales: [`ScaleMap`] finds these, and
//! [`Scales`] multiplies what was read by them.
//!
//! Writing: [`Layout`] computes shards, headers and offsets before the first byte, and
//! [`CheckpointWriter`] writes bytes at their final place, in any order and from any thread.

mod checkpoint;
mod dtype;
mod header;
mod layer;
mod scales;
pub(crate) mod simd;
pub mod vector;
mod writer;

pub use checkpoint::{Checkpoint, Elements, View};
pub use dtype::Dtype;
pub use header::{Header, MAX_HEADER_BYTES, TensorInfo};
pub use layer::layer;
pub use scales::{Grid, Quantisation, ScaleMap, Scales, Stored};
pub use writer::{CheckpointWriter, Layout, TensorSpec};

#[cfg(test)]
pub(crate) mod tests;
