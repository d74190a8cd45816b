//! Every method on updates that are opposed, equal, zero or tiny, of tensors of rank 0 to 4: beside
//! plain float64 arithmetic with mergekit's rules for what is zero up to rounding.

use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::merge::methods::{Base, METHODS};
use crate::merge::{MergeConfig, Output, TensorInputs, merge_elements};
use crate::tensors::{Dtype, Elements};

use super::fixtures::noise;

const SHAPES: [&[usize]; 7] = [&[], &[1], &[6], &[3, 4], &[5, 1], &[2, 3, 4], &[2, 3, 2, 2]];

/// Merges two models (and a base) of this shape.
fn merge(config: Value, shape: &[usize], base: &[f32], models: &[Vec<f32>]) -> Vec<f32> {
    let config = MergeConfig::from_value(&config, Path::new("")).unwrap();
    let out = Mutex::new(vec![0u8; base.len() * 4]);
    let write = |offset: u64, bytes: &[u8]| {
        let at = offset as usize;
        out.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    let output = Output {
        dtype: Dtype::F32,
        write: &write,
    };
    let base = base.to_vec();
    let models: Vec<&dyn Elements> = models.iter().map(|model| model as _).collect();
    let has_base = config.method.base != Base::Listed && config.base_model.is_some();
    let inputs = TensorInputs {
        name: "model.norm.weight",
        shape,
        base: has_base.then_some(&base as _),
        models: &models,
    };
    merge_elements(&config, &inputs, &output).unwrap();
    let bytes = out.into_inner().unwrap();
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|raw| f32::from_le_bytes(*raw)).collect()
}

/// A base, and an update that both are multiples of 2^-13: their sums are exact.
fn exact(shape: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let len = shape.iter().product();
    let grid = |seed: u64, scale: f32| {
        let value = move |i| (noise(seed, i) * scale * 8192.0).round() / 8192.0;
        (0..len).map(value).collect::<Vec<f32>>()
    };
    let nonzero = |x: f32| if x == 0.0 { 1.0 / 8192.0 } else { x };
    let update = grid(8, 0.25).into_iter().map(nonzero);
    (grid(7, 1.0), update.collect())
}

fn plus(base: &[f32], factor: f32, update: &[f32]) -> Vec<f32> {
    let pairs = base.iter().zip(update);
    pairs.map(|(base, update)| base + factor * update).collect()
}

fn near(found: &[f32], expected: &[f32], what: &str) {
    for (x, y) in found.iter().zip(expected) {
        assert!((x - y).abs() <= 2e-7, "{what}: {found:?}, not {expected:?}");
    }
}

fn config(method: &str, parameters: Value) -> Value {
    let method = METHODS.iter().find(|m| m.name == method).unwrap();
    let two = if method.models.1 == 1 {
        json!(["a"])
    } else {
        json!(["a", "b"])
    };
    let mut value = json!({"merge_method": method.name, "models": two, "parameters": parameters});
    if method.base != Base::Listed {
        value["base_model"] = "base".into();
    }
    value
}

/// Settings of the methods that take more than one model, and what becomes of the updates
/// `+u` and `-u` (with weight ½ each, where there are weights): a factor of `u`.
fn opposed() -> Vec<(&'static str, Value, f32)> {
    let half = json!({"weight": 0.5});
    vec![
        ("sce", json!({}), 1.0),
        ("varm", json!({}), 0.0),
        ("linear", half.clone(), 0.0),
        ("task_arithmetic", half.clone(), 0.0),
        // Where a sum is zero its sign is +.
        ("dare_linear", half.clone(), 0.0),
        ("della_linear", half.clone(), 0.0),
        ("breadcrumbs", half.clone(), 0.0),
        ("nuslerp", half.clone(), 0.0),
        (
            "nuslerp",
            json!({"weight": 0.5, "nuslerp_flatten": false}),
            0.0,
        ),
        (
            "nuslerp",
            json!({"weight": 0.5, "nuslerp_flatten": false, "nuslerp_row_wise": true}),
            0.0,
        ),
        ("multislerp", half, 0.0),
        ("model_stock", json!({}), 0.0),
        ("model_stock", json!({"filter_wise": true}), 0.0),
    ]
}

