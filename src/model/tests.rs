//! The decoder against Hugging Face transformers, a plain float64 version, and bad files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, IndexOp, Tensor, Var};
use serde_json::{Map, Value, json};

use super::*;

fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let dir = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| default.to_owned());
    let dir = PathBuf::from(dir);
    if !dir.is_dir() {
        eprintln!("skipped: no shared test material at {}", dir.display());
        return None;
    }
    Some(dir)
}

fn options(mode: Mode) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode,
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    all.sort();
    all
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let f64s = |t: &Tensor| {
        t.detach()
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
    };
    let difference = (f64s(a) - f64s(b)).unwrap().abs().unwrap();
    difference.max(0).unwrap().to_scalar::<f64>().unwrap()
}

fn all_logits(decoder: &Decoder, ids: &Tensor) -> Tensor {
    let hidden = decoder.hidden(ids).unwrap();
    decoder.logits(&hidden.flatten_to(1).unwrap()).unwrap()
}

// ---- small variants ----

/// A `config.json` of a tiny model with `changes` applied.
fn tiny(changes: Value) -> Map<String, Value> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 19, "hidden_size": 12,
        "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "initializer_range": 0.3, "hidden_act": "silu",
    });
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    map.clone()
}

fn variants() -> Vec<(&'static str, Config)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 500.0});
    [
        ("llama", json!({})),
        ("tied", json!({"tie_word_embeddings": true})),
        ("biases", json!({"attention_bias": true, "mlp_bias": true})),
        ("llama3 rope", json!({"rope_parameters": llama3})),
        (
            "linear rope",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ),
        (
            "mistral window",
            json!({"architectures": ["MistralForCausalLM"], "sliding_window": 3}),
        ),
        ("qwen2", json!({"architectures": ["Qwen2ForCausalLM"]})),
        (
            "qwen2 windows",
            json!({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true,
                "sliding_window": 2, "max_window_layers": 1}),
        ),
        ("qwen3", json!({"architectures": ["Qwen3ForCausalLM"]})),
        ("gelu", json!({"hidden_act": "gelu_pytorch_tanh"})),
    ]
    .into_iter()
    .map(|(name, changes)| {
        let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
        (name, config)
    })
    .collect()
}

/// A random model whose norms and biases have left their defaults too.
fn random(config: &Config, mode: Mode) -> Decoder {
    let decoder = Decoder::random(config.clone(), &options(mode), 7).unwrap();
    for (index, var) in decoder.params().values().enumerate() {
        let noise = direction(var.as_tensor(), 1000 + index as u64);
        let noise = noise.to_dtype(DType::F32).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap())
            .unwrap();
    }
    decoder
}

/// A fixed pseudo-random f64 tensor in the shape of `like`, values in [-1, 1).
fn direction(like: &Tensor, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..like.elem_count())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(values, like.shape(), &Device::Cpu).unwrap()
}

fn some_ids() -> Tensor {
    let ids: Vec<u32> = (0..18).map(|i| (i * i * 7 + 3) % 19).collect();
    Tensor::from_vec(ids, (2, 9), &Device::Cpu).unwrap()
}

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

// ---- against others ----

/// `tests/golden`-style folders written by transformers 5.12 (`how_made.py` beside them).
#[test]
fn logits_agree_with_transformers() {
    let Some(shared) = shared() else { return };
    let mut run = Vec::new();
    for dir in folders(&shared.join("golden/models")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let expected = dir.join("expected.safetensors");
        let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
        let ids = expected["ids"].to_dtype(DType::U32).unwrap();
        for mode in [Mode::Inference, Mode::Training] {
            let decoder = match Decoder::load(&dir, &options(mode)) {
                Ok(decoder) => decoder,
                Err(error) => {
                    assert!(
                        error.to_string().contains("supported architectures"),
                        "{error}"
                    );
                    eprintln!("skipped {name}: {error}");
                    continue;
                }
            };
            let difference = largest_difference(&all_logits(&decoder, &ids), &expected["logits"]);
            assert!(difference < 1e-4, "{name} {mode:?}: {difference}");
            run.push(name.clone());
        }
    }
    for name in [
        "llama",
        "llama3-rope",
        "llama-tied",
        "mistral",
        "mistral-window",
        "qwen2",
        "qwen3",
    ] {
        assert!(run.iter().any(|done| done == name), "{name} did not run");
    }
}

