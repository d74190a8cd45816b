//! Sums of parameter gradients over the micro batches of an optimiser step, in f32.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use rayon::prelude::*;
use std::collections::BTreeMap;

use crate::error::{Context, Result};
use crate::model::cuda;

/// Elements that one thread handles at a time; also the blocks in which norms are summed, so
/// that the result is the same for any number of threads.
pub(super) const BLOCK: usize = 1 << 14;

/// One gradient for each parameter, in the order of the parameters' names.
#[derive(Debug)]
pub enum Gradients {
    /// In main memory, flattened.
    Host(Vec<Vec<f32>>),
    /// On a GPU; `None` is zero.
    Device(Vec<Option<Tensor>>),
}

impl Gradients {
    /// Zeros for each of `params`.
    ///
    /// # Memory
    /// 4 bytes a parameter.
    pub fn zeros(params: &BTreeMap<String, Var>, device: &Device) -> Self {
        match device {
            Device::Cuda(_) => Self::Device(vec![None; params.len()]),
            _ => Self::Host(
                params
                    .values()
                    .map(|var| vec![0.0; var.elem_count()])
                    .collect(),
            ),
        }
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        match self {
            Self::Host(sums) => sums.iter_mut().for_each(|sum| {
                sum.par_chunks_mut(BLOCK).for_each(|sum| sum.fill(0.0));
            }),
            Self::Device(sums) => sums.fill(None),
        }
    }

    /// Adds the gradients of one micro batch, `None` being zero.
    pub fn add(&mut self, gradients: &[Option<Tensor>]) -> Result<()> {
        match self {
            Self::Host(sums) => {
                let mut pairs = sums.iter_mut().zip(gradients);
                pairs.try_for_each(|(sum, gradient)| add_host(sum, gradient.as_ref()))
            }
            Self::Device(sums) => {
                let mut pairs = sums.iter_mut().zip(gradients);
                pairs.try_for_each(|(sum, gradient)| add_device(sum, gradient.as_ref()))
            }
        }
        .during(|| "accumulating gradients".to_owned())
    }

    /// The Euclidean norm over all parameters.
    pub fn norm(&self) -> Result<f64> {
        match self {
            Self::Host(sums) => {
                let square = |block: &[f32]| -> f64 {
                    block.iter().map(|g| f64::from(*g) * f64::from(*g)).sum()
                };
                let mut total = 0.0;
                for sum in sums {
                    let blocks: Vec<f64> = sum.par_chunks(BLOCK).map(square).collect();
                    total += blocks.iter().sum::<f64>();
                }
                Ok(total.sqrt())
            }
            Self::Device(sums) => {
                let sums: Vec<&Tensor> = sums.iter().flatten().collect();
                cuda::norm_of_all(&sums).during(|| "computing the gradient norm".to_owned())
            }
        }
    }
}

fn add_host(sum: &mut [f32], gradient: Option<&Tensor>) -> candle_core::Result<()> {
    let Some(gradient) = gradient else {
        return Ok(());
    };
    with_values(gradient, |values| {
        sum.par_chunks_mut(BLOCK)
            .zip(values.par_chunks(BLOCK))
            .for_each(|(sum, values)| {
                for (a, b) in sum.iter_mut().zip(values) {
                    *a += b;
                }
            });
    })
}

fn add_device(sum: &mut Option<Tensor>, gradient: Option<&Tensor>) -> candle_core::Result<()> {
    let Some(gradient) = gradient else {
        return Ok(());
    };
    match (&*sum, gradient.dtype()) {
        (Some(sum), _) => return cuda::accumulate(sum, gradient),
        // Sums are added to in place, so they are no one else's.
        (None, DType::F32) => *sum = Some(gradient.detach().force_contiguous()?),
        (None, _) => *sum = Some(gradient.detach().to_dtype(DType::F32)?),
    }
    Ok(())
}

/// Lends the values of a tensor in main memory, as contiguous f32.
pub(super) fn with_values<R>(
    tensor: &Tensor,
    use_values: impl FnOnce(&[f32]) -> R,
) -> candle_core::Result<R> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let begin = layout.start_offset();
    let end = begin + layout.shape().elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(use_values(&values[begin..end])),
        _ => candle_core::bail!("expected f32 values in main memory"),
    }
}
