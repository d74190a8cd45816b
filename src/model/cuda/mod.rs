//! The door to NVIDIA GPUs: the one place that knows whether the program was built for them
//! (feature `cuda`).
//!
//! Both sides have the same functions: `enabled` runs our kernels, `disabled` says that nothing lies
//! on a GPU, so that its other functions are never reached. Callers ask [`holds`] and need not know
//! which side they have.

mod types;

#[cfg(not(feature = "cuda"))]
mod disabled;
#[cfg(feature = "cuda")]
mod enabled;

#[cfg(not(feature = "cuda"))]
pub(crate) use disabled::*;
#[cfg(feature = "cuda")]
pub(crate) use enabled::*;
pub use types::DeviceMemory;
pub(crate) use types::{LossRows, Step};