/// Trained models; references confirmed with transformers (`reference.json` beside them).
#[test]
fn trained_models_agree_with_their_references() {
    let Some(shared) = shared() else { return };
    for dir in folders(&shared.join("assets/models")) {
        let text = std::fs::read_to_string(dir.join("reference.json")).unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        let ids =
            |field: &str| -> Vec<u32> { serde_json::from_value(reference[field].clone()).unwrap() };
        let numbers =
            |field: &str| -> Vec<f64> { serde_json::from_value(reference[field].clone()).unwrap() };
        let decoder = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
        let tokens = ids("ids");
        let vocab = decoder.config().vocab_size;
        let input = Tensor::from_slice(&tokens, (1, tokens.len()), &Device::Cpu).unwrap();
        let hidden = decoder.hidden(&input).unwrap().squeeze(0).unwrap();

        let logits = decoder.logits(&hidden).unwrap();
        let first = logits.i((0, ..8)).unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in first.iter().zip(numbers("logits_row0_first8")) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-4 + 5e-5,
                "{}",
                dir.display()
            );
        }
        let rows = hidden.narrow(0, 0, tokens.len() - 1).unwrap();
        let nll = numbers("per_token_nll");
        next_token(&decoder, &rows, &tokens[1..], vocab, 0, |row, next| {
            let difference = f64::from(next.target_logprob) + nll[row];
            assert!(
                difference.abs() < 1e-4,
                "{} row {row}: {difference}",
                dir.display()
            );
            Ok(())
        })
        .unwrap();

        let greedy = ids("greedy");
        let settings = GenerateOptions {
            temperature: 0.0,
            max_new_tokens: greedy.len().saturating_sub(5),
            ..GenerateOptions::default()
        };
        let mut streamed = Vec::new();
        let new = generate(&decoder, &greedy[..5], vocab, &settings, |token| {
            streamed.push(token);
            Ok(())
        })
        .unwrap();
        assert_eq!(new, streamed);
        assert_eq!(new, greedy[5..], "{}", dir.display());
    }
}

// ---- gradients ----

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

// ---- invariances ----

#[test]
fn steps_with_a_cache_equal_the_whole_sequence() {
    let ids = some_ids();
    for (name, config) in variants() {
        let decoder = random(&config, Mode::Inference);
        let whole = decoder.hidden(&ids).unwrap();
        for sizes in [vec![9], vec![1; 9], vec![4, 1, 3, 1]] {
            let mut cache = Cache::new(&decoder, 2, 9).unwrap();
            let mut begin = 0;
            for len in sizes {
                let part = ids.narrow(1, begin, len).unwrap().contiguous().unwrap();
                let step = decoder.step(&part, &mut cache).unwrap();
                let want = whole.narrow(1, begin, len).unwrap();
                let difference = largest_difference(&step, &want);
                assert!(difference < 1e-4, "{name} at {begin}: {difference}");
                begin += len;
            }
            assert_eq!(cache.len(), 9);
            let more = ids.narrow(1, 0, 1).unwrap().contiguous().unwrap();
            assert!(decoder.step(&more, &mut cache).is_err());
        }
    }
}

#[test]
fn a_batch_equals_its_samples_one_by_one() {
    let ids = some_ids();
    for (name, config) in variants() {
        let decoder = random(&config, Mode::Inference);
        let both = decoder.hidden(&ids).unwrap();
        for sample in 0..2 {
            let one = decoder.hidden(&ids.narrow(0, sample, 1).unwrap()).unwrap();
            let difference = largest_difference(&one, &both.narrow(0, sample, 1).unwrap());
            assert!(difference < 1e-5, "{name} sample {sample}: {difference}");
        }
    }
}

