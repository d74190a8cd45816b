//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with f32 master weights and moments.
//!
//! Parameters of a lower precision would lose every small update, so their f32 masters are kept
//! beside them; f32 parameters are their own masters and updated in place. In main memory the
//! work is done on slices by all threads; every element is computed alone, so the result does
//! not depend on their number. On a GPU one kernel updates a parameter and its state in place.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use super::gradients::{BLOCK, Gradients, with_values};
use crate::error::{Context, Error, Result};
use crate::model::cuda::{self, Step};

/// Settings of the optimiser that stay the same throughout.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest Euclidean norm of all gradients; larger ones are scaled down to it. 0 is off.
    pub clip: f64,
}

/// What differs between parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Decay relative to the learning rate.
    pub weight_decay: f64,
}

/// The optimiser and its state.
#[derive(Debug)]
pub struct AdamW {
    settings: Settings,
    /// In the order of the parameters' names.
    groups: Vec<Group>,
    steps: u64,
    /// In the order of the parameters' names.
    states: Vec<State>,
}

#[derive(Debug)]
enum State {
    Host {
        /// `None` where the parameter itself is f32.
        master: Option<Vec<f32>>,
        first: Vec<f32>,
        second: Vec<f32>,
    },
    Device {
        /// `None` where the parameter itself is f32.
        master: Option<Tensor>,
        first: Tensor,
        second: Tensor,
    },
}

/// What is saved of one parameter: flattened f32.
#[derive(Debug, PartialEq)]
pub struct Saved {
    /// The master weights.
    pub weights: Vec<f32>,
    /// The first moment.
    pub first: Vec<f32>,
    /// The second moment.
    pub second: Vec<f32>,
}