#[test]
fn opposed_updates_keep_the_base() {
    for (method, parameters, factor) in opposed() {
        for shape in SHAPES {
            let (base, update) = exact(shape);
            let models = [plus(&base, 1.0, &update), plus(&base, -1.0, &update)];
            let what = format!("{method} {parameters} {shape:?}");
            let found = merge(config(method, parameters.clone()), shape, &base, &models);
            let kept: Vec<f32> = update.iter().map(|u| u.abs()).collect();
            // What agrees on a sign keeps the positive half.
            near(&found, &plus(&base, factor, &kept), &what);
        }
    }
}

/// Numbers that are rounded when they are stored: the updates are opposed but for rounding, and what
/// is left of them must not become as large as they are.
#[test]
fn rounding_of_opposed_updates_is_not_amplified() {
    for (method, parameters, _) in opposed() {
        for shape in SHAPES.into_iter().chain([&[64, 32][..]]) {
            if method == "sce" {
                continue;
            }
            let len = shape.iter().product();
            let base: Vec<f32> = (0..len).map(|i| noise(3, i)).collect();
            let update: Vec<f32> = (0..len).map(|i| 0.02 * noise(4, i)).collect();
            let models = [plus(&base, 1.0, &update), plus(&base, -1.0, &update)];
            let found = merge(config(method, parameters.clone()), shape, &base, &models);
            near(&found, &base, &format!("{method} {parameters} {shape:?}"));
        }
    }
}

#[test]
fn opposed_updates_of_different_length_are_interpolated() {
    let (base, update) = exact(&[3, 4]);
    let models = [plus(&base, 1.0, &update), plus(&base, -2.0, &update)];
    let weights = json!({"weight": 0.5});
    let expected = plus(&base, -0.5, &update);
    let found = merge(config("nuslerp", weights), &[3, 4], &base, &models);
    near(&found, &expected, "nuslerp");
}

/// Equal updates: the model; no update: the base; whatever the size of the update.
#[test]
fn equal_and_zero_and_tiny_updates() {
    for method in METHODS {
        for shape in SHAPES {
            let (base, update) = exact(shape);
            for factor in [0.0, 1.0, 1e-8] {
                let model = plus(&base, factor, &update);
                let mut parameters = json!({});
                for p in method.parameters {
                    match p.name {
                        "weight" => parameters["weight"] = 0.5.into(),
                        "t" => parameters["t"] = 0.5.into(),
                        _ => {}
                    }
                }
                // Without weights that sum to one, or as part of the way.
                let share = match method.name {
                    "slerp" => 0.5,
                    _ => 1.0,
                };
                let what = format!("{} {shape:?} {factor}", method.name);
                let count = method.models.1.min(2);
                let models = vec![model; count];
                let found = merge(config(method.name, parameters), shape, &base, &models);
                assert!(found.iter().all(|x| x.is_finite()), "{what}");
                if method.name == "arcee_fusion" || (method.name == "slerp" && factor == 1.0) {
                    continue;
                }
                let expected = plus(&base, share * factor, &update);
                for (x, y) in found.iter().zip(&expected) {
                    assert!((x - y).abs() <= 4e-7, "{what}: {found:?} {expected:?}");
                }
            }
        }
    }
}

/// On a base of zeros, where the digits of tiny updates are not lost.
#[test]
fn tiny_updates_stay_tiny() {
    for (method, parameters, _) in opposed() {
        for shape in SHAPES {
            let update = exact(shape).1;
            let base = vec![0.0; update.len()];
            for signs in [[1e-8, 1e-8], [1e-8, -1e-8], [1e-8, -2e-8], [1e-8, 0.0]] {
                let models = signs.map(|sign| plus(&base, sign, &update));
                let found = merge(config(method, parameters.clone()), shape, &base, &models);
                let what = format!("{method} {parameters} {shape:?} {signs:?}");
                assert!(found.iter().all(|x| x.abs() <= 1e-8), "{what}: {found:?}");
            }
        }
    }
}

