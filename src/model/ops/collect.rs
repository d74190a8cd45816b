//! Gradients of weights, added straight to where they are collected.
//!
//! candle's backward makes a zero for each gradient and a third tensor for their sum, on one thread:
//! five passes over memory where one is needed, for every weight of the model. While [`collect`] runs,
//! operations that know how add to [`Sums`] themselves and return no gradient.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId};

use super::in_place::in_place;
use super::kernels;
use super::products::{add_product, matrix, whole_product};
use crate::model::attach::{with_values, wrap};

/// Sums of the gradients of weights.
#[derive(Default)]
pub(crate) struct Sums {
    /// Of each weight: its place in `sums`.
    places: HashMap<TensorId, usize>,
    sums: Vec<Option<Tensor>>,
}

impl Sums {
    /// Sums for `weights`, one for each in `sums`, `None` being zero. What is there must be
    /// contiguous f32 and no one else's if it is to be added to.
    pub fn new<'a>(weights: impl Iterator<Item = &'a Tensor>, sums: Vec<Option<Tensor>>) -> Self {
        let places = weights
            .enumerate()
            .map(|(place, weight)| (weight.id(), place));
        Self {
            places: places.collect(),
            sums,
        }
    }

    /// One for each weight.
    pub fn into_inner(self) -> Vec<Option<Tensor>> {
        self.sums
    }

    /// Adds a gradient of `weight`, if it is wanted: `first` makes it, or `add` adds to what is
    /// there.
    fn deliver(
        &mut self,
        weight: &Tensor,
        first: impl FnOnce() -> Result<Tensor>,
        add: impl Fn(&mut [f32]),
    ) -> Result<()> {
        let place = self.places.get(&weight.id());
        match place.and_then(|place| self.sums.get_mut(*place)) {
            Some(Some(sum)) => in_place(sum, add),
            Some(sum) => {
                *sum = Some(first()?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Adds `gradient`, f32 and no one else's, to that of `weight`, if it is wanted.
    pub fn add(&mut self, weight: &Tensor, gradient: Tensor) -> Result<()> {
        with_values(&gradient, |values| {
            let first = || Ok(gradient.clone());
            self.deliver(weight, first, |sum| kernels::add(sum, values))
        })
    }

    /// [`Sums::add`] for any dtype and device.
    pub fn add_any(&mut self, weight: &Tensor, gradient: Tensor) -> Result<()> {
        let place = self.places.get(&weight.id());
        if let Some(sum) = place.and_then(|place| self.sums.get_mut(*place)) {
            *sum = Some(match sum.take() {
                // Of a narrower type where the sum is that of the head.
                Some(sum) => (gradient.to_dtype(sum.dtype())? + sum)?,
                None => gradient,
            });
        }
        Ok(())
    }

    /// Adds the gradient of `weight` (out, in) in y = x Wᵀ, given `x` (rows, in) and that of y, if
    /// it is wanted.
    pub fn add_linear(&mut self, weight: &Tensor, x: &Tensor, grad: &Tensor) -> Result<()> {
        with_values(x, |x_values| {
            with_values(grad, |grad_values| {
                let grad = matrix(grad_values, grad)?.t();
                let x = matrix(x_values, x)?;
                let first = || wrap(whole_product(grad, x), weight.shape());
                self.deliver(weight, first, |sum| add_product(grad, x, sum))
            })
        })
    }

    /// Adds the gradient of `bias` (out) that is added to each row, given that of the rows, if it is
    /// wanted.
    pub fn add_bias(&mut self, bias: &Tensor, grad: &Tensor) -> Result<()> {
        match self.places.contains_key(&bias.id()) {
            true => {
                let width = bias.elem_count();
                let sum = with_values(grad, |grad| Ok(kernels::sum_of_rows(grad, width)))?;
                self.add(bias, wrap(sum, bias.shape())?)
            }
            false => Ok(()),
        }
    }

    /// Adds the gradient of `table`, whose rows `ids` have the gradients `grad`, if it is wanted.
    pub fn add_rows(&mut self, table: &Tensor, ids: &[u32], grad: &Tensor) -> Result<()> {
        with_values(grad, |grad| {
            let first = || {
                let mut sum = vec![0.0; table.elem_count()];
                scatter(ids, grad, &mut sum);
                wrap(sum, table.shape())
            };
            self.deliver(table, first, |sum| scatter(ids, grad, sum))
        })
    }
}

/// Adds each row of `grad` to the row of `sum` that its id names.
fn scatter(ids: &[u32], grad: &[f32], sum: &mut [f32]) {
    let width = grad.len() / ids.len().max(1);
    for (&id, grad) in ids.iter().zip(grad.chunks_exact(width.max(1))) {
        let sum = &mut sum[id as usize * width..][..width];
        sum.iter_mut()
            .zip(grad)
            .for_each(|(sum, grad)| *sum += grad);
    }
}

thread_local! {
    // The backward calls operations on the thread that it was called on.
    static SUMS: RefCell<Option<Sums>> = const { RefCell::new(None) };
}

/// Runs `backward`, during which operations may add to `sums`.
pub(crate) fn collect<R>(sums: &mut Sums, backward: impl FnOnce() -> R) -> R {
    let before = SUMS.replace(Some(std::mem::take(sums)));
    let result = backward();
    *sums = SUMS.replace(before).unwrap_or_default();
    result
}

/// The gradient of `weight` that `add` adds to sums: none where it is collected.
pub(super) fn gradient(
    weight: &Tensor,
    add: impl Fn(&mut Sums) -> Result<()>,
) -> Result<Option<Tensor>> {
    // Not lent out meanwhile: a thread that waits for a product may take up other work.
    let mut collected = SUMS.take();
    let found = match &mut collected {
        Some(sums) if sums.places.contains_key(&weight.id()) => add(sums).map(|()| None),
        _ => {
            let mut alone = Sums::new(std::iter::once(weight), vec![None]);
            add(&mut alone).map(|()| alone.sums.pop().flatten())
        }
    };
    SUMS.set(collected);
    found
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::{embed, linear};
    use super::*;

    #[test]
    fn collected_gradients_are_those_of_the_graph() {
        let random = |shape| Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (table, weight, other) = (random((5, 3)), random((4, 3)), random((4, 4)));
        let ids = Tensor::new(&[1u32, 4, 1], &Device::Cpu).unwrap();
        let loss = || {
            let x = embed(&table, &ids).unwrap();
            // Used twice: the second gradient is added to the first.
            let y = linear(&linear(&x, &weight).unwrap(), &other).unwrap();
            let z = linear(&y, &other).unwrap();
            z.sqr().unwrap().sum_all().unwrap()
        };
        let all = [&table, &weight, &other];
        let expected = loss().backward().unwrap();
        // One of them is left to the graph.
        let weights = |count: usize| all[..count].iter().map(|var| var.as_tensor());
        let mut sums = Sums::new(weights(2), vec![None; 2]);
        let rest = collect(&mut sums, || loss().backward().unwrap());
        assert!(rest.get(&table).is_none() && rest.get(&weight).is_none());
        let mut sums = sums.into_inner();
        sums.push(rest.get(&other).cloned());
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let assert_near = |found: &Tensor, want: &Tensor, factor: f32| {
            for (found, want) in values(found).iter().zip(values(want)) {
                let want = factor * want;
                assert!(
                    (found - want).abs() <= 1e-4 * want.abs().max(1.0),
                    "{found} {want}"
                );
            }
        };
        for (sum, var) in sums.iter().zip(all) {
            assert_near(sum.as_ref().unwrap(), expected.get(var).unwrap(), 1.0);
        }
        // Once more doubles the sums.
        let mut twice = Sums::new(weights(3), sums);
        collect(&mut twice, || loss().backward().unwrap());
        for (twice, var) in twice.into_inner().iter().zip(all) {
            assert_near(twice.as_ref().unwrap(), expected.get(var).unwrap(), 2.0);
        }
    }
}