impl AdamW {
    /// Starts with zero moments at the present values of `params`; `groups` has one entry for
    /// each.
    ///
    /// # Memory
    /// 8 bytes a parameter, 12 where it is not f32.
    pub fn new(
        params: &BTreeMap<String, Var>,
        groups: Vec<Group>,
        settings: Settings,
    ) -> Result<Self> {
        let states = params
            .values()
            .map(State::new)
            .collect::<candle_core::Result<_>>()
            .during(|| "preparing the optimiser".to_owned())?;
        Ok(Self {
            settings,
            groups,
            steps: 0,
            states,
        })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step with learning rate `lr`; returns the norm of the gradients before clipping.
    ///
    /// If the norm is not finite, nothing is changed.
    pub fn step(
        &mut self,
        params: &BTreeMap<String, Var>,
        gradients: &Gradients,
        lr: f64,
    ) -> Result<f64> {
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        for (i, (var, state)) in params.values().zip(&mut self.states).enumerate() {
            let step = match self.groups.get(i) {
                Some(group) => Ok(self.settings.step(self.steps, *group, norm, lr)),
                None => Err(candle_core::Error::msg(format!(
                    "no group for parameter {i}"
                ))),
            };
            step.and_then(|step| state.update(i, var, gradients, step))
                .during(|| "updating the weights".to_owned())?;
        }
        Ok(norm)
    }

    /// The state of parameter number `index`, `var`, for a checkpoint.
    pub fn save(&self, index: usize, var: &Var) -> Result<Saved> {
        let saved = match self.states.get(index) {
            Some(state) => state.save(var),
            None => Err(no_parameter(index)),
        };
        saved.during(|| "saving the optimiser".to_owned())
    }

    /// Takes over a saved state of parameter number `index`, and sets `var` to it.
    pub fn restore(&mut self, index: usize, var: &Var, saved: Saved) -> Result<()> {
        let n = var.elem_count();
        let sizes = [saved.weights.len(), saved.first.len(), saved.second.len()];
        if sizes.iter().any(|size| *size != n) {
            return Err(Error::input(
                "training state",
                format!("a parameter of {n} elements has {sizes:?} in the saved state"),
            ));
        }
        let restored = match self.states.get_mut(index) {
            Some(state) => state.restore(var, &saved),
            None => Err(no_parameter(index)),
        };
        restored.during(|| "restoring the optimiser".to_owned())
    }

    /// Sets the number of steps made, after all parameters were restored.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

fn no_parameter(index: usize) -> candle_core::Error {
    candle_core::Error::msg(format!("no parameter number {index}"))
}

impl Settings {
    /// The numbers of step `steps` (from 1) for a parameter of `group`, with gradients of `norm`.
    fn step(&self, steps: u64, group: Group, norm: f64, lr: f64) -> Step {
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        let lr = lr * group.lr_scale;
        Step {
            scale: if self.clip > 0.0 && norm > self.clip {
                self.clip / norm
            } else {
                1.0
            },
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            rate: lr / correction(self.beta1),
            correction: 1.0 / correction(self.beta2),
            keep: 1.0 - lr * group.weight_decay,
        }
    }
}

impl State {
    /// Zero moments at the present value of `var`.
    fn new(var: &Var) -> candle_core::Result<Self> {
        let is_master = var.dtype() == DType::F32;
        if let device @ Device::Cuda(_) = var.device() {
            let wide = || var.as_detached_tensor().to_dtype(DType::F32);
            return Ok(Self::Device {
                master: (!is_master).then(wide).transpose()?,
                first: Tensor::zeros(var.dims(), DType::F32, device)?,
                second: Tensor::zeros(var.dims(), DType::F32, device)?,
            });
        }
        let wide = || with_values(var.as_tensor(), <[f32]>::to_vec);
        Ok(Self::Host {
            master: (!is_master).then(wide).transpose()?,
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
        })
    }

    /// One step of parameter number `i`, `var`.
    fn update(
        &mut self,
        i: usize,
        var: &Var,
        gradients: &Gradients,
        step: Step,
    ) -> candle_core::Result<()> {
        let lacking = || candle_core::Error::msg(format!("no gradient for parameter {i}"));
        match (self, gradients) {
            (
                Self::Host {
                    master,
                    first,
                    second,
                },
                Gradients::Host(all),
            ) => {
                let gradient = all.get(i).ok_or_else(lacking)?;
                match master {
                    Some(master) => {
                        update(&step, master, gradient, [first, second]);
                        let new = Tensor::from_slice(master, var.dims(), var.device())?;
                        var.set(&new.to_dtype(var.dtype())?)
                    }
                    None => var.as_tensor().inplace_op1(&Update {
                        step,
                        gradient,
                        moments: Mutex::new([first, second]),
                    }),
                }
            }
            (
                Self::Device {
                    master,
                    first,
                    second,
                },
                Gradients::Device(all),
            ) => {
                let gradient = all.get(i).ok_or_else(lacking)?.as_ref();
                let moments = [&*first, &*second];
                cuda::adamw(var.as_tensor(), master.as_ref(), moments, gradient, step)
            }
            _ => candle_core::bail!("gradients lie on another device"),
        }
    }

    fn save(&self, var: &Var) -> candle_core::Result<Saved> {
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        Ok(match self {
            Self::Host {
                master,
                first,
                second,
            } => Saved {
                weights: match master {
                    Some(master) => master.clone(),
                    None => with_values(var.as_tensor(), <[f32]>::to_vec)?,
                },
                first: first.clone(),
                second: second.clone(),
            },
            Self::Device {
                master,
                first,
                second,
            } => Saved {
                weights: flat(master.as_ref().unwrap_or(var.as_tensor()))?,
                first: flat(first)?,
                second: flat(second)?,
            },
        })
    }

    fn restore(&mut self, var: &Var, saved: &Saved) -> candle_core::Result<()> {
        let tensor = |values: &[f32]| Tensor::from_slice(values, var.dims(), var.device());
        let weights = tensor(&saved.weights)?;
        var.set(&weights.to_dtype(var.dtype())?)?;
        match self {
            Self::Host {
                master,
                first,
                second,
            } => {
                first.copy_from_slice(&saved.first);
                second.copy_from_slice(&saved.second);
                if let Some(master) = master {
                    master.copy_from_slice(&saved.weights);
                }
            }
            Self::Device {
                master,
                first,
                second,
            } => {
                if master.is_some() {
                    *master = Some(weights);
                }
                *first = tensor(&saved.first)?;
                *second = tensor(&saved.second)?;
            }
        }
        Ok(())
    }
}

/// One step of the f32 `weights` and their moments, in main memory.
fn update(step: &Step, weights: &mut [f32], gradient: &[f32], [first, second]: [&mut Vec<f32>; 2]) {
    let (scale, eps, keep) = (step.scale as f32, step.eps as f32, step.keep as f32);
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (new1, new2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let (rate, correction) = (step.rate as f32, step.correction as f32);
    weights
        .par_chunks_mut(BLOCK)
        .zip(gradient.par_chunks(BLOCK))
        .zip(first.par_chunks_mut(BLOCK))
        .zip(second.par_chunks_mut(BLOCK))
        .for_each(|(((weights, gradient), first), second)| {
            let moments = first.iter_mut().zip(second.iter_mut());
            for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
                let g = g * scale;
                *m = *m * beta1 + g * new1;
                *v = *v * beta2 + g * g * new2;
                *w = *w * keep - rate * *m / ((*v * correction).sqrt() + eps);
            }
        });
}

/// Updates an f32 parameter in main memory in place.
struct Update<'a> {
    step: Step,
    gradient: &'a [f32],
    moments: Mutex<[&'a mut Vec<f32>; 2]>,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((begin, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("a master weight must be contiguous f32")
        };
        let mut moments = self
            .moments
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let [first, second] = &mut *moments;
        let weights = &mut values[begin..end];
        update(&self.step, weights, self.gradient, [first, second]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        clip: 1.0,
    };

    /// The matrix decays, the norm does not and learns at another rate.
    fn adam(params: &BTreeMap<String, Var>, norm_scale: f64) -> AdamW {
        let group = |lr_scale, weight_decay| Group {
            lr_scale,
            weight_decay,
        };
        let groups = vec![group(1.0, 0.1), group(norm_scale, 0.0)];
        AdamW::new(params, groups, SETTINGS).unwrap()
    }

    fn params(dtype: DType) -> BTreeMap<String, Var> {
        let var = |values: &[f32], dims: &[usize]| {
            let tensor = Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
        };
        BTreeMap::from([
            ("matrix".to_owned(), var(&[1.0, -2.0], &[1, 2])),
            ("norm".to_owned(), var(&[3.0], &[1])),
        ])
    }

    fn values(var: &Var) -> Vec<f32> {
        with_values(var.as_tensor(), <[f32]>::to_vec).unwrap()
    }

    fn assert_near(found: &[f32], expected: &[f64]) {
        for (a, b) in found.iter().zip(expected) {
            assert!(
                (f64::from(*a) - b).abs() < 1e-6,
                "{found:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn two_steps_by_hand() {
        let params = params(DType::F32);
        let mut adam = adam(&params, 0.5);
        // Norm √(9 + 16 + 144) = 13: scaled to 3/13, −4/13, 12/13.
        let gradients = Gradients::Host(vec![vec![3.0, -4.0], vec![12.0]]);
        let norm = adam.step(&params, &gradients, 0.5).unwrap();
        assert!((norm - 13.0).abs() < 1e-9);
        // The first step moves every weight by lr against the gradient's sign, after decay
        // (matrices only) by 1 − 0.5 · 0.1.
        assert_near(&values(&params["matrix"]), &[0.95 - 0.5, -1.9 + 0.5]);
        assert_near(&values(&params["norm"]), &[2.75]);
        // Second step, norm 0.5, not clipped. Element 0: m = 0.9 · 0.1 · 3/13 + 0.1 · 0.3,
        // v = 0.95 · 0.05 · (3/13)² + 0.05 · 0.09; corrections 0.19 and 0.0975.
        let gradients = Gradients::Host(vec![vec![0.3, 0.4], vec![0.0]]);
        adam.step(&params, &gradients, 0.1).unwrap();
        let by_hand = |w: f64, g1: f64, g2: f64, keep: f64, lr: f64| {
            let m = (0.09 * g1 + 0.1 * g2) / 0.19;
            let v = (0.0475 * g1 * g1 + 0.05 * g2 * g2) / 0.0975;
            w * keep - lr * m / (v.sqrt() + 1e-8)
        };
        let expected = [
            by_hand(0.45, 3.0 / 13.0, 0.3, 0.99, 0.1),
            by_hand(-1.4, -4.0 / 13.0, 0.4, 0.99, 0.1),
        ];
        assert_near(&values(&params["matrix"]), &expected);
        assert_near(
            &values(&params["norm"]),
            &[by_hand(2.75, 12.0 / 13.0, 0.0, 1.0, 0.05)],
        );
    }

    #[test]
    fn low_precision_parameters_keep_small_updates_in_their_masters() {
        let params = params(DType::BF16);
        let mut adam = adam(&params, 1.0);
        let gradients = Gradients::Host(vec![vec![0.1, 0.1], vec![0.1]]);
        for _ in 0..100 {
            adam.step(&params, &gradients, 1e-4).unwrap();
        }
        // 100 steps of 1e-4 each; a bf16 weight of 3 would have lost them all.
        assert!((adam.save(1, &params["norm"]).unwrap().weights[0] - 2.99).abs() < 1e-4);
        assert_eq!(values(&params["norm"]), [2.984_375]);
    }

    #[test]
    fn a_restored_state_continues_bit_by_bit() {
        let gradients = Gradients::Host(vec![vec![0.3, -0.4], vec![0.7]]);
        let (a, b) = (params(DType::F32), params(DType::F32));
        let mut first = adam(&a, 1.0);
        first.step(&a, &gradients, 0.01).unwrap();
        let mut second = adam(&b, 1.0);
        for (i, (name, var)) in a.iter().enumerate() {
            second
                .restore(i, &b[name], first.save(i, var).unwrap())
                .unwrap();
        }
        second.set_steps(first.steps());
        first.step(&a, &gradients, 0.01).unwrap();
        second.step(&b, &gradients, 0.01).unwrap();
        for (i, (name, var)) in a.iter().enumerate() {
            assert_eq!(
                first.save(i, var).unwrap(),
                second.save(i, &b[name]).unwrap()
            );
        }
    }

    #[test]
    fn a_norm_that_is_no_number_changes_nothing() {
        let params = params(DType::F32);
        let mut adam = adam(&params, 1.0);
        let gradients = Gradients::Host(vec![vec![f32::NAN, 0.0], vec![0.0]]);
        assert!(adam.step(&params, &gradients, 0.1).unwrap().is_nan());
        assert_eq!(values(&params["matrix"]), [1.0, -2.0]);
    }
}