#[test]
fn random_models_are_the_same_everywhere() {
    let (_, config) = variants().remove(0);
    let model = |seed| Decoder::random(config.clone(), &options(Mode::Inference), seed).unwrap();
    let first = |decoder: &Decoder| {
        let weight = decoder.params()["model.embed_tokens.weight"].as_detached_tensor();
        weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let values = first(&model(1));
    assert_eq!(values, first(&model(1)));
    assert_ne!(values, first(&model(2)));
    let count = values.len() as f32;
    let mean = values.iter().sum::<f32>() / count;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
    assert!(mean.abs() < 0.06, "{mean}");
    assert!((variance.sqrt() - 0.3).abs() < 0.04, "{variance}");
    let total: usize = model(1).params().values().map(|var| var.elem_count()).sum();
    assert_eq!(config.parameters(), total as u64);
}

#[test]
fn generation_repeats_with_its_seed_and_keeps_its_limits() {
    let (_, config) = variants().remove(0);
    let decoder = random(&config, Mode::Inference);
    let run =
        |options: &GenerateOptions| generate(&decoder, &[3, 1], 11, options, |_| Ok(())).unwrap();
    let options = GenerateOptions {
        temperature: 1.0,
        top_p: Some(0.95),
        ..GenerateOptions::default()
    };
    let text = run(&options);
    assert_eq!(text, run(&options));
    // The context has 32 places; the last token chosen need not be read.
    assert_eq!(text.len(), 31);
    assert!(text.iter().all(|&id| id < 11));
    let stopped = run(&GenerateOptions {
        stop: vec![text[4]],
        ..options.clone()
    });
    assert!(stopped.len() <= 4 && text.starts_with(&stopped));
    let other = run(&GenerateOptions { seed: 1, ..options });
    assert_ne!(text, other);
    assert!(generate(&decoder, &[], 11, &GenerateOptions::default(), |_| Ok(())).is_err());
    assert!(generate(&decoder, &[99], 11, &GenerateOptions::default(), |_| Ok(())).is_err());
}

#[test]
fn next_token_equals_a_full_softmax() {
    let (_, config) = variants().remove(0);
    let decoder = random(&config, Mode::Inference);
    let hidden = decoder.hidden(&some_ids()).unwrap().flatten_to(1).unwrap();
    let targets: Vec<u32> = (0..18).map(|i| (i * 5) % 17).collect();
    let logits = decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
    for (vocab, k) in [(17, 0), (17, 1), (17, 5), (17, 17), (17, 40), (19, 3)] {
        let mut rows = 0;
        next_token(&decoder, &hidden, &targets, vocab, k, |row, next| {
            assert_eq!(row, rows);
            rows += 1;
            let exps: Vec<f64> = logits[row][..vocab]
                .iter()
                .map(|&x| f64::from(x).exp())
                .collect();
            let sum: f64 = exps.iter().sum();
            let target = exps[targets[row] as usize] / sum;
            assert!((f64::from(next.target_logprob) - target.ln()).abs() < 1e-5);
            let mut order: Vec<usize> = (0..vocab).collect();
            order.sort_by(|&a, &b| exps[b].total_cmp(&exps[a]).then(a.cmp(&b)));
            assert_eq!(next.ids.len(), k.min(vocab));
            for ((&id, &logprob), &want) in next.ids.iter().zip(next.logprobs).zip(&order) {
                assert_eq!(id as usize, want);
                assert!((f64::from(logprob) - (exps[want] / sum).ln()).abs() < 1e-5);
            }
            let tail: f64 = order.iter().skip(k).map(|&id| exps[id] / sum).sum();
            if k >= vocab {
                assert_eq!(next.tail_logprob, f32::NEG_INFINITY);
            } else {
                assert!((f64::from(next.tail_logprob) - tail.ln()).abs() < 1e-5);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, 18);
    }
    let head = decoder.params()["lm_head.weight"].clone();
    let bad = (head.as_detached_tensor() / 0.0).unwrap();
    head.set(&bad).unwrap();
    let error = next_token(&decoder, &hidden, &targets, 17, 2, |_, _| Ok(())).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("row 0: expected finite logits"),
        "{error}"
    );
}

// ---- files ----

fn saved(config: &Config, dir: &Path) -> Decoder {
    let decoder = random(config, Mode::Inference);
    decoder.save(dir, dir, DType::F32).unwrap();
    decoder
}

#[test]
fn a_saved_model_loads_again() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("tokenizer.json"), "{}").unwrap();
    for (name, config) in variants() {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        let decoder = random(&config, Mode::Inference);
        for dtype in [DType::F32, DType::BF16] {
            decoder.save(&dir, base.path(), dtype).unwrap();
            let again = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
            for (param, var) in decoder.params() {
                let want = var.as_detached_tensor().to_dtype(dtype).unwrap();
                let got = again.params()[param].as_detached_tensor();
                assert_eq!(largest_difference(&got, &want), 0.0, "{name} {param}");
            }
            assert_eq!(again.params().len(), decoder.params().len());
        }
        assert!(dir.join("tokenizer.json").exists());
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
        let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary folders are left");
    }
}

