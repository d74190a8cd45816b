//! Opening a device.

use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::{CudaDevice, Device, Tensor};

use crate::error::{Error, Result};
use crate::model::cuda::types::DeviceMemory;

/// Whether `tensor` lies on a GPU.
pub(crate) fn holds(tensor: &Tensor) -> bool {
    tensor.device().is_cuda()
}

/// Opens GPU number `ordinal`.
///
/// # Errors
/// The driver or a library is missing, there is no such GPU, or it cannot be used.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let unavailable = |reason: String, remedy: &str| {
        Error::usage(format!(
            "device `cuda:{ordinal}` is not available: {reason}"
        ))
        .remedy(remedy)
    };
    if let Some(library) = missing_library() {
        let remedy = match library {
            "libcuda" => "install NVIDIA's driver, or use `--device cpu`",
            _ => {
                "install the CUDA libraries, or add the folder that has them to LD_LIBRARY_PATH \
                 (PyTorch brings them in `nvidia/cu13/lib`)"
            }
        };
        return Err(unavailable(
            format!("the library {library} was not found"),
            remedy,
        ));
    }
    let count = CudaContext::device_count().map_err(|error| {
        unavailable(
            format!("the driver reports: {}", describe(&error)),
            "check `nvidia-smi`, or use `--device cpu`",
        )
    })?;
    if ordinal >= count.max(0) as usize {
        let found = match count {
            0 => "there is no NVIDIA GPU".to_owned(),
            1 => "there is one GPU, `cuda:0`".to_owned(),
            _ => format!("there are {count} GPUs, `cuda:0` to `cuda:{}`", count - 1),
        };
        return Err(unavailable(found, "use one that exists, or `--device cpu`"));
    }
    // One stream for all threads: the default would be one for each, unordered among themselves.
    let device = Device::new_cuda_with_stream(ordinal)
        .map_err(|error| unavailable(error.to_string(), "check `nvidia-smi`"))?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: there is one stream only, which is all that tracking would order.
        unsafe { cuda.disable_event_tracking() };
        keep_freed_memory(cuda).map_err(|error| {
            unavailable(
                format!("the driver reports: {}", describe(&error)),
                "check `nvidia-smi`",
            )
        })?;
    }
    Ok(device)
}

/// The first library that cannot be opened. A program that was linked to them would not be running.
#[cfg(not(feature = "dynamic-loading"))]
fn missing_library() -> Option<&'static str> {
    None
}

/// The first library that cannot be opened; candle would panic at the first use of it.
#[cfg(feature = "dynamic-loading")]
fn missing_library() -> Option<&'static str> {
    use candle_core::cuda_backend::cudarc::{cublas, curand, driver};
    // SAFETY: libraries are opened, whose initialisers are NVIDIA's.
    let present = unsafe {
        [
            ("libcuda", driver::sys::is_culib_present()),
            ("libcublas", cublas::sys::is_culib_present()),
            ("libcurand", curand::sys::is_culib_present()),
        ]
    };
    let mut missing = present.into_iter().filter(|(_, present)| !present);
    missing.next().map(|(name, _)| name)
}

fn describe(error: &result::DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("error {:?}", error.0),
    }
}

fn pool(device: &CudaDevice) -> std::result::Result<sys::CUmemoryPool, result::DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the context is bound, the pointer valid.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) }.result()?;
    Ok(pool)
}

/// Freed memory stays with the program: the driver would take it back whenever a result is read,
/// and handing it out again takes longer than most kernels run.
fn keep_freed_memory(device: &CudaDevice) -> std::result::Result<(), result::DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the attribute is a 64-bit number.
    unsafe {
        sys::cuMemPoolSetAttribute(
            pool(device)?,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
    }
    .result()
}

/// Memory of `device`; starts counting the peak anew.
pub(crate) fn memory(device: &CudaDevice) -> candle_core::Result<DeviceMemory> {
    let memory = || -> std::result::Result<DeviceMemory, result::DriverError> {
        let pool = pool(device)?;
        let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        let (mut peak, mut zero) = (0u64, 0u64);
        // SAFETY: the attribute is a 64-bit number.
        unsafe {
            sys::cuMemPoolGetAttribute(pool, high, (&raw mut peak).cast()).result()?;
            sys::cuMemPoolSetAttribute(pool, high, (&raw mut zero).cast()).result()?;
        }
        let (free, total) = device.cuda_stream().context().mem_get_info()?;
        Ok(DeviceMemory {
            total: total as u64,
            free: free as u64,
            peak,
        })
    };
    memory().map_err(candle_core::Error::wrap)
}
