//! Models whose weights are no numbers: refused, or copied as they are.

use std::collections::BTreeMap;
use std::fs;

use safetensors::tensor::{Dtype as Stored, TensorView, serialize};
use serde_json::{Value, json};

use super::fixtures::{Zoo, zoo};
use crate::checkpoint::Checkpoint;
use crate::merge::{MergeConfig, MergeOptions, MergeSummary, plan};
use crate::tensors::Dtype;

/// A file's name, and what is in it.
type Beside = (&'static str, fn() -> Value);

/// A format as it is on disk: what a matrix becomes, and where that is stated.
struct Format {
    name: &'static str,
    /// Ends of names after the module's, types, shapes.
    matrix: &'static [(&'static str, Stored, &'static [usize])],
    /// Fields of `config.json`.
    config: fn() -> Value,
    /// A file beside it.
    file: Option<Beside>,
}

const FORMATS: [Format; 9] = [
    Format {
        name: "MLX",
        matrix: &[
            (".weight", Stored::U32, &[16, 3]),
            (".scales", Stored::F16, &[16, 1]),
            (".biases", Stored::F16, &[16, 1]),
        ],
        config: || json!({"quantization": {"group_size": 24, "bits": 4}}),
        file: None,
    },
    Format {
        name: "NVFP4",
        matrix: &[
            (".weight", Stored::U8, &[16, 12]),
            (".weight_scale", Stored::F8_E4M3, &[16, 2]),
            (".weight_scale_2", Stored::F32, &[]),
            (".input_scale", Stored::F32, &[]),
        ],
        config: || json!({}),
        file: Some(("hf_quant_config.json", || {
            json!({"producer": {"name": "modelopt"},
                "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}})
        })),
    },
    Format {
        name: "GPTQ or AWQ",
        matrix: &[
            (".qweight", Stored::I32, &[3, 16]),
            (".qzeros", Stored::I32, &[1, 2]),
            (".scales", Stored::F16, &[1, 16]),
            (".g_idx", Stored::I32, &[24]),
        ],
        config: || json!({}),
        file: Some((
            "quantize_config.json",
            || json!({"bits": 4, "group_size": 24}),
        )),
    },
    Format {
        name: "MXFP4",
        matrix: &[
            ("_blocks", Stored::U8, &[2, 8, 16]),
            ("_scales", Stored::U8, &[2, 8]),
        ],
        config: || json!({}),
        file: None,
    },
    Format {
        name: "packed by compressed-tensors",
        matrix: &[
            (".weight_packed", Stored::I32, &[16, 3]),
            (".weight_scale", Stored::BF16, &[16, 1]),
            (".weight_shape", Stored::I64, &[2]),
        ],
        config: || {
            json!({"text_config": {"quantization_config": {"quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}}})
        },
        file: None,
    },
    Format {
        name: "bitsandbytes (4 bits)",
        matrix: &[
            (".weight", Stored::U8, &[192, 1]),
            (".weight.absmax", Stored::U8, &[6]),
            (".weight.quant_map", Stored::F32, &[16]),
            (".weight.quant_state.bitsandbytes__nf4", Stored::U8, &[8]),
        ],
        config: || json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
        file: None,
    },
    Format {
        name: "integers with scales",
        matrix: &[
            (".weight", Stored::I8, &[16, 24]),
            (".weight_scale", Stored::BF16, &[16, 1]),
        ],
        config: || json!({"compression_config": {"quant_method": "compressed-tensors"}}),
        file: None,
    },
    Format {
        name: "8-bit floats with block scales (MX)",
        matrix: &[
            (".weight", Stored::F8_E4M3, &[16, 32]),
            (".weight_scale", Stored::F8_E8M0, &[16, 1]),
        ],
        config: || json!({}),
        file: None,
    },
    Format {
        name: "integers",
        matrix: &[(".weight", Stored::I8, &[16, 24])],
        config: || json!({}),
        file: None,
    },
];

/// The bytes of tensor number `at` of the model `seed`.
fn bytes(dtype: Stored, shape: &[usize], seed: usize) -> Vec<u8> {
    let count = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    // Small numbers in every type: the sign and the upper bits of the exponent are zero.
    (0..count)
        .map(|at| ((at * 7 + seed * 31) % 60) as u8)
        .collect()
}

/// Writes model `name` with two layers in this format (or with plain matrices).
fn write(zoo: &Zoo, name: &str, format: Option<&Format>, seed: usize) {
    let dir = zoo.out(name);
    fs::create_dir_all(&dir).unwrap();
    let mut tensors: BTreeMap<String, (Stored, Vec<usize>)> = BTreeMap::new();
    let mut add = |name: String, dtype, shape: &[usize]| {
        tensors.insert(name, (dtype, shape.to_vec()));
    };
    for outside in ["model.embed_tokens.weight", "lm_head.weight"] {
        add(outside.to_owned(), Stored::F16, &[8, 24]);
    }
    add("model.norm.weight".to_owned(), Stored::F16, &[24]);
    for layer in 0..2 {
        let module = format!("model.layers.{layer}.mlp");
        match format {
            None => add(format!("{module}.weight"), Stored::F16, &[16, 24]),
            Some(format) => {
                for (end, dtype, shape) in format.matrix {
                    add(format!("{module}{end}"), *dtype, shape);
                }
            }
        }
    }
    let tensors: Vec<(String, Stored, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .enumerate()
        .map(|(at, (name, (dtype, shape)))| {
            let bytes = bytes(dtype, &shape, seed * 100 + at);
            (name, dtype, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(
        dir.join("model.safetensors"),
        serialize(views, None).unwrap(),
    )
    .unwrap();
    let mut config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 2, "torch_dtype": "float16", "tie_word_embeddings": false});
    if let Some(format) = format {
        let fields = (format.config)();
        for (key, value) in fields.as_object().unwrap() {
            config[key] = value.clone();
        }
        if let Some((file, settings)) = format.file {
            fs::write(dir.join(file), settings().to_string()).unwrap();
        }
    }
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
}

fn linear(models: [&str; 2]) -> Value {
    let models = models.map(|model| json!({"model": model, "parameters": {"weight": 0.5}}));
    json!({"merge_method": "linear", "models": models, "dtype": "float16"})
}

fn copied(model: &str) -> Value {
    json!({"merge_method": "passthrough", "models": [{"model": model}]})
}

#[track_caller]
fn refused(zoo: &Zoo, value: Value, parts: &[&str]) {
    let error = zoo.plan(value.clone(), "out").err();
    let error = error
        .unwrap_or_else(|| panic!("accepted: {value}"))
        .to_string();
    for part in parts {
        assert!(error.contains(part), "expected `{part}` in: {error}");
    }
    assert!(!zoo.out("out").exists() && !zoo.out(".out.merging").exists());
}

#[test]
fn packed_weights_are_never_averaged() {
    for format in &FORMATS {
        let zoo = Zoo::new(Dtype::F16, 8);
        for (seed, name) in ["a", "b"].into_iter().enumerate() {
            write(&zoo, name, Some(format), seed);
        }
        write(&zoo, "plain", None, 3);
        for models in [["a", "b"], ["a", "plain"], ["plain", "b"]] {
            let words = [format.name, "are quantised", "to bfloat16"];
            refused(&zoo, linear(models), &words);
        }
        let based = json!({"merge_method": "task_arithmetic", "base_model": "a",
            "models": [{"model": "b", "parameters": {"weight": 1.0}}]});
        refused(&zoo, based, &[format.name]);
    }
}

/// Whether layer `at` of `merged` is layer `from` of `model`, to the byte.
#[track_caller]
fn same_layer(merged: &Checkpoint, at: usize, model: &Checkpoint, from: usize) {
    let before = format!("model.layers.{from}.");
    let mut count = 0;
    for tensor in model.tensors().filter(|t| t.name.starts_with(&before)) {
        let name = tensor.name.replace(&before, &format!("model.layers.{at}."));
        let (found, expected) = (
            merged.tensor(&name).unwrap(),
            model.tensor(&tensor.name).unwrap(),
        );
        assert_eq!((found.dtype, found.shape), (expected.dtype, expected.shape));
        assert!(found.bytes == expected.bytes, "{name}");
        count += 1;
    }
    assert!(count > 0);
}

fn merged(zoo: &Zoo, value: Value, out: &str) -> (Checkpoint, MergeSummary) {
    zoo.merge(value, out)
}

#[test]
fn packed_weights_are_copied_with_what_says_how_they_are_packed() {
    for format in &FORMATS {
        let zoo = Zoo::new(Dtype::F16, 8);
        for (seed, name) in ["a", "b"].into_iter().enumerate() {
            write(&zoo, name, Some(format), seed);
        }
        let (out, _) = merged(&zoo, copied("a"), "one");
        let a = zoo.open("a");
        assert_eq!(out.tensors().len(), a.tensors().len());
        for tensor in a.tensors() {
            let (found, expected) = (
                out.tensor(&tensor.name).unwrap(),
                a.tensor(&tensor.name).unwrap(),
            );
            assert_eq!(found.dtype, expected.dtype, "{}", tensor.name);
            assert!(
                found.bytes == expected.bytes,
                "{}: {}",
                format.name,
                tensor.name
            );
        }
        let config = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(zoo.out(name).join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(config("one"), config("a"));
        if let Some((file, settings)) = format.file {
            let text = fs::read_to_string(zoo.out("one").join(file)).unwrap();
            assert_eq!(text, settings().to_string());
        }

        let slice = |model: &str, first: usize, end: usize| json!({"sources": [{"model": model, "layer_range": [first, end]}]});
        let stacked = json!({"merge_method": "passthrough",
            "slices": [slice("a", 0, 2), slice("b", 1, 2)]});
        let (out, _) = merged(&zoo, stacked, "stacked");
        let b = zoo.open("b");
        for (at, model, from) in [(0, &a, 0), (1, &a, 1), (2, &b, 1)] {
            same_layer(&out, at, model, from);
        }
        assert_eq!(config("stacked")["num_hidden_layers"], 3);
    }
}

#[test]
fn more_than_a_copy_of_packed_weights_is_refused() {
    let zoo = Zoo::new(Dtype::F16, 8);
    let [mlx, nvfp4] = [&FORMATS[0], &FORMATS[1]];
    write(&zoo, "a", Some(mlx), 1);
    write(&zoo, "b", Some(nvfp4), 2);
    write(&zoo, "plain", None, 3);
    let with = |key: &str, value: Value| {
        let mut config = copied("a");
        config[key] = value;
        config
    };
    refused(
        &zoo,
        with("parameters", json!({"scale": 0.5})),
        &["`scale`", "MLX"],
    );
    let filtered = json!({"scale": [{"filter": "mlp", "value": 0.5}, {"value": 1}]});
    refused(&zoo, with("parameters", filtered), &["`scale`"]);
    refused(
        &zoo,
        with("dtype", json!("bfloat16")),
        &["float16", "`dtype`"],
    );
    refused(
        &zoo,
        with("tokenizer_source", json!("base")),
        &["tokenizer"],
    );
    merged(&zoo, with("dtype", json!("float16")), "out");
    fs::remove_dir_all(zoo.out("out")).unwrap();
    merged(&zoo, with("parameters", json!({"scale": 1.0})), "out");
    fs::remove_dir_all(zoo.out("out")).unwrap();
    for [first, second] in [["a", "b"], ["b", "a"], ["a", "plain"], ["plain", "a"]] {
        let slice = |model: &str| json!({"sources": [{"model": model, "layer_range": [0, 1]}]});
        let value = json!({"merge_method": "passthrough", "slices": [slice(first), slice(second)]});
        refused(&zoo, value, &["quantised alike"]);
    }
    // Settings that name layers do not hold for others.
    let path = zoo.out("a/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["quantization"]["model.layers.1.mlp"] = json!({"bits": 8});
    fs::write(&path, config.to_string()).unwrap();
    let slice =
        |first: usize| json!({"sources": [{"model": "a", "layer_range": [first, first + 1]}]});
    let value = |layers: [usize; 2]| json!({"merge_method": "passthrough", "slices": [slice(layers[0]), slice(layers[1])]});
    refused(
        &zoo,
        value([1, 0]),
        &["model.layers.1.mlp", "other numbers"],
    );
    merged(&zoo, value([0, 1]), "out");
}

#[test]
fn statements_of_numbers_lead_to_no_trap() {
    let zoo = zoo(Dtype::F16, 8);
    let path = zoo.out("a/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["text_config"] = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
    fs::write(&path, config.to_string()).unwrap();
    let parts = ["text_config.quantization_config", "`gptq`", "plain numbers"];
    refused(&zoo, linear(["a", "b"]), &parts);
    refused(&zoo, copied("a"), &parts);
    // Eight bits: that the field is removed would not help.
    let eight = Zoo::new(Dtype::F16, 8);
    write(&eight, "f8", None, 1);
    let path = eight.out("f8/model.safetensors");
    let data = [0u8; 4];
    let view = TensorView::new(Stored::F8_E4M3, vec![2, 2], &data).unwrap();
    let all = [
        ("model.layers.0.mlp.weight", &view),
        ("model.layers.1.mlp.weight", &view),
    ];
    fs::write(&path, serialize(all, None).unwrap()).unwrap();
    fs::write(
        eight.out("f8/quant_config.json"),
        r#"{"quant_method": "hqq"}"#,
    )
    .unwrap();
    let error = eight.plan(copied("f8"), "out").err().unwrap().to_string();
    assert!(
        error.contains("quant_config.json") && error.contains("`hqq`"),
        "{error}"
    );
    assert!(!error.contains("remove"), "{error}");
}

#[test]
fn what_is_no_model_is_named() {
    let zoo = zoo(Dtype::F32, 8);
    let adapter = zoo.out("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(
        adapter.join("adapter_config.json"),
        r#"{"base_model_name_or_path": "base"}"#,
    )
    .unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
    fs::write(zoo.out("x.gguf"), "GGUF").unwrap();
    fs::create_dir(zoo.out("bins")).unwrap();
    fs::write(zoo.out("bins/pytorch_model.bin"), "").unwrap();
    fs::write(zoo.out("bins/config.json"), "{}").unwrap();
    for (name, parts) in [
        ("adapter", ["a LoRA adapter for `base`", "base+"]),
        ("x.gguf", ["found a GGUF file", "that it was made from"]),
        (
            "a/model.safetensors",
            ["a single safetensors file", "give its folder"],
        ),
        ("bins", ["pickled weights of PyTorch", "save_pretrained"]),
        (
            "bins/pytorch_model.bin",
            ["pickled weights of PyTorch", "save_pretrained"],
        ),
    ] {
        refused(&zoo, linear(["base", name]), &parts);
        refused(&zoo, linear([name, "base"]), &parts);
        refused(&zoo, copied(name), &parts);
    }
}

/// The format that a model of a shared configuration is in, by the name that it is given there.
fn named(model: &str) -> Option<&'static Format> {
    let known = [("mlx-", 0), ("nvfp4-", 1), ("gptq-", 2), ("mxfp4-", 3)];
    let found = known.iter().find(|(start, _)| model.starts_with(start))?;
    Some(&FORMATS[found.1])
}

/// The configurations of `cases/merge` about packed models: each is refused where it has several
/// models, and copies where it has one.
#[test]
fn shared_configurations_of_packed_models() {
    let shared = std::env::var("FUSELM_TEST_SHARED").map(std::path::PathBuf::from);
    let shared = shared
        .unwrap_or_else(|_| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let Ok(folders) = fs::read_dir(shared.join("cases/merge")) else {
        return eprintln!("skipped: no cases/merge in {}", shared.display());
    };
    let folders = folders.map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.is_dir()) {
        for path in super::fixtures::folders(&folder) {
            if path.extension().is_none_or(|end| end != "yml") {
                continue;
            }
            let zoo = Zoo::new(Dtype::F16, 8);
            let text = fs::read_to_string(&path).unwrap();
            let Ok(config) = MergeConfig::from_yaml(&text, zoo.dir.path()) else {
                continue;
            };
            let formats: Option<Vec<_>> = config.models().into_iter().map(named).collect();
            let Some(formats) = formats else { continue };
            for (seed, (model, format)) in config.models().into_iter().zip(&formats).enumerate() {
                write(&zoo, model, Some(format), seed);
            }
            let planned = plan(&config, &zoo.out("out"), &MergeOptions::default());
            match (formats.len(), planned) {
                (1, Ok(_)) => {}
                (1, Err(error)) => panic!("{}: {error}", path.display()),
                (_, Ok(_)) => panic!("{}: accepted", path.display()),
                (_, Err(error)) => assert!(error.to_string().contains("quantised"), "{error}"),
            }
        }
    }
}

/// 8-bit floats with a scale, stated in a part of `config.json` and in a file of its own.
const FP8: Format = Format {
    name: "",
    matrix: &[
        (".weight", Stored::F8_E4M3, &[16, 24]),
        (".weight_scale", Stored::F32, &[]),
        (".input_scale", Stored::F32, &[]),
    ],
    config: || {
        json!({"text_config": {"quantization_config": {"quant_method": "modelopt",
            "quant_algo": "FP8"}}})
    },
    file: Some((
        "hf_quant_config.json",
        || json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}),
    )),
};

#[test]
fn what_says_that_weights_are_quantised_does_not_outlive_it() {
    let zoo = Zoo::new(Dtype::F16, 8);
    write(&zoo, "f8", Some(&FP8), 1);
    let plan = zoo.plan(copied("f8"), "out").unwrap();
    let said = plan.to_string();
    let left = "`hf_quant_config.json` (the result is not quantised)";
    assert!(said.contains(left), "{said}");
    let (out, _) = zoo.merge(copied("f8"), "out");
    let (f8, weight) = (zoo.open("f8"), "model.layers.1.mlp.weight");
    let scale = f8
        .tensor("model.layers.1.mlp.weight_scale")
        .unwrap()
        .to_f32()[0];
    let stored = f8.tensor(weight).unwrap().to_f32();
    let expected: Vec<f32> = { stored.iter() }
        .map(|value| Dtype::BF16.round(value * scale))
        .collect();
    assert_eq!(out.tensor(weight).unwrap().to_f32(), expected);
    assert_eq!(out.tensors().len(), 5);
    assert!(!zoo.out("out/hf_quant_config.json").exists());
    let config = fs::read_to_string(zoo.out("out/config.json")).unwrap();
    assert!(!config.contains("quant"), "{config}");
    // A file that says something else of the same weights.
    let path = zoo.out("f8/hf_quant_config.json");
    fs::write(&path, r#"{"quantization": {"quant_algo": "W4A8_AWQ"}}"#).unwrap();
    let error = zoo.plan(copied("f8"), "again").err().unwrap().to_string();
    for part in [
        "hf_quant_config.json",
        "W4A8_AWQ",
        "convert the model to bfloat16",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
