//! Causal attention: products by cuBLAS, the softmax by our kernels.
//!
//! Scores exist for one block of queries at a time, and only for the keys that some query of the
//! block may see, so about half of them are never computed. The backward computes them again.

mod blocks;
mod work;

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::launch::gpu_only;
use super::memory::View;
use crate::model::causal::{Causal, Sizes};
use work::Work;

/// Mixes values by the softmax of query-key products.
///
/// `query` is (batch, heads, len, d), `key` and `value` (batch, groups, positions, d), where
/// `heads / groups` neighbouring query heads share a key/value head. The result is
/// (batch, len, heads, d). Differentiable in all three.
pub(crate) fn attention(
    [query, key, value]: [&Tensor; 3],
    causal: &Causal,
    sizes: Sizes,
) -> Result<Tensor> {
    let op = Attention {
        causal: causal.clone(),
        sizes,
    };
    let (query, key, value) = (query.contiguous()?, key.contiguous()?, value.contiguous()?);
    query.apply_op3(&key, &value, op)
}

struct Attention {
    causal: Causal,
    sizes: Sizes,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    gpu_only!(
        &CpuStorage,
        &Layout,
        &CpuStorage,
        &Layout,
        &CpuStorage,
        &Layout
    );

    fn cuda_fwd(
        &self,
        query: &CudaStorage,
        query_layout: &Layout,
        key: &CudaStorage,
        key_layout: &Layout,
        value: &CudaStorage,
        value_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let sizes = self.sizes;
        let work = Work {
            query: View::new(query, query_layout)?,
            key: View::new(key, key_layout)?,
            value: View::new(value, value_layout)?,
            causal: &self.causal,
            sizes,
        };
        let shape = Shape::from((sizes.batch, sizes.len, sizes.heads, sizes.d));
        Ok((work.forward()?.into_storage(), shape))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let work = Work {
            query: View::of(query)?,
            key: View::of(key)?,
            value: View::of(value)?,
            causal: &self.causal,
            sizes: self.sizes,
        };
        let dtype = work.query.dtype;
        let [dquery, dkey, dvalue] = work.backward(&View::of(&grad)?)?;
        let dkey = dkey.into_tensor(key.shape())?.to_dtype(dtype)?;
        let dvalue = dvalue.into_tensor(value.shape())?.to_dtype(dtype)?;
        Ok((
            Some(dquery.into_tensor(query.shape())?),
            Some(dkey),
            Some(dvalue),
        ))
    }
}
