//! Kernel launches.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Result, bail};

/// Kernels of one file.
pub(super) struct Module {
    name: &'static str,
    ptx: &'static str,
}

macro_rules! module {
    ($name:literal) => {
        Module {
            name: concat!("fuselm_", $name),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}

pub(super) const OPS: Module = module!("ops");
pub(super) const ATTENTION: Module = module!("attention");
pub(super) const VOCABULARY: Module = module!("vocabulary");
pub(super) const OPTIM: Module = module!("optim");

/// An argument of a kernel, as the kernel declares it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    /// Any pointer; 0 is null.
    Pointer(u64),
    /// `i64`.
    Long(i64),
    /// `int`.
    Int(i32),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
}

/// A size or an offset.
pub(super) fn long(value: usize) -> Arg {
    Arg::Long(value as i64)
}

/// Blocks, and threads in each (a multiple of 32, at most 1024).
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    blocks: (usize, usize),
    threads: usize,
}

impl Grid {
    /// One thread per element; beyond some point threads do several.
    pub fn elements(count: usize) -> Self {
        const THREADS: usize = 256;
        Self {
            blocks: (count.div_ceil(THREADS).min(1 << 20), 1),
            threads: THREADS,
        }
    }

    /// One block per row, with a thread for every few elements of the `width`.
    pub fn rows(rows: usize, width: usize) -> Self {
        Self {
            blocks: (rows, 1),
            threads: (width / 4).next_multiple_of(32).clamp(32, 512),
        }
    }

    /// `x` times `y` blocks.
    pub fn blocks(x: usize, y: usize, threads: usize) -> Self {
        Self {
            blocks: (x, y),
            threads,
        }
    }
}

/// The kernel's name for arguments of type `dtype`.
pub(super) fn typed(kernel: &str, dtype: DType) -> Result<String> {
    let suffix = match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => bail!("`{kernel}` has no kernel for {dtype:?}; use f32, bf16 or f16"),
    };
    Ok(format!("{kernel}_{suffix}"))
}

/// Asks for `kernel` to be run; nothing is done where there are no blocks.
///
/// # Safety
/// The arguments are those that the kernel declares, and their memory is as large as it reads and
/// writes.
pub(super) unsafe fn launch(
    device: &CudaDevice,
    module: &Module,
    kernel: &str,
    grid: Grid,
    args: &[Arg],
) -> Result<()> {
    // The limits of the hardware.
    let (x, y) = grid.blocks;
    if x == 0 || y == 0 {
        return Ok(());
    }
    if x > i32::MAX as usize || y > u16::MAX as usize {
        bail!("`{kernel}` on {x} x {y} blocks is more than a GPU takes; use smaller batches");
    }
    let function = device.get_or_load_custom_func(kernel, module.name, module.ptx)?;
    let mut builder = function.builder();
    for arg in args {
        match arg {
            Arg::Pointer(value) => builder.arg(value),
            Arg::Long(value) => builder.arg(value),
            Arg::Int(value) => builder.arg(value),
            Arg::Float(value) => builder.arg(value),
            Arg::Double(value) => builder.arg(value),
        };
    }
    let config = LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (grid.threads as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: as promised by the caller.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The `cpu_fwd` of an operation for GPUs, with the types of its arguments.
macro_rules! gpu_only {
    ($($arg:ty),*) => {
        fn cpu_fwd(&self, $(_: $arg),*) -> Result<(CpuStorage, Shape)> {
            candle_core::bail!("this operation is for GPUs")
        }
    };
}
pub(super) use gpu_only;
