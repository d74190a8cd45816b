//! The GPU of a program that was built without CUDA: nothing lies on it.

use candle_core::{CudaDevice, Device, Result, Tensor, bail};

use super::types::{DeviceMemory, HeadLoss, LossRows, NextTokens, Step};
use crate::error::Error;
use crate::model::causal::{Causal, Sizes};
use crate::model::config::{Activation, NormKind};
use crate::model::head::Head;

/// No tensor lies on a GPU.
pub(crate) fn holds(_: &Tensor) -> bool {
    false
}

/// Says that there is no GPU number `ordinal`.
pub(crate) fn open(ordinal: usize) -> crate::error::Result<Device> {
    Err(Error::usage(format!(
        "device `cuda:{ordinal}` is not available: this program was built without CUDA"
    ))
    .remedy("use `--device cpu`, or build with `--features cuda` (docs/cuda.md)"))
}

/// Functions that no tensor reaches.
macro_rules! unreached {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {$(
        pub(crate) fn $name($(_: $arg),*) -> Result<$out> {
            bail!("`{}`: this program was built without CUDA", stringify!($name))
        }
    )*};
}

unreached! {
    memory(&CudaDevice) -> DeviceMemory;
    attention([&Tensor; 3], &Causal, Sizes) -> Tensor;
    embed(&Tensor, &Tensor) -> Tensor;
    gated(&Tensor, &Tensor, Activation) -> Tensor;
    linear(&Tensor, &Tensor) -> Tensor;
    norm(&Tensor, &Tensor, NormKind, f64) -> Tensor;
    rotate_heads(&Tensor, &Tensor, &Tensor) -> Tensor;
    scatter_rows(&Tensor, &Tensor, usize) -> Tensor;
    spread_rows(&Tensor, &Tensor, usize) -> Tensor;
    take_rows(&Tensor, &Tensor) -> Tensor;
    next_tokens(&Tensor, &Head, &[u32], usize, usize) -> NextTokens;
    head_loss(&Tensor, &Head, &LossRows, Option<(f64, f64)>) -> HeadLoss;
    accumulate(&Tensor, &Tensor) -> ();
    norm_of_all(&[&Tensor]) -> f64;
    adamw(&Tensor, Option<&Tensor>, [&Tensor; 2], Option<&Tensor>, Step) -> ();
}
