//! Results beside straightforward float64 computations of the same methods, on the models of
//! `golden/merge`: where mergekit's own results are further away than a rounding, its
//! intermediates are the reason (bf16, or inner products in f32), not ours.

use std::path::Path;

use super::fixtures::{cases, folders, merged, open};
use crate::checkpoint::Checkpoint;
use crate::merge::methods::Scalar;
use crate::merge::{MergeConfig, Setting};
use crate::tensors::Dtype;

/// A method, as it is written in its paper.
type Method = fn(&Case) -> Vec<f64>;

/// One tensor of all models in float64, with the models' parameters.
struct Case {
    base: Vec<f64>,
    models: Vec<Vec<f64>>,
    weights: Vec<f64>,
    densities: Vec<f64>,
    gammas: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Σ factors[j] · vectors[j] (+ start).
fn sum(factors: &[f64], vectors: &[Vec<f64>], start: Option<&[f64]>) -> Vec<f64> {
    let mut out = start.map_or_else(|| vec![0.0; vectors[0].len()], <[f64]>::to_vec);
    for (factor, vector) in factors.iter().zip(vectors) {
        out.iter_mut()
            .zip(vector)
            .for_each(|(out, x)| *out += factor * x);
    }
    out
}

impl Case {
    fn updates(&self) -> Vec<Vec<f64>> {
        let minus = |model: &Vec<f64>| model.iter().zip(&self.base).map(|(x, b)| x - b).collect();
        self.models.iter().map(minus).collect()
    }

    fn linear(&self) -> Vec<f64> {
        let total: f64 = self.weights.iter().sum();
        let shares: Vec<f64> = self.weights.iter().map(|w| w / total).collect();
        sum(&shares, &self.models, None)
    }

    fn model_stock(&self) -> Vec<f64> {
        let updates = self.updates();
        let n = updates.len();
        let mut cosines = Vec::new();
        for (i, a) in updates.iter().enumerate() {
            for b in &updates[i + 1..] {
                cosines.push((dot(a, b) / (norm(a) * norm(b)).max(1e-6)).clamp(-1.0, 1.0));
            }
        }
        let cosine = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let t = n as f64 * cosine / (1.0 + (n as f64 - 1.0) * cosine);
        sum(&vec![t / n as f64; n], &updates, Some(&self.base))
    }

    fn nuslerp(&self) -> Vec<f64> {
        let updates = self.updates();
        let t = self.weights[1] / (self.weights[0] + self.weights[1]);
        let norms = norm(&updates[0]).max(1e-7) * norm(&updates[1]).max(1e-7);
        let angle = (dot(&updates[0], &updates[1]) / norms)
            .clamp(-1.0, 1.0)
            .acos();
        let factors = match angle.sin().abs() < 1e-8 {
            true => [1.0 - t, t],
            false => [
                ((1.0 - t) * angle).sin() / angle.sin(),
                (t * angle).sin() / angle.sin(),
            ],
        };
        sum(&factors, &updates, Some(&self.base))
    }

    fn karcher(&self) -> Vec<f64> {
        let tolerance = 1e-5;
        let norms: Vec<f64> = self.models.iter().map(|model| norm(model)).collect();
        let share = 1.0 / self.models.len() as f64;
        let units: Vec<Vec<f64>> = (self.models.iter().zip(&norms))
            .filter(|(_, norm)| **norm > tolerance)
            .map(|(model, norm)| model.iter().map(|x| x / norm).collect())
            .collect();
        let part = 1.0 / units.len() as f64;
        let scaled = |vector: Vec<f64>| -> Vec<f64> {
            let length = norm(&vector);
            vector.iter().map(|x| x / length).collect()
        };
        let mut mean = scaled(sum(&vec![part; units.len()], &units, None));
        for _ in 0..10 {
            let mut step = vec![0.0; mean.len()];
            for unit in &units {
                let cosine = dot(&mean, unit).clamp(-1.0, 1.0);
                let angle = cosine.acos();
                if angle >= tolerance {
                    let factor = part * angle / angle.sin();
                    for ((step, x), m) in step.iter_mut().zip(unit).zip(&mean) {
                        *step += factor * (x - cosine * m);
                    }
                }
            }
            let length = norm(&step);
            if length < tolerance {
                break;
            }
            let factors = [length.cos(), length.sin() / length];
            mean = scaled(sum(&factors, &[mean, step], None));
        }
        let scale: f64 = norms.iter().map(|norm| share * norm).sum();
        mean.iter().map(|x| scale * x).collect()
    }

