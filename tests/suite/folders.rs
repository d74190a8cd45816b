//! Model folders with more, less or other things in them than weights that are numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};

use super::program::{Workshop, read_json};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(model: &Path) -> Tensors {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.iter().map(|(name, view)| {
        let content = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), content)
    });
    all.collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// Puts files into a model's folder of the workshop.
fn put(workshop: &Workshop, model: &str, files: &[&str]) {
    for file in files {
        let path = workshop.path(model).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file.as_bytes()).unwrap();
    }
}

/// The matrices of a model's layers as another program would pack them: with their scales, and
/// where that is stated.
fn pack(model: &Path, kind: &str) {
    let mut tensors = Tensors::new();
    for (name, (dtype, shape, data)) in read(model) {
        let Some(module) = name
            .strip_suffix(".weight")
            .filter(|name| name.contains("_proj"))
        else {
            tensors.insert(name, (dtype, shape, data));
            continue;
        };
        let (rows, columns) = (shape[0], shape[1]);
        let mut add = |end: &str, dtype: Dtype, shape: &[usize]| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let content = (dtype, shape.to_vec(), vec![1; bytes]);
            tensors.insert(format!("{module}{end}"), content);
        };
        match kind {
            "gptq" => {
                add(".qweight", Dtype::I32, &[columns / 8, rows]);
                add(".qzeros", Dtype::I32, &[1, rows / 8]);
                add(".scales", Dtype::F16, &[1, rows]);
            }
            "mlx" => {
                add(".weight", Dtype::U32, &[rows, columns / 8]);
                add(".scales", Dtype::F16, &[rows, 1]);
                add(".biases", Dtype::F16, &[rows, 1]);
            }
            // As many integers as there were numbers: the shapes fit.
            _ => {
                add(".weight", Dtype::I8, &[rows, columns]);
                add(".weight_scale", Dtype::F32, &[rows, 1]);
            }
        }
    }
    write(&model.join("model.safetensors"), &tensors);
    let config = model.join("config.json");
    let mut settings = read_json(&config);
    match kind {
        "gptq" => {
            let text = json!({"bits": 4, "group_size": 128}).to_string();
            fs::write(model.join("quantize_config.json"), text).unwrap();
        }
        "mlx" => settings["quantization"] = json!({"bits": 4, "group_size": 32}),
        _ => {}
    }
    fs::write(config, settings.to_string()).unwrap();
}

#[test]
fn packed_models_are_refused_by_name_wherever_numbers_are_needed() {
    for (kind, words) in [
        ("gptq", ["GPTQ or AWQ", "quantize_config.json"]),
        ("mlx", ["MLX", "`quantization`"]),
        (
            "int8",
            ["integers with scales", "nothing beside the tensors says so"],
        ),
    ] {
        let workshop = Workshop::new();
        pack(&workshop.path("models/pivot"), kind);
        workshop.write(
            "merge.yml",
            "merge_method: linear\ndtype: float32\nmodels:\n\
             - { model: models/pivot, parameters: { weight: 1 } }\n",
        );
        for line in [
            "eval --model models/pivot --data valid.jsonl",
            "generate --model models/pivot --prompt Hello --max-new-tokens 2",
            "run recipe.yml",
            "merge merge.yml merged",
            "extract-lora models/pivot models/twin adapter",
        ] {
            let said = ["models/pivot", "quantised", words[0], words[1], "bfloat16"];
            workshop.fuselm(line).exits(1).says(&said);
        }
        let shown = workshop.fuselm("inspect models/pivot").exits(0).stdout;
        for word in ["quantised     ", words[0], words[1], "scored        no: "] {
            assert!(shown.contains(word), "{shown}");
        }
        assert!(!workshop.path("merged").exists());
        workshop.has_no_leftovers();
    }
}

