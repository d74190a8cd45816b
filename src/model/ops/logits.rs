//! Logits. They are f32 whatever the type of weights and activations: rounded to bf16, a logit of
//! 20 is off by up to 0.06, and so is the log-probability that comes from it.

use candle_core::{DType, Device, Result, Shape, Tensor};
use rayon::prelude::*;

use super::products::{Matrix, product};
use super::projection::linear;
use super::softcap::softcap;
use crate::model::attach::{with_values, wrap};
use crate::model::head::Head;

/// Rows of the output matrix that a thread holds in f32 at one time.
const BLOCK: usize = 256;

/// f32 logits (n, vocabulary) of hidden states (n, width) under `head`. Differentiable.
///
/// On a GPU the product has the type of its arguments and only its result is f32.
///
/// Memory: the result, twice if the arguments are not f32, and 256 rows of the head per thread.
pub fn logits(hidden: &Tensor, head: &Head) -> Result<Tensor> {
    let (head, cap) = (&head.weight, head.softcap);
    let logits = match (hidden.device(), hidden.dtype()) {
        (Device::Cpu, DType::BF16 | DType::F16) => wide_product(hidden, head)?,
        _ => linear(hidden, head)?,
    };
    let logits = match logits.dtype() {
        DType::BF16 | DType::F16 => logits.to_dtype(DType::F32)?,
        _ => logits,
    };
    match cap {
        Some(cap) => softcap(&logits, cap),
        None => Ok(logits),
    }
}

/// The product in f32 of matrices of narrower numbers. Only blocks of the head are converted:
/// all of it would take twice its own memory once more.
fn wide_product(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    let hidden = hidden.to_dtype(DType::F32)?;
    if hidden.track_op() || head.track_op() {
        return hidden.matmul(&head.to_dtype(DType::F32)?.t()?);
    }
    let ((count, width), (vocabulary, _)) = (hidden.dims2()?, head.dims2()?);
    if head.dim(1)? != width {
        candle_core::bail!(
            "hidden states of {width} numbers for a head of {:?}",
            head.shape()
        );
    }
    // By rows of the head, so that each thread writes a stretch of its own.
    let mut by_id = vec![0f32; vocabulary * count];
    with_values(&hidden, |values| {
        let hidden = Matrix::new(values, count, width, width);
        by_id
            .par_chunks_mut((BLOCK * count).max(1))
            .enumerate()
            .try_for_each(|(block, out)| {
                let (begin, rows) = (block * BLOCK, out.len() / count);
                with_values(&head.narrow(0, begin, rows)?, |values| {
                    let head = Matrix::new(values, rows, width, width);
                    product(1.0, head, hidden.t(), 0.0, out, count);
                    Ok(())
                })
            })
    })?;
    wrap(by_id, &Shape::from((vocabulary, count)))?
        .t()?
        .contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that bf16 and f16 hold exactly, of both signs.
    fn numbers(rows: usize, width: usize, salt: usize) -> Vec<f64> {
        let count = rows * width;
        (0..count)
            .map(|at| ((at * 37 + salt * 11) % 251) as f64 / 64.0 - 1.953125)
            .collect()
    }

    fn tensor(values: &[f64], rows: usize, dtype: DType) -> Tensor {
        let shape = (rows, values.len() / rows);
        Tensor::from_slice(values, shape, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap()
    }

    fn head(weight: &Tensor, softcap: Option<f64>) -> Head {
        Head {
            weight: weight.clone(),
            softcap,
        }
    }

    #[test]
    fn logits_of_narrow_numbers_are_not_rounded() {
        // Two blocks of the head, and a part of one.
        let (count, width, vocabulary) = (5, 96, 2 * BLOCK + 3);
        let (x, w) = (numbers(count, width, 1), numbers(vocabulary, width, 2));
        let exact = |row: usize, id: usize| -> f64 {
            let pairs = x[row * width..][..width].iter().zip(&w[id * width..]);
            pairs.map(|(x, w)| x * w).sum()
        };
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let (x, w) = (tensor(&x, count, dtype), tensor(&w, vocabulary, dtype));
            let found = logits(&x, &head(&w, None)).unwrap();
            assert_eq!(found.dtype(), DType::F32);
            let found = found.to_vec2::<f32>().unwrap();
            let mut largest = 0f64;
            for (row, found) in found.iter().enumerate() {
                for (id, found) in found.iter().enumerate() {
                    let exact = exact(row, id);
                    largest = largest.max(exact.abs());
                    let off = (f64::from(*found) - exact).abs();
                    assert!(
                        off < 1e-4,
                        "{dtype:?} {row} {id}: {found}, expected {exact}"
                    );
                }
            }
            assert!(largest > 16.0, "too small to show rounding: {largest}");
            let capped = logits(&x, &head(&w, Some(3.0)))
                .unwrap()
                .to_vec2::<f32>()
                .unwrap();
            let expected = 3.0 * (exact(1, 7) / 3.0).tanh();
            assert!((f64::from(capped[1][7]) - expected).abs() < 1e-5);
        }
        let empty = Tensor::zeros((0, width), DType::BF16, &Device::Cpu).unwrap();
        let head = head(&tensor(&w, vocabulary, DType::BF16), None);
        assert_eq!(logits(&empty, &head).unwrap().dims(), [0, vocabulary]);
        let narrow = Tensor::zeros((1, width - 1), DType::BF16, &Device::Cpu).unwrap();
        assert!(logits(&narrow, &head).is_err());
    }

    #[test]
    fn gradients_flow_through_narrow_numbers() {
        let hidden = tensor(&numbers(2, 4, 1), 2, DType::BF16);
        let hidden = candle_core::Var::from_tensor(&hidden).unwrap();
        let weight = tensor(&numbers(3, 4, 2), 3, DType::BF16);
        let sum = logits(&hidden, &head(&weight, None))
            .unwrap()
            .sum_all()
            .unwrap();
        let grads = sum.backward().unwrap();
        let found = grads.get(&hidden).unwrap().to_dtype(DType::F32).unwrap();
        let expected = weight.to_dtype(DType::F32).unwrap().sum(0).unwrap();
        let (found, expected) = (
            found.to_vec2::<f32>().unwrap(),
            expected.to_vec1::<f32>().unwrap(),
        );
        for (found, expected) in found[1].iter().zip(expected) {
            assert!(
                (found - expected).abs() < 0.02,
                "{found}, expected {expected}"
            );
        }
    }
}
