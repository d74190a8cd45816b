//! Tensors as safetensors files hold them.
//!
//! [`Header`] is the header of one file, checked before any tensor is touched; [`Dtype`] decodes
//! elements to `f32` and encodes them; a [`View`] is a tensor's bytes with their meaning, and
//! [`Elements::read`] turns any range of it into `f32`.
//!
//! Weights of 8 bits are read together with their scales: [`ScaleMap`] finds these, and
//! [`Scales`] multiplies what was read by them. Other quantised weights are no numbers without
//! their program: [`packed()`] tells them by their names and types.
//!
//! This room knows no folders ([`checkpoint`](crate::checkpoint) does) and needs nothing of the
//! others but their errors, so that it is fuzzed alone.

mod buffer;
mod dtype;
mod elements;
mod header;
mod layer;
mod packed;
mod quantisation;
mod scales;
pub(crate) mod simd;
pub mod vector;

pub use buffer::is_buffer;
pub use dtype::Dtype;
pub use elements::{Elements, View, widen};
pub(crate) use header::Pairs;
pub use header::{Header, TensorInfo, TensorSpec};
pub use layer::layer;
pub use packed::{Packed, packed};
pub use quantisation::Quantisation;
pub use scales::{Grid, ScaleMap, Scales, Stored};

#[cfg(test)]
pub(crate) mod tests;
