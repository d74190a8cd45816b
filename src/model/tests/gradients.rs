//! Agreement, in values and gradients, with a plain version in float64.

use std::collections::BTreeMap;

use candle_core::{D, Var};

use super::*;

/// The same model from elementary differentiable operations only, in the parameters' dtype.
fn plain_logits(config: &Config, params: &BTreeMap<String, Tensor>, ids: &Tensor) -> Tensor {
    fn norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
        let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let root = (mean + eps).unwrap().sqrt().unwrap();
        x.broadcast_div(&root)
            .unwrap()
            .broadcast_mul(weight)
            .unwrap()
    }
    let c = config;
    let dtype = params["model.norm.weight"].dtype();
    let (batch, len) = ids.dims2().unwrap();
    let (heads, d) = (c.num_attention_heads, c.head_dim);
    let groups = c.num_key_value_heads;
    let angles: Vec<f64> = (0..len)
        .flat_map(|position| {
            let frequencies = c.rope.frequencies(d);
            frequencies
                .into_iter()
                .map(move |f| f64::from(position as f32 * f))
        })
        .collect();
    let angles = Tensor::from_vec(angles, (len, d / 2), &Device::Cpu).unwrap();
    let angles = angles.to_dtype(dtype).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    let rotate = |x: &Tensor| {
        let a = x.narrow(3, 0, d / 2).unwrap();
        let b = x.narrow(3, d / 2, d / 2).unwrap();
        let times = |x: &Tensor, y: &Tensor| x.broadcast_mul(y).unwrap();
        let first = (times(&a, &cos) - times(&b, &sin)).unwrap();
        let second = (times(&a, &sin) + times(&b, &cos)).unwrap();
        Tensor::cat(&[first, second], 3).unwrap()
    };
    let mut x = params["model.embed_tokens.weight"]
        .index_select(&ids.flatten_all().unwrap(), 0)
        .unwrap();
    for layer in 0..c.num_hidden_layers {
        let get = |name: &str| params.get(&format!("model.layers.{layer}.{name}"));
        let linear = |name: &str, x: &Tensor| {
            let weight = get(&format!("{name}.weight")).unwrap();
            let y = x.matmul(&weight.t().unwrap()).unwrap();
            match get(&format!("{name}.bias")) {
                Some(bias) => y.broadcast_add(bias).unwrap(),
                None => y,
            }
        };
        let y = norm(&x, get("input_layernorm.weight").unwrap(), c.rms_norm_eps);
        let split = |name: &str, norm_name: &str, count: usize| {
            let mut z = linear(name, &y).reshape((batch, len, count, d)).unwrap();
            if let Some(weight) = get(norm_name) {
                z = norm(&z, weight, c.rms_norm_eps);
            }
            let z = z.transpose(1, 2).unwrap().contiguous().unwrap();
            if name.ends_with("v_proj") {
                z
            } else {
                rotate(&z)
            }
        };
        let repeat = |z: Tensor| {
            let shape = (batch, groups, heads / groups, len, d);
            let z = z.unsqueeze(2).unwrap().broadcast_as(shape).unwrap();
            z.contiguous()
                .unwrap()
                .reshape((batch, heads, len, d))
                .unwrap()
        };
        let q = split("self_attn.q_proj", "self_attn.q_norm.weight", heads);
        let k = repeat(split("self_attn.k_proj", "self_attn.k_norm.weight", groups));
        let v = repeat(split("self_attn.v_proj", "none", groups));
        let window = c.windows[layer].unwrap_or(len);
        let mask: Vec<f64> = (0..len)
            .flat_map(|i| {
                (0..len).map(move |j| {
                    let seen = j <= i && i - j < window;
                    if seen { 0.0 } else { f64::NEG_INFINITY }
                })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (len, len), &Device::Cpu).unwrap();
        let mask = mask.to_dtype(dtype).unwrap();
        let scores = (q.matmul(&k.t().unwrap()).unwrap() / (d as f64).sqrt()).unwrap();
        let scores = scores.broadcast_add(&mask).unwrap();
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)
            .unwrap()
            .matmul(&v)
            .unwrap();
        let mixed = mixed.transpose(1, 2).unwrap().contiguous().unwrap();
        let mixed = mixed.reshape((batch * len, heads * d)).unwrap();
        x = (x + linear("self_attn.o_proj", &mixed)).unwrap();
        let y = norm(
            &x,
            get("post_attention_layernorm.weight").unwrap(),
            c.rms_norm_eps,
        );
        let gate = linear("mlp.gate_proj", &y);
        let gate = match c.activation {
            Activation::Silu => {
                // x * sigmoid(x), from elementary operations
                let one = (gate.neg().unwrap().exp().unwrap() + 1.0).unwrap();
                (&gate / one).unwrap()
            }
            Activation::Gelu => gate.gelu_erf().unwrap(),
            Activation::GeluTanh => gate.gelu().unwrap(),
        };
        let inner = (gate * linear("mlp.up_proj", &y)).unwrap();
        x = (x + linear("mlp.down_proj", &inner)).unwrap();
    }
    let x = norm(&x, &params["model.norm.weight"], c.rms_norm_eps);
    let head = params
        .get("lm_head.weight")
        .unwrap_or(&params["model.embed_tokens.weight"]);
    x.matmul(&head.t().unwrap()).unwrap()
}

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
            (plain_logits(&config, params, &ids) * &weights)
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
            let plain = plain_logits(&config, &params, &ids);
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
