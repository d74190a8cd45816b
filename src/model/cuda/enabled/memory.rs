//! Views of device memory, and new memory.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Contiguous elements on the device.
///
/// A view does not keep them: whoever makes one keeps the tensor or storage until the work that
/// reads it has been asked for. Freeing is work too and comes later in the same stream.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub pointer: u64,
    pub dtype: DType,
    pub count: usize,
    pub device: CudaDevice,
}

impl View {
    /// The elements of `storage` in `layout`, which must be contiguous.
    pub fn new(storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            bail!("expected a contiguous tensor");
        };
        let dtype = storage.dtype();
        Ok(Self {
            pointer: pointer(storage)? + (begin * dtype.size_in_bytes()) as u64,
            dtype,
            count: end - begin,
            device: storage.device.clone(),
        })
    }

    /// The elements of `tensor`, which must be contiguous.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Self::new(storage, layout),
            _ => bail!("expected a tensor on the GPU"),
        }
    }

    /// [`View::of`], which also checks the type.
    pub fn typed(tensor: &Tensor, dtype: DType) -> Result<Self> {
        let view = Self::of(tensor)?;
        if view.dtype != dtype {
            bail!("expected {dtype:?}, found {:?}", view.dtype);
        }
        Ok(view)
    }

    /// Where element `index` is.
    pub fn at(&self, index: usize) -> u64 {
        self.pointer + (index * self.dtype.size_in_bytes()) as u64
    }
}

/// Where the first element of `storage` is.
fn pointer(storage: &CudaStorage) -> Result<u64> {
    use CudaStorageSlice as S;
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        S::U8(slice) => slice.device_ptr(&stream).0,
        S::U32(slice) => slice.device_ptr(&stream).0,
        S::F32(slice) => slice.device_ptr(&stream).0,
        S::F64(slice) => slice.device_ptr(&stream).0,
        S::BF16(slice) => slice.device_ptr(&stream).0,
        S::F16(slice) => slice.device_ptr(&stream).0,
        _ => bail!("{:?} is not a type of our kernels", storage.dtype()),
    })
}

/// The type that all of `views` have.
pub(super) fn same_type(views: &[&View]) -> Result<DType> {
    let dtype = views[0].dtype;
    match views.iter().find(|view| view.dtype != dtype) {
        None => Ok(dtype),
        Some(other) => bail!("arguments of types {dtype:?} and {:?}", other.dtype),
    }
}

/// New memory for a result.
pub(super) struct Fresh {
    storage: CudaStorage,
    pub pointer: u64,
    count: usize,
}

impl Fresh {
    /// Memory for `count` elements, with arbitrary values in it.
    pub fn new(device: &CudaDevice, count: usize, dtype: DType) -> Result<Self> {
        // SAFETY: every kernel writes all of its results before anything reads them.
        // (The driver refuses to allocate nothing.)
        let storage = unsafe { device.alloc_uninit(&Shape::from(count.max(1)), dtype) }?;
        Self::wrap(storage, count)
    }

    /// Memory for `count` zeros.
    pub fn zeros(device: &CudaDevice, count: usize, dtype: DType) -> Result<Self> {
        let storage = device.zeros_impl(&Shape::from(count.max(1)), dtype)?;
        Self::wrap(storage, count)
    }

    fn wrap(storage: CudaStorage, count: usize) -> Result<Self> {
        Ok(Self {
            pointer: pointer(&storage)?,
            storage,
            count,
        })
    }

    /// What was written, as the storage of a tensor.
    pub fn into_storage(self) -> CudaStorage {
        self.storage
    }

    /// What was written, as a tensor without a graph.
    pub fn into_tensor(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.elem_count() != self.count {
            bail!("{} elements are no tensor of shape {shape:?}", self.count);
        }
        let storage = Storage::Cuda(self.storage);
        Ok(Tensor::from_storage(
            storage,
            shape,
            BackpropOp::none(),
            false,
        ))
    }

    /// The first `count` elements, once all work so far is done.
    pub fn read<T: candle_core::WithDType + DeviceRepr>(&self, count: usize) -> Result<Vec<T>> {
        let mut values = T::cpu_storage_data(self.storage.to_cpu_storage()?)?;
        values.truncate(count);
        Ok(values)
    }
}

/// Uploads `values`; at least one element, so that there is an address.
pub(super) fn upload<T: candle_core::WithDType>(
    device: &CudaDevice,
    values: &[T],
) -> Result<Fresh> {
    let storage = match values {
        [] => device.zeros_impl(&Shape::from(1), T::DTYPE)?,
        _ => device.storage_from_slice(values)?,
    };
    Fresh::wrap(storage, values.len())
}