fn load_error(dir: &Path) -> String {
    match Decoder::load(dir, &options(Mode::Inference)) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn damaged_checkpoints_are_refused_by_name() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let (_, config) = variants().remove(0);
    saved(&config, &dir);
    let weights = dir.join("model.safetensors");
    let good = std::fs::read(&weights).unwrap();

    for len in [0, 5, 100, good.len() - 1] {
        std::fs::write(&weights, &good[..len]).unwrap();
        let error = load_error(&dir);
        assert!(error.contains("model.safetensors"), "{error}");
    }
    std::fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    assert!(load_error(&dir).contains("not a complete safetensors file"));
    std::fs::remove_file(&weights).unwrap();
    assert!(load_error(&dir).contains("found neither"));

    let rewrite = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        std::fs::write(&weights, &good).unwrap();
        let all = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
        let mut all: BTreeMap<String, Tensor> = all.into_iter().collect();
        change(&mut all);
        let all: std::collections::HashMap<String, Tensor> = all.into_iter().collect();
        candle_core::safetensors::save(&all, &weights).unwrap();
    };
    let k = "model.layers.1.self_attn.k_proj.weight";
    let gate = "model.layers.0.mlp.gate_proj.weight";
    rewrite(&|all| drop(all.remove(k)));
    assert!(load_error(&dir).contains(&format!("lacks tensor `{k}`")));
    rewrite(&|all| {
        let extra = all[k].clone();
        all.insert("model.layers.0.extra".to_owned(), extra);
    });
    assert!(load_error(&dir).contains("has tensor `model.layers.0.extra`"));
    rewrite(&|all| {
        let t = all[gate].t().unwrap().contiguous().unwrap();
        all.insert(gate.to_owned(), t);
    });
    let error = load_error(&dir);
    let words = format!("tensor `{gate}`: expected shape [20, 12], found [12, 20]");
    assert!(error.contains(&words), "{error}");
    rewrite(&|all| {
        let t = all[k].to_dtype(DType::U8).unwrap();
        all.insert(k.to_owned(), t);
    });
    assert!(load_error(&dir).contains("expected dtype"));
    rewrite(&|all| {
        // What old exporters leave behind is no error.
        let t = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        all.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), t);
    });
    assert!(Decoder::load(&dir, &options(Mode::Inference)).is_ok());
}

