//! Devices by name, and their memory.

use candle_core::Device;

#[cfg(feature = "cuda")]
use crate::error::Context;
use crate::error::{Error, Result};

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// All of it.
    pub total: u64,
    /// What no program has taken.
    pub free: u64,
    /// The most that this program's tensors took at one time since this was last asked.
    pub peak: u64,
}

/// The device named by `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// The name is none of these, or this build or machine has no such GPU.
pub fn device(spec: &str) -> Result<Device> {
    if spec == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match spec.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
        None => None,
    };
    open(ordinal.ok_or_else(|| {
        Error::usage(format!(
            "device: expected `cpu`, `cuda` or `cuda:N`, found `{spec}`"
        ))
    })?)
}

#[cfg(feature = "cuda")]
fn open(ordinal: usize) -> Result<Device> {
    super::cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn open(ordinal: usize) -> Result<Device> {
    Err(Error::usage(format!(
        "device `cuda:{ordinal}` is not available: this program was built without CUDA"
    ))
    .remedy("use `--device cpu`, or build with `--features cuda` (docs/cuda.md)"))
}

/// Memory of `device`, `None` for the CPU. Waits for all work so far.
///
/// # Errors
/// Those of the driver.
pub fn device_memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let memory = device
                .synchronize()
                .and_then(|()| super::cuda::memory(cuda));
            memory
                .during(|| "asking for the GPU's memory".to_owned())
                .map(Some)
        }
        _ => Ok(None),
    }
}

/// Bytes that can still be allocated on `device`; none if that is not known.
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => crate::memory::free_memory(),
        _ => Some(device_memory(device).ok()??.free),
    }
}
