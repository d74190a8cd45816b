//! Which parameters are trained, and how.

use super::*;

#[test]
fn adapters_are_trained_alone_and_written_as_asked() {
    let mut f = fixture(true);
    f.inputs.options.method = Method::Lora;
    f.inputs.options.lr = 2e-2;
    f.inputs.options.epochs = 6;
    f.inputs.options.lora.targets = "q_proj,mlp.down_proj".parse().unwrap();
    f.inputs.options.lora.rank = 4;
    f.inputs.options.lora.save = crate::model::LoraSave::Both;
    let summary = run(&f).unwrap();
    assert_eq!(summary.parameters, 2 * 4 * (32 + 32 + 32 + 48));
    let log = log(&f.inputs.steps_out);
    assert!(
        log["loss"].last().unwrap() < &(log["loss"][0] - 0.05),
        "{:?}",
        log["loss"]
    );
    let adapter = f.inputs.out.join("adapter");
    assert!(adapter.join("adapter_model.safetensors").exists());
    let text = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["target_modules"], json!(["q_proj", "mlp.down_proj"]));

    // Only the targets differ from the weights at the start.
    let written = weights(&f.inputs.out);
    let written = safetensors::SafeTensors::deserialize(&written).unwrap();
    let Init::Random { config, .. } = &f.inputs.pivot else {
        panic!("not random")
    };
    let config = crate::model::Config::from_json(config.clone(), Path::new("c")).unwrap();
    let load = crate::model::LoadOptions {
        device: Device::Cpu,
        dtype: candle_core::DType::F32,
        mode: crate::model::Mode::Inference,
    };
    let start = crate::model::Decoder::random(config, &load, f.inputs.options.seed).unwrap();
    for (name, var) in start.params() {
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let same = bytemuck::cast_slice::<f32, u8>(&values) == written.tensor(name).unwrap().data();
        let target = name.contains("q_proj") || name.contains("down_proj");
        assert_eq!(same, !target, "{name}");
    }
}

#[test]
fn frozen_parameters_stay_and_groups_learn_at_their_own_rate() {
    let trained = |change: &dyn Fn(&mut TrainOptions)| {
        let mut f = fixture(false);
        f.inputs.options.max_steps = Some(1);
        f.inputs.options.clip = 0.0;
        change(&mut f.inputs.options);
        run(&f).map(|_| weights(&f.inputs.out))
    };
    let values = |bytes: &[u8], name: &str| -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        let numbers = data.chunks_exact(4);
        let numbers = numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        numbers.collect()
    };
    let slow: &dyn Fn(&mut TrainOptions) = &|o| o.lr = 1e-12;
    let start = trained(slow).unwrap();
    let plain = trained(&|_| {}).unwrap();
    let group = |json: Value| -> Vec<ParamGroup> { serde_json::from_value(json).unwrap() };
    let changed = trained(&|o| {
        o.freeze = vec!["embed_tokens".into(), "lm_head".into()];
        o.param_groups = group(json!([{"match": "layers.1", "lr_scale": 0.5}]));
    })
    .unwrap();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(
            near(&values(&changed, name), &values(&start, name)),
            "{name}"
        );
        assert!(
            !near(&values(&plain, name), &values(&start, name)),
            "{name}"
        );
    }
    for (name, factor) in [
        ("model.layers.0.mlp.up_proj.weight", 1.0),
        ("model.layers.1.mlp.up_proj.weight", 0.5),
    ] {
        let [start, plain, changed] = [&start, &plain, &changed].map(|bytes| values(bytes, name));
        for ((start, plain), changed) in start.iter().zip(plain).zip(changed) {
            let expected = start + factor * (plain - start);
            assert!(
                (changed - expected).abs() < 1e-6,
                "{name}: {changed} {expected}"
            );
        }
    }
    let error = trained(&|o| o.freeze = vec!["head".into()]).unwrap_err();
    assert!(error.to_string().contains("`head` matches no"), "{error}");
    let error = trained(&|o| o.freeze = vec!["*".into()]).unwrap_err();
    assert!(error.to_string().contains("nothing to train"), "{error}");
}