#[test]
fn shards_load_and_bad_indexes_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let (_, config) = variants().remove(0);
    let decoder = saved(&config, &dir);
    let all = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let (mut parts, mut map) = (
        [std::collections::HashMap::new(), Default::default()],
        Map::new(),
    );
    for (index, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(
            name.clone(),
            json!(format!("part-{}.safetensors", index % 2)),
        );
        parts[index % 2].insert(name, tensor);
    }
    for (index, part) in parts.iter().enumerate() {
        let path = dir.join(format!("part-{index}.safetensors"));
        candle_core::safetensors::save(part, path).unwrap();
    }
    let index = dir.join("model.safetensors.index.json");
    let write = |map: &Map<String, Value>| {
        std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    let again = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
    let ids = some_ids();
    assert_eq!(
        largest_difference(&all_logits(&decoder, &ids), &all_logits(&again, &ids)),
        0.0
    );

    let place = |value: Value| {
        let mut changed = map.clone();
        changed.insert("model.norm.weight".to_owned(), value);
        write(&changed);
        load_error(&dir)
    };
    for value in ["../part-0.safetensors", "/etc/passwd", "a/b", ".."] {
        let error = place(json!(value));
        assert!(error.contains("weight_map.model.norm.weight"), "{error}");
    }
    assert!(place(json!(3)).contains("weight_map.model.norm.weight"));
    assert!(place(json!("part-2.safetensors")).contains("part-2.safetensors"));
    let other = if map["model.norm.weight"] == json!("part-0.safetensors") {
        1
    } else {
        0
    };
    let error = place(json!(format!("part-{other}.safetensors")));
    assert!(
        error.contains("lacks tensor `model.norm.weight`"),
        "{error}"
    );
    std::fs::write(&index, "[1]").unwrap();
    assert!(load_error(&dir).contains("`weight_map`"));
}

#[test]
fn bad_configurations_name_file_and_field() {
    let error = |changes: Value| {
        Config::from_json(tiny(changes), Path::new("m/config.json"))
            .unwrap_err()
            .to_string()
    };
    for (changes, words) in [
        (
            json!({"architectures": ["BertModel"]}),
            "LlamaForCausalLM, MistralForCausalLM",
        ),
        (
            json!({"architectures": ["LlamaForCausalLm"]}),
            "did you mean `LlamaForCausalLM`?",
        ),
        (
            json!({"hidden_size": 0}),
            "field `hidden_size`: expected a positive integer, found `0`",
        ),
        (json!({"hidden_size": -3}), "found `-3`"),
        (json!({"hidden_size": "x"}), "found `\"x\"`"),
        (json!({"vocab_size": null}), "field `vocab_size`"),
        (
            json!({"num_key_value_heads": 3}),
            "a divisor of the 4 query heads",
        ),
        (json!({"head_dim": 5}), "an even number"),
        (
            json!({"num_hidden_layers": 1e9 as u64}),
            "num_hidden_layers",
        ),
        (
            json!({"vocab_size": u32::MAX, "hidden_size": u32::MAX, "intermediate_size": u32::MAX}),
            "more parameters",
        ),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"hidden_act": "relu"}), "hidden_act"),
        (
            json!({"rope_scaling": {"type": "yarn"}}),
            "`rope_scaling.type`: expected default",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3"}}),
            "`rope_parameters.low_freq_factor`",
        ),
        (
            json!({"rope_scaling": 3}),
            "`rope_scaling`: expected an object",
        ),
        (json!({"tie_word_embeddings": "yes"}), "true or false"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
    ] {
        let error = error(changes);
        assert!(
            error.contains("m/config.json") && error.contains(words),
            "{error}"
        );
    }
    let missing = tempfile::tempdir().unwrap();
    assert!(load_error(missing.path()).contains("config.json"));
    std::fs::write(missing.path().join("config.json"), "{").unwrap();
    assert!(load_error(missing.path()).contains("not valid JSON"));
}

#[test]
fn devices_are_named_or_refused_plainly() {
    assert!(device("cpu").unwrap().is_cpu());
    assert!(device("gpu").unwrap_err().to_string().contains("`cuda:N`"));
    if !candle_core::utils::cuda_is_available() {
        let error = device("cuda:1").unwrap_err().to_string();
        assert!(error.contains("no CUDA support"), "{error}");
    }
}