    /// The updates times their weights, zero where they do not survive.
    fn sparse(&self, banded: bool) -> Vec<Vec<f64>> {
        let mut updates = self.updates();
        for (j, update) in updates.iter_mut().enumerate() {
            let len = update.len();
            let kept = (self.densities[j] * len as f64) as usize;
            let dropped = match banded {
                true => ((self.gammas[j] * len as f64) as usize).min(len - kept),
                false => 0,
            };
            let mut order: Vec<usize> = (0..len).collect();
            order.sort_by(|a, b| update[*b].abs().total_cmp(&update[*a].abs()).then(a.cmp(b)));
            let mut sparse = vec![0.0; len];
            for at in &order[dropped..dropped + kept] {
                sparse[*at] = self.weights[j] * update[*at];
            }
            *update = sparse;
        }
        updates
    }

    fn breadcrumbs(&self) -> Vec<f64> {
        let updates = self.sparse(true);
        sum(&vec![1.0; updates.len()], &updates, Some(&self.base))
    }

    /// NaN where weighted updates cancel out, so that the sign of their sum is rounding.
    fn ties(&self) -> Vec<f64> {
        let updates = self.sparse(false);
        let mut out = self.base.clone();
        for (at, out) in out.iter_mut().enumerate() {
            let here = || updates.iter().map(|update| update[at]);
            let total: f64 = here().sum();
            let size: f64 = here().map(f64::abs).sum();
            if total.abs() < 1e-5 * size {
                *out = f64::NAN;
                continue;
            }
            let kept = || here().zip(&self.weights).filter(|(x, _)| x * total > 0.0);
            let divisor: f64 = kept().map(|(_, w)| w).sum();
            if divisor > 0.0 {
                *out += kept().map(|(x, _)| x).sum::<f64>() / divisor;
            }
        }
        out
    }
}

fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    let values = checkpoint.tensor(name).unwrap().to_f32();
    values.into_iter().map(f64::from).collect()
}

fn parameter(config: &MergeConfig, name: &str) -> Vec<f64> {
    let sources = config.slices[0].sources.iter();
    let of = |settings: &[(String, Setting)]| {
        settings.iter().find_map(|(key, setting)| match setting {
            Setting::Scalar(Scalar::Number(value)) if key == name => Some(*value),
            _ => None,
        })
    };
    sources
        .map(|source| {
            of(&source.parameters)
                .or(of(&config.parameters))
                .unwrap_or(1.0)
        })
        .collect()
}

fn compare(case: &Path, name: &str, method: Method, failures: &mut Vec<String>) {
    let Ok(text) = std::fs::read_to_string(case.join("out").join(name).join("cfg.yml")) else {
        return;
    };
    let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let config = MergeConfig::from_value(&value, case).unwrap();
    let (out, _) = merged(&config);
    let ours = open(&out);
    let pivot = Checkpoint::open(&case.join("pivot")).unwrap();
    let models: Vec<Checkpoint> = config.slices[0]
        .sources
        .iter()
        .map(|source| Checkpoint::open(&case.join(&source.model)).unwrap())
        .collect();
    for tensor in ours.tensors() {
        let job = Case {
            base: read(&pivot, &tensor.name),
            models: models
                .iter()
                .map(|model| read(model, &tensor.name))
                .collect(),
            weights: parameter(&config, "weight"),
            densities: parameter(&config, "density"),
            gammas: parameter(&config, "gamma"),
        };
        let expected = method(&job);
        let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let wrong = |(x, y): &(f64, f64)| match tensor.dtype {
            Dtype::BF16 => {
                let bits = |x: f64| i64::from((Dtype::BF16.round(x as f32)).to_bits() as i32 >> 16);
                (bits(*x) - bits(*y)).abs() > 1 && (x - y).abs() > 1e-6 * largest
            }
            _ => (x - y).abs() > 1e-6 * largest,
        };
        let pairs = read(&ours, &tensor.name).into_iter().zip(expected);
        let count = pairs.filter(|(_, y)| !y.is_nan()).filter(wrong).count();
        if count > 0 {
            failures.push(format!(
                "{}/{name} {}: {count}",
                case.display(),
                tensor.name
            ));
        }
    }
}

#[test]
fn results_are_those_of_float64_arithmetic() {
    let methods: [(&str, Method); 6] = [
        ("linear", Case::linear),
        ("model_stock", Case::model_stock),
        ("nuslerp", Case::nuslerp),
        ("karcher", Case::karcher),
        ("breadcrumbs", Case::breadcrumbs),
        ("ties", Case::ties),
    ];
    let mut failures = Vec::new();
    for case in cases() {
        // The models of `edge-f32` cancel out or are colinear, where branches are rounding.
        if folders(&case).is_empty() || case.ends_with("edge-f32") {
            continue;
        }
        for (name, method) in methods {
            compare(&case, name, method, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
