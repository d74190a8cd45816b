//! What must not matter: steps, batches, chunks, seeds.

use super::*;

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
        let wanted = Wanted {
            targets: &targets,
            vocab_len: vocab,
            listed: Listed::Best(k),
        };
        next_token(decoder.head(), &hidden, &wanted, |row, next| {
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
    let wanted = Wanted {
        targets: &targets,
        vocab_len: 17,
        listed: Listed::Best(2),
    };
    let error = next_token(decoder.head(), &hidden, &wanted, |_, _| Ok(())).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("row 0: expected finite logits"),
        "{error}"
    );
}

#[test]
fn half_precision_stays_near() {
    for (name, config) in variants() {
        let exact = random(&config, Mode::Inference);
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        exact.save(&dir, out.path(), DType::F32).unwrap();
        let want = all_logits(&exact, &some_ids());
        let size = want.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let size = f64::from(size.to_scalar::<f32>().unwrap());
        for (dtype, tolerance) in [(DType::BF16, 0.1), (DType::F16, 0.02)] {
            // A token whose experts change with the rounding changes altogether.
            let has_experts = config.experts.iter().any(Option::is_some);
            let tolerance = if has_experts { 1.0 } else { tolerance };
            for mode in [Mode::Inference, Mode::Training] {
                let options = LoadOptions {
                    dtype,
                    ..options(mode)
                };
                let half = Decoder::load(&dir, &options).unwrap();
                let logits = all_logits(&half, &some_ids());
                let difference = largest_difference(&logits, &want) / size;
                assert!(
                    difference < tolerance,
                    "{name} {dtype:?} {mode:?}: {difference}"
                );
                if mode == Mode::Training {
                    let grads = logits.sum_all().unwrap().backward().unwrap();
                    for (param, var) in half.params() {
                        if let Some(grad) = grads.get(var.as_tensor()) {
                            assert_eq!(grad.dtype(), dtype, "{name} {param}");
                        } else {
                            assert!(param.contains("experts"), "{name} {param}");
                        }
                    }
                }
            }
        }
    }
}

/// The softmax in f64 of the products of what bf16 holds: rounding the logits to bf16 as well
/// would move log-probabilities by up to 0.06 here.
#[test]
fn log_probabilities_of_a_half_precision_head_are_not_rounded() {
    let (_, config) = variants().remove(0);
    for (dtype, cap) in [
        (DType::BF16, None),
        (DType::F16, None),
        (DType::BF16, Some(9.0)),
    ] {
        let config = Config {
            final_softcap: cap,
            ..config.clone()
        };
        let options = LoadOptions {
            dtype,
            ..options(Mode::Inference)
        };
        let decoder = Decoder::random(config.clone(), &options, 7).unwrap();
        let scaled = |like: &Tensor, scale: f64| (direction(like, 5) * scale).unwrap();
        let head = scaled(&decoder.head().weight, 3.0).to_dtype(dtype).unwrap();
        decoder.params()["lm_head.weight"].set(&head).unwrap();
        let hidden = Tensor::zeros((6, config.hidden_size), DType::F64, &Device::Cpu).unwrap();
        let hidden = scaled(&hidden, 3.0).to_dtype(dtype).unwrap();
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let logits = wide(&hidden).matmul(&wide(&head).t().unwrap()).unwrap();
        let logits: Vec<Vec<f64>> = logits.to_vec2().unwrap();
        let targets = [0, 3, 5, 7, 11, 13];
        let wanted = Wanted {
            targets: &targets,
            vocab_len: 19,
            listed: Listed::Best(4),
        };
        next_token(decoder.head(), &hidden, &wanted, |row, next| {
            let capped = |z: &f64| cap.map_or(*z, |cap| cap * (z / cap).tanh());
            let z: Vec<f64> = logits[row].iter().map(capped).collect();
            let sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let near = |found: f32, id: u32| {
                let expected = z[id as usize] - sum;
                let off = (f64::from(found) - expected).abs();
                assert!(
                    off < 1e-4,
                    "{dtype:?} {row} {id}: {found}, expected {expected}"
                );
            };
            near(next.target_logprob, targets[row]);
            (next.ids.iter().zip(next.logprobs)).for_each(|(id, found)| near(*found, *id));
            Ok(())
        })
        .unwrap();
        let all = decoder.logits(&hidden).unwrap();
        assert_eq!(all.dtype(), DType::F32);
    }
}
