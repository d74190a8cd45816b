//! Devices by name, and their memory.

use candle_core::Device;

use super::cuda::{self, DeviceMemory};
use crate::error::{Context, Error, Result};

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
    cuda::open(ordinal.ok_or_else(|| {
        Error::usage(format!(
            "device: expected `cpu`, `cuda` or `cuda:N`, found `{spec}`"
        ))
    })?)
}

/// Memory of `device`, `None` for the CPU. Waits for all work so far.
///
/// # Errors
/// Those of the driver.
pub fn device_memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        Device::Cuda(gpu) => {
            let memory = device.synchronize().and_then(|()| cuda::memory(gpu));
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