#[test]
fn directions_that_cancel_out() {
    for shape in SHAPES {
        let (_, update) = exact(shape);
        let opposite: Vec<f32> = update.iter().map(|x| -x).collect();
        let models = [update.clone(), opposite];
        for tol in [1e-5, 1e-9] {
            let karcher = json!({"merge_method": "karcher", "models": ["a", "b"],
                "parameters": {"tol": tol}});
            let found = merge(karcher, shape, &update, &models);
            near(&found, &update, "karcher keeps the first direction");
        }
        // Below the tolerance there is no direction.
        let tiny: Vec<f32> = update.iter().map(|x| x * 1e-7).collect();
        let karcher = json!({"merge_method": "karcher", "models": ["a", "b"]});
        let found = merge(karcher, shape, &tiny, &[tiny.clone(), tiny.clone()]);
        assert_eq!(found, tiny);
        for eps in [0.0, 1e-8] {
            let base = json!({"merge_method": "multislerp", "models": ["a", "b"],
                "parameters": {"weight": 0.5, "eps": eps}});
            let found = merge(base, shape, &update, &[update.clone(), update.clone()]);
            near(&found, &update, "multislerp of copies");
        }
        let slerp = json!({"merge_method": "slerp", "models": ["a"], "base_model": "base",
            "parameters": {"t": 0.25}});
        let found = merge(slerp, shape, &update, &models[1..]);
        let expected: Vec<f32> = update.iter().map(|x| 0.5 * x).collect();
        near(&found, &expected, "slerp of antipodes is linear");
    }
}

/// 0.3 − 0.1 − 0.2 is zero, and not in f32.
#[test]
fn weights_that_cancel_out_divide_by_nothing() {
    for method in [
        "ties",
        "dare_ties",
        "della",
        "breadcrumbs_ties",
        "task_arithmetic",
    ] {
        let config = json!({"merge_method": method, "base_model": "base", "models": [
            {"model": "a", "parameters": {"weight": 0.3}},
            {"model": "b", "parameters": {"weight": -0.1}},
            {"model": "c", "parameters": {"weight": -0.2}}],
            "parameters": {"normalize": true}});
        // The weighted updates agree on their sign.
        let models = [vec![1.5f32], vec![-0.5], vec![-0.5]];
        let found = merge(config, &[1], &[0.5], &models);
        // 0.3 · 1 + 0.1 · 1 + 0.2 · 1
        near(&found, &[1.1], method);
    }
}

#[test]
fn one_number_survives_where_mergekit_keeps_it() {
    for (method, kept) in [
        ("ties", true),
        ("breadcrumbs", false),
        ("breadcrumbs_ties", false),
    ] {
        for shape in [&[] as &[usize], &[1], &[1, 1]] {
            let config = json!({"merge_method": method, "base_model": "base", "models": ["a"],
                "parameters": {"weight": 1.0, "density": 0.5}});
            let found = merge(config, shape, &[1.0], &[vec![1.25]]);
            assert_eq!(found, [if kept { 1.25 } else { 1.0 }], "{method} {shape:?}");
        }
    }
    // Of a row of one number the rank says nothing: half of them survive.
    let config = json!({"merge_method": "della_linear", "base_model": "base", "models": ["a"],
        "parameters": {"weight": 1.0, "density": 0.5, "epsilon": 0.4, "rescale": false}});
    let found = merge(config, &[4000, 1], &vec![0.0; 4000], &[vec![1.0; 4000]]);
    let share = found.iter().sum::<f32>() / 4000.0;
    // The standard error is 0.008.
    assert!((share - 0.5).abs() < 0.03, "{share}");
}

/// Norms are taken over the first dimension, for each place of the others.
#[test]
fn row_wise_nuslerp_of_three_dimensions() {
    let shape = [2, 2, 2];
    let a: Vec<f32> = vec![1.0, 0.0, 3.0, 1.0, 0.0, 2.0, 4.0, -1.0];
    let b: Vec<f32> = vec![0.0, 1.0, 4.0, 1.0, 1.0, 0.0, -3.0, 2.0];
    let config = json!({"merge_method": "nuslerp", "models": ["a", "b"], "parameters":
        {"weight": 0.5, "nuslerp_flatten": false, "nuslerp_row_wise": true}});
    let found = merge(config, &shape, &a, &[a.clone(), b.clone()]);
    let mut expected = vec![0.0; 8];
    for place in 0..4 {
        let [x, y] = [&a, &b].map(|v| [f64::from(v[place]), f64::from(v[place + 4])]);
        let dot = |u: [f64; 2], v: [f64; 2]| u[0] * v[0] + u[1] * v[1];
        let cosine: f64 = dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
        let factor = (0.5 * cosine.acos()).sin() / cosine.acos().sin();
        expected[place] = (factor * (x[0] + y[0])) as f32;
        expected[place + 4] = (factor * (x[1] + y[1])) as f32;
    }
    for (x, y) in found.iter().zip(&expected) {
        assert!((x - y).abs() < 2e-6, "{found:?} {expected:?}");
    }
}
