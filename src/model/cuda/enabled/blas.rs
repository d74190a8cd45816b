//! Matrix products with what candle does not offer: a result of another type than the arguments,
//! added to what is there.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{CudaDevice, DType, Result, bail};

/// Matrices of the same shape in row-major order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrices {
    /// Where the first begins.
    pub pointer: u64,
    /// Its type.
    pub dtype: DType,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements from one matrix to the next.
    pub step: usize,
    /// Whether the transpose is meant.
    pub transposed: bool,
}

impl Matrices {
    /// Rows of `stride` elements, matrices `step` elements apart.
    pub fn new(pointer: u64, dtype: DType, stride: usize, step: usize) -> Self {
        Self {
            pointer,
            dtype,
            stride,
            step,
            transposed: false,
        }
    }

    /// The transposes.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn operation(&self) -> sys::cublasOperation_t {
        match self.transposed {
            false => sys::cublasOperation_t::CUBLAS_OP_N,
            true => sys::cublasOperation_t::CUBLAS_OP_T,
        }
    }
}

/// `c = a b + keep c` for each of `batch` matrices, where `a` is (m, k), `b` (k, n) and `c` (m, n).
/// Products are summed in f32.
///
/// # Safety
/// All elements of the matrices lie in memory of the device.
pub(super) unsafe fn product(
    device: &CudaDevice,
    (batch, m, n, k): (usize, usize, usize, usize),
    a: Matrices,
    b: Matrices,
    c: Matrices,
    keep: f32,
) -> Result<()> {
    if batch == 0 || m == 0 || n == 0 {
        return Ok(());
    }
    let int = |value: usize| match i32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => bail!("a matrix dimension of {value} is more than a GPU takes"),
    };
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().w()?;
    let one = 1f32;
    // cuBLAS knows column-major order only, in which our matrices are their transposes:
    // cᵀ = bᵀ aᵀ.
    // SAFETY: as promised by the caller; alpha and beta are f32 as the compute type asks.
    unsafe {
        result::gemm_strided_batched_ex(
            *device.cublas_handle().handle(),
            b.operation(),
            a.operation(),
            int(n)?,
            int(m)?,
            int(k)?,
            (&raw const one).cast(),
            b.pointer as *const _,
            data_type(b.dtype)?,
            int(b.stride)?,
            b.step as i64,
            a.pointer as *const _,
            data_type(a.dtype)?,
            int(a.stride)?,
            a.step as i64,
            (&raw const keep).cast(),
            c.pointer as *mut _,
            data_type(c.dtype)?,
            int(c.stride)?,
            c.step as i64,
            int(batch)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        _ => bail!("{dtype:?} is not a type of matrix products"),
    })
}
