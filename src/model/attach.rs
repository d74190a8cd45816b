//! Hand-written backwards for tensors that are already computed.
//!
//! candle's fused kernels lose the gradient without an error. [`attach1`] (and its siblings for
//! more arguments) puts any result that was computed outside of the graph back into it.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape,
    Storage, Tensor, backend::BackendStorage, bail,
};

/// The elements of a contiguous f32 CPU storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (begin, end) = match layout.contiguous_offsets() {
        Some(range) => range,
        None => bail!("expected a contiguous tensor"),
    };
    match storage.as_slice::<f32>()?.get(begin..end) {
        Some(values) => Ok(values),
        None => bail!("layout outside of its storage"),
    }
}

/// Calls `f` with the elements of `tensor`, made contiguous and f32 first if need be.
pub(crate) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.detach().to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// A CPU tensor of f32 `values`.
pub(crate) fn wrap(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

type Backward1 = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync>;
type Backward2 =
    Box<dyn Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync>;

type Backward3 = Box<dyn Fn(&[Tensor; 3], &Tensor) -> Result<[Tensor; 3]> + Send + Sync>;

struct Attach<B> {
    // Taken by the forward, so that the graph does not keep a second copy.
    out: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> Attach<B> {
    fn new(out: &Tensor, backward: B) -> Result<Self> {
        Ok(Self {
            out: Mutex::new(Some(out.detach().contiguous()?)),
            backward,
        })
    }

    fn out(&self) -> Result<Tensor> {
        match self.out.lock().ok().and_then(|mut out| out.take()) {
            Some(out) => Ok(out),
            None => bail!("an attached forward ran twice"),
        }
    }

    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let out = self.out()?;
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cpu(cpu) => Ok((cpu.try_clone(layout)?, out.shape().clone())),
            _ => bail!("expected a tensor on the CPU"),
        }
    }

    fn take_cuda(&self) -> Result<(CudaStorage, Shape)> {
        let out = self.out()?;
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cuda(cuda) => Ok((cuda.try_clone(layout)?, out.shape().clone())),
            _ => bail!("expected a tensor on the GPU"),
        }
    }
}

/// The forwards of an attached operation, with one `&Layout` for each argument.
macro_rules! forwards {
    ($($layout:ty),*) => {
        fn cpu_fwd(&self, $(_: &CpuStorage, _: $layout),*) -> Result<(CpuStorage, Shape)> {
            self.take()
        }

        fn cuda_fwd(&self, $(_: &CudaStorage, _: $layout),*) -> Result<(CudaStorage, Shape)> {
            self.take_cuda()
        }
    };
}

impl CustomOp1 for Attach<Backward1> {
    fn name(&self) -> &'static str {
        "attach1"
    }

    forwards!(&Layout);

    fn bwd(&self, arg: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&arg.detach(), &out.detach(), grad).map(Some)
    }
}

impl CustomOp2 for Attach<Backward2> {
    fn name(&self) -> &'static str {
        "attach2"
    }

    forwards!(&Layout, &Layout);

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (da, db) = (self.backward)(&a.detach(), &b.detach(), &out.detach(), grad)?;
        Ok((Some(da), Some(db)))
    }
}

/// A tensor with the values of `out` whose gradient flows to `arg` through `backward`.
///
/// `out` must be computed from `arg.detach()`. `backward(arg, out, grad_of_out)` returns the
/// gradient of `arg`, in its shape and dtype.
///
/// # Errors
/// Those of the copy.
pub fn attach1(
    arg: &Tensor,
    out: &Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let backward: Backward1 = Box::new(backward);
    arg.apply_op1(Attach::new(out, backward)?)
}

/// [`attach1`] for two arguments: `backward(a, b, out, grad_of_out)` returns both gradients.
///
/// # Errors
/// Those of the copy.
pub fn attach2(
    a: &Tensor,
    b: &Tensor,
    out: &Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>
    + Send
    + Sync
    + 'static,
) -> Result<Tensor> {
    let backward: Backward2 = Box::new(backward);
    a.apply_op2(b, Attach::new(out, backward)?)
}

impl CustomOp3 for Attach<Backward3> {
    fn name(&self) -> &'static str {
        "attach3"
    }

    forwards!(&Layout, &Layout, &Layout);

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.backward)(&[a.detach(), b.detach(), c.detach()], grad)?;
        Ok((Some(da), Some(db), Some(dc)))
    }
}

/// [`attach1`] for three arguments: `backward(args, grad_of_out)` returns the three gradients.
pub(crate) fn attach3(
    args: [&Tensor; 3],
    out: &Tensor,
    backward: impl Fn(&[Tensor; 3], &Tensor) -> Result<[Tensor; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let backward: Backward3 = Box::new(backward);
    let [a, b, c] = args;
    a.apply_op3(b, c, Attach::new(out, backward)?)
}
