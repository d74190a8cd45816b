//! Agreement, in values and gradients, with a plain version in float64.

use std::collections::BTreeMap;

use candle_core::Var;

use super::*;

#[test]
fn gradients_reach_everything_and_are_right() {
    let ids = some_ids();
    for (name, config) in variants() {
        let decoder = random(&config, Mode::Training);
        let logits = all_logits(&decoder, &ids);
        let weights = direction(&logits, 5);
        let loss = (logits * weights.to_dtype(DType::F32).unwrap()).unwrap();
        let grads = loss.sum_all().unwrap().backward().unwrap();

        let plain: BTreeMap<String, Var> = decoder
            .params()
            .iter()
            .map(|(name, var)| {
                let wide = var.as_detached_tensor().to_dtype(DType::F64).unwrap();
                (name.clone(), Var::from_tensor(&wide).unwrap())
            })
            .collect();
        let plain_loss = |params: &BTreeMap<String, Tensor>| {
            (plain::logits(&config, params, &ids) * &weights)
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let tensors: BTreeMap<String, Tensor> = plain
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        let plain_grads = plain_loss(&tensors).backward().unwrap();

        for (index, (param, var)) in decoder.params().iter().enumerate() {
            let at = format!("{name}: {param}");
            let grad = grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("no gradient: {at}"));
            assert_eq!(grad.shape(), var.shape(), "{at}");
            let grad = grad.to_dtype(DType::F64).unwrap();
            let size = grad.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            let size = size.to_scalar::<f64>().unwrap();
            assert!(size > 1e-6, "{at}: gradient is zero");

            let plain_grad = plain_grads.get(&tensors[param]).unwrap();
            let difference = largest_difference(&grad, plain_grad);
            assert!(
                difference < 2e-4 * size.max(1.0),
                "{at}: {difference} of {size}"
            );

            let along = direction(var.as_tensor(), index as u64);
            let moved = |step: f64| {
                let mut params = tensors.clone();
                let value = (tensors[param].detach() + (&along * step).unwrap()).unwrap();
                params.insert(param.clone(), value);
                plain_loss(&params).to_scalar::<f64>().unwrap()
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let product = (&grad * &along).unwrap().sum_all().unwrap();
            let product = product.to_scalar::<f64>().unwrap();
            let tolerance = 1e-3 * size.max(1.0);
            assert!(
                (slope - product).abs() < tolerance,
                "{at}: {product}, slope {slope}"
            );
        }
    }
}

#[test]
fn fused_and_plain_logits_agree_in_both_modes() {
    let ids = some_ids();
    for (name, config) in variants() {
        for mode in [Mode::Inference, Mode::Training] {
            let decoder = random(&config, mode);
            let params = decoder
                .params()
                .iter()
                .map(|(name, var)| {
                    let wide = var.as_detached_tensor().to_dtype(DType::F64).unwrap();
                    (name.clone(), wide)
                })
                .collect();
            let plain = plain::logits(&config, &params, &ids);
            let difference = largest_difference(&all_logits(&decoder, &ids), &plain);
            assert!(difference < 1e-4, "{name} {mode:?}: {difference}");
        }
    }
}

#[test]
fn attached_backwards_are_used() {
    let a = Var::from_vec(vec![1f32, 2.0], 2, &Device::Cpu).unwrap();
    let b = Var::from_vec(vec![3f32, 4.0], 2, &Device::Cpu).unwrap();
    let product = (a.as_detached_tensor() * b.as_detached_tensor()).unwrap();
    let c = attach2(a.as_tensor(), b.as_tensor(), &product, |a, b, _, g| {
        Ok(((b * g)?, (a * g)?))
    })
    .unwrap();
    let loss = c.sum_all().unwrap();
    let loss = attach1(&loss, &loss, |_, _, g| g * 2.0).unwrap();
    assert_eq!(loss.to_scalar::<f32>().unwrap(), 11.0);
    let grads = loss.backward().unwrap();
    let grad = |var: &Var| {
        grads
            .get(var.as_tensor())
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    assert_eq!(grad(&a), [6.0, 8.0]);
    assert_eq!(grad(&b), [2.0, 4.0]);
}
