//! Sums of parameter gradients over the micro batches of an optimiser step, in f32.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use rayon::prelude::*;
use std::collections::BTreeMap;

use crate::error::{Context, Result};

/// Elements that one thread handles at a time; also the blocks in which norms are summed, so
/// that the result is the same for any number of threads.
pub(super) const BLOCK: usize = 1 << 14;

/// One gradient for each parameter, in the order of the parameters' names.
#[derive(Debug)]
pub enum Gradients {
    /// In main memory, flattened.
    Host(Vec<Vec<f32>>),
    /// On the device; `None` is zero.
    Device(Vec<Option<Tensor>>),
}

impl Gradients {
    /// Zeros for each of `params`.
    ///
    /// # Memory
    /// 4 bytes a parameter.
    pub fn zeros(params: &BTreeMap<String, Var>, device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Host(
                params
                    .values()
                    .map(|var| vec![0.0; var.elem_count()])
                    .collect(),
            ),
            _ => Self::Device(vec![None; params.len()]),
        }
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        match self {
            Self::Host(sums) => sums.iter_mut().for_each(|sum| sum.fill(0.0)),
            Self::Device(sums) => sums.fill(None),
        }
    }

    /// Adds the gradients of one micro batch, `None` being zero.
    pub fn add(&mut self, gradients: &[Option<Tensor>]) -> Result<()> {
        let during = || "accumulating gradients".to_owned();
        match self {
            Self::Host(sums) => {
                for (sum, gradient) in sums.iter_mut().zip(gradients) {
                    let Some(gradient) = gradient else { continue };
                    with_values(gradient, |values| {
                        sum.par_chunks_mut(BLOCK)
                            .zip(values.par_chunks(BLOCK))
                            .for_each(|(sum, values)| {
                                for (a, b) in sum.iter_mut().zip(values) {
                                    *a += b;
                                }
                            });
                    })
                    .during(during)?;
                }
            }
            Self::Device(sums) => {
                for (sum, gradient) in sums.iter_mut().zip(gradients) {
                    let Some(gradient) = gradient else { continue };
                    let mut added = || -> candle_core::Result<Tensor> {
                        let gradient = gradient.to_dtype(DType::F32)?.detach();
                        match sum.take() {
                            Some(sum) => sum + gradient,
                            None => Ok(gradient),
                        }
                    };
                    *sum = Some(added().during(during)?);
                }
            }
        }
        Ok(())
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
                let squares = || -> candle_core::Result<f64> {
                    let each = sums.iter().flatten().map(|sum| sum.sqr()?.sum_all());
                    let each = each.collect::<candle_core::Result<Vec<Tensor>>>()?;
                    if each.is_empty() {
                        return Ok(0.0);
                    }
                    // One transfer for all parameters.
                    let squares = Tensor::stack(&each, 0)?.to_vec1::<f32>()?;
                    Ok(squares.iter().map(|s| f64::from(*s)).sum())
                };
                Ok(squares()
                    .during(|| "computing the gradient norm".to_owned())?
                    .sqrt())
            }
        }
    }
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