#[test]
fn what_lies_beside_the_weights_comes_along() {
    let workshop = Workshop::new();
    let carried = [
        "modeling_x.py",
        "LICENSE.txt",
        "1_Pooling/config.json",
        "processor_config.json",
        "additional_chat_templates/rag.jinja",
    ];
    let left = [
        "consolidated.safetensors",
        "pytorch_model.bin",
        "original/params.json",
        "checkpoint-3/trainer_state.json",
    ];
    put(&workshop, "models/pivot", &carried);
    put(&workshop, "models/pivot", &left);
    workshop.write(
        "merge.yml",
        "merge_method: passthrough\nmodels: [{ model: models/pivot }]\n",
    );
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let lines = [
        ("merge merge.yml out", "out"),
        (
            "train --run run --model models/pivot --max-steps 1 --out trained",
            "trained",
        ),
    ];
    for (line, out) in lines {
        let finished = workshop.fuselm(line).exits(0);
        finished.says(&[
            "`consolidated.safetensors`, `pytorch_model.bin` (weights",
            "`checkpoint-3/`, `original/` (other formats",
        ]);
        for file in carried {
            let text = fs::read_to_string(workshop.path(out).join(file)).unwrap();
            assert_eq!(text, file);
        }
        for file in left {
            assert!(!workshop.path(out).join(file).exists(), "{out}: {file}");
        }
        // The record knows them.
        let record = read_json(&workshop.path(out).join("fuselm-digests.json"));
        assert!(
            record["files"]["1_Pooling/config.json"].is_object(),
            "{record}"
        );
        workshop
            .fuselm(&format!("eval --model {out} --data valid.jsonl"))
            .exits(0);
    }
}

#[test]
fn the_index_says_which_tensors_a_model_has() {
    let workshop = Workshop::new();
    let model = workshop.path("models/pivot");
    let expected = workshop
        .fuselm("eval --model models/pivot --data valid.jsonl")
        .exits(0)
        .stdout;
    let tensors = read(&model);
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    for (at, (name, tensor)) in tensors.iter().enumerate() {
        let shard = at % 2;
        shards[shard].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), format!("part-{shard}.safetensors").into());
    }
    // A stale tensor, and stale copies of the other shard's.
    let stale = (Dtype::F32, vec![2], vec![0; 8]);
    shards[0].insert("model.layers.0.old.weight".to_owned(), stale);
    for (name, tensor) in &tensors {
        if map[name] == "part-0.safetensors" && !name.contains("norm") {
            let (dtype, shape, data) = tensor.clone();
            shards[1].insert(name.clone(), (dtype, shape, vec![0; data.len()]));
        }
    }
    fs::rename(
        model.join("model.safetensors"),
        model.join("consolidated.safetensors"),
    )
    .unwrap();
    for (at, shard) in shards.iter().enumerate() {
        write(&model.join(format!("part-{at}.safetensors")), shard);
    }
    let index = json!({"metadata": {}, "weight_map": Value::Object(map)}).to_string();
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    let found = workshop.fuselm("eval --model models/pivot --data valid.jsonl");
    let found = found.exits(0).says(&["are not listed there by the index"]);
    assert_eq!(found.stdout, expected);
    workshop.write(
        "merge.yml",
        "merge_method: passthrough\nmodels: [{ model: models/pivot }]\n",
    );
    workshop.fuselm("merge merge.yml out").exits(0).says(&[
        "are not listed there by the index",
        "consolidated.safetensors",
    ]);
    assert_eq!(read(&workshop.path("out")), tensors);
    let shown = workshop.fuselm("inspect models/pivot").exits(0).stdout;
    let count = format!("tensors       {} in 2 files", tensors.len());
    for word in [count.as_str(), "unlisted      ", "scored        yes"] {
        assert!(shown.contains(word), "{shown}");
    }
}

#[test]
fn pickled_weights_are_not_a_model_without_weights() {
    let workshop = Workshop::new();
    let model = workshop.path("models/pivot");
    fs::rename(
        model.join("model.safetensors"),
        model.join("pytorch_model.bin"),
    )
    .unwrap();
    workshop.fuselm("run recipe.yml --only corpus").exits(1);
    // A run of its own, for the tokens.
    fs::copy(
        model.join("pytorch_model.bin"),
        model.join("model.safetensors"),
    )
    .unwrap();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    for line in [
        "train --run run --model models/pivot --max-steps 1",
        "eval --model models/pivot --data valid.jsonl",
    ] {
        workshop
            .fuselm(line)
            .exits(1)
            .says(&["pickled weights of PyTorch", "save_pretrained"]);
    }
    assert!(!workshop.path("run/checkpoints").exists());
}
