//! Checkpoints of 8-bit floats with scales: merged, evaluated and refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fuselm::checkpoint::Checkpoint;
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

fn write(model: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let bytes = serialize(views, None).unwrap();
    fs::write(model.join("model.safetensors"), bytes).unwrap();
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn bf16s(values: &[f32]) -> Vec<u8> {
    let halves = values.iter().map(|value| (value.to_bits() >> 16) as u16);
    halves.flat_map(u16::to_le_bytes).collect()
}

/// The value of an E4M3 code, by the formula.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let value = match exponent {
        0 => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code < 128 { value } else { -value }
}

/// The kinds of scales: shape for a matrix of 40 x 24 in blocks of 16 x 16, suffix, dtype.
const KINDS: [(&str, &[usize], Dtype); 5] = [
    ("_scale_inv", &[3, 2], Dtype::F32),
    ("_scale_inv", &[3, 2], Dtype::BF16),
    ("_scale", &[40, 1], Dtype::F32),
    ("_scale", &[1], Dtype::BF16),
    ("_scale", &[], Dtype::F32),
];

fn settings(suffix: &str) -> Value {
    match suffix {
        "_scale_inv" => json!({"activation_scheme": "dynamic", "fmt": "e4m3",
            "quant_method": "fp8", "weight_block_size": [16, 16]}),
        _ => json!({"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}),
    }
}

/// A bf16 model and an f8 one of the same architecture; the matrix of the second one is returned
/// as the numbers it stands for.
fn models(dir: &Path, (suffix, shape, dtype): (&str, &[usize], Dtype)) -> Vec<f32> {
    let matrix = "model.layers.0.w.weight".to_owned();
    let norm = "model.norm.weight".to_owned();
    let config = json!({"model_type": "llama", "num_hidden_layers": 1, "torch_dtype": "bfloat16"});
    let ones = bf16s(&[1.0; 24]);
    let mut tensors = Tensors::new();
    tensors.insert(
        matrix.clone(),
        (Dtype::BF16, vec![40, 24], bf16s(&[0.5; 960])),
    );
    tensors.insert(norm.clone(), (Dtype::BF16, vec![24], ones.clone()));
    let plain = dir.join("plain");
    fs::create_dir_all(&plain).unwrap();
    fs::write(plain.join("config.json"), config.to_string()).unwrap();
    write(&plain, &tensors);

    // Every code but the two NaN ones, and powers of two as scales: exact in bf16.
    let codes: Vec<u8> = (0..960).map(|at| (at % 256) as u8).collect();
    let codes: Vec<u8> = codes
        .iter()
        .map(|code| code & !u8::from(*code & 127 == 127))
        .collect();
    let count = shape.iter().product::<usize>();
    let scales: Vec<f32> = (0..count).map(|at| 2f32.powi(at as i32 % 5 - 2)).collect();
    let values = codes.iter().enumerate().map(|(at, code)| {
        let (row, column) = (at / 24, at % 24);
        let scale = match count {
            6 => row / 16 * 2 + column / 16,
            40 => row,
            _ => 0,
        };
        e4m3(*code) * scales[scale]
    });
    let values = values.collect();
    tensors.insert(matrix.clone(), (Dtype::F8_E4M3, vec![40, 24], codes));
    let bytes = match dtype {
        Dtype::F32 => f32s(&scales),
        _ => bf16s(&scales),
    };
    tensors.insert(matrix + suffix, (dtype, shape.to_vec(), bytes));
    for name in ["model.layers.0.w.input_scale", "model.layers.0.k_scale"] {
        tensors.insert(name.to_owned(), (Dtype::F32, vec![1], f32s(&[7.0])));
    }
    let quantised = dir.join("f8");
    fs::create_dir_all(&quantised).unwrap();
    let mut config = config;
    config["quantization_config"] = settings(suffix);
    fs::write(quantised.join("config.json"), config.to_string()).unwrap();
    write(&quantised, &tensors);
    values
}

fn tensor(model: &Path, name: &str) -> (fuselm::tensors::Dtype, Vec<f32>) {
    let checkpoint = Checkpoint::open(model).unwrap();
    let view = checkpoint.tensor(name).unwrap();
    (view.dtype, view.to_f32())
}

#[test]
fn models_of_eight_bits_merge_as_the_numbers_they_stand_for() {
    let workshop = Workshop::new();
    let linear = "\
merge_method: linear
models:
- { model: plain, parameters: { weight: 1 } }
- { model: f8, parameters: { weight: 0.25 } }
parameters: { normalize: false }
dtype: float32
";
    workshop.write("linear.yml", linear);
    workshop.write(
        "passthrough.yml",
        "merge_method: passthrough\nmodels: [{ model: f8 }]\n",
    );
    let based = "merge_method: sce\nbase_model: f8\nmodels: [{ model: plain }]\n";
    workshop.write("sce.yml", based);
    for kind in KINDS {
        let values = models(&workshop.path(""), kind);
        let name = "model.layers.0.w.weight";
        let plan = workshop
            .fuselm("merge linear.yml planned --dry-run")
            .exits(0);
        for words in [
            "1 tensors of `f8` are 8-bit floats (1 with scales)",
            "`quantization_config` is left out",
            "2 scales of activations or caches are left out",
        ] {
            assert!(plan.stdout.contains(words), "{}", plan.stdout);
        }
        workshop.fuselm("merge linear.yml mixed --force").exits(0);
        let expected: Vec<f32> = values.iter().map(|value| 0.5 + 0.25 * value).collect();
        let (dtype, merged) = tensor(&workshop.path("mixed"), name);
        assert_eq!(dtype, fuselm::tensors::Dtype::F32);
        assert!(merged == expected, "{kind:?}");

        workshop
            .fuselm("merge passthrough.yml wide --force")
            .exits(0);
        let (dtype, merged) = tensor(&workshop.path("wide"), name);
        assert_eq!(dtype, fuselm::tensors::Dtype::BF16);
        assert!(merged == values, "{kind:?}");
        let checkpoint = Checkpoint::open(&workshop.path("wide")).unwrap();
        assert_eq!(checkpoint.tensors().len(), 2);
        let config = read_json(&workshop.path("wide/config.json"));
        assert!(config.get("quantization_config").is_none());
        assert_eq!(config["torch_dtype"], "bfloat16");

        // The base is the quantised one, and the one target is taken over.
        workshop.fuselm("merge sce.yml based --force").exits(0);
        let (dtype, merged) = tensor(&workshop.path("based"), name);
        assert_eq!(dtype, fuselm::tensors::Dtype::BF16);
        let close = |merged: &f32| (merged - 0.5).abs() < 0.01;
        assert!(merged.iter().all(close), "{kind:?}");
    }
}

#[test]
fn damaged_models_of_eight_bits_are_refused() {
    let workshop = Workshop::new();
    workshop.write(
        "merge.yml",
        "merge_method: passthrough\nmodels: [{ model: f8 }]\n",
    );
    let name = "model.layers.0.w.weight";
    let refused = |edit: &dyn Fn(&mut Tensors), words: &[&str]| {
        models(&workshop.path(""), KINDS[0]);
        let mut tensors = read(&workshop.path("f8"));
        edit(&mut tensors);
        write(&workshop.path("f8"), &tensors);
        workshop.fuselm("merge merge.yml out").exits(1).says(words);
        assert!(!workshop.path("out").exists());
        let left = workshop.path(".out.merging");
        if left.exists() {
            fs::remove_dir_all(left).unwrap();
        }
    };
    let scales = format!("{name}_scale_inv");
    refused(
        &|tensors| tensors.get_mut(name).unwrap().2[5 * 24 + 3] = 0x7f,
        &["f8/model.safetensors", name, "[5, 3] is NaN"],
    );
    refused(
        &|tensors| tensors.get_mut(&scales).unwrap().2 = f32s(&[1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0]),
        &["f8/model.safetensors", &scales, "scale 2 is NaN"],
    );
    refused(
        &|tensors| drop(tensors.remove(&scales)),
        &["f8", name, "there is no", "incomplete"],
    );
    refused(
        &|tensors| tensors.get_mut(&scales).unwrap().1 = vec![2, 3],
        &["f8", &scales, "[2, 3]", "[40, 24]", "weight_block_size"],
    );
    models(&workshop.path(""), KINDS[0]);
    let config = read_json(&workshop.path("f8/config.json"));
    let mut other = config.clone();
    other["quantization_config"] = json!({"quant_method": "awq", "bits": 4});
    workshop.write("f8/config.json", &other.to_string());
    let words = ["f8/config.json", "quantization_config", "`awq`", "bfloat16"];
    workshop.fuselm("merge merge.yml out").exits(1).says(&words);
    workshop.write("f8/config.json", &config.to_string());
    let text = "merge_method: passthrough\nmodels: [{ model: f8 }]\nout_dtype: float8_e4m3fn\n";
    workshop.write("merge.yml", text);
    workshop
        .fuselm("merge merge.yml out")
        .exits(2)
        .says(&["out_dtype"]);
    workshop
        .fuselm("extract-lora plain f8 adapter")
        .exits(1)
        .says(&["f8", "8-bit numbers", "passthrough"]);
}

/// The matrices of a model's layers as E4M3 with a scale for each block of 16 x 16, and the same
/// model in f32 with the numbers that these stand for.
fn quantise(from: &Path, f8: &Path, wide: &Path) {
    let config = read_json(&from.join("config.json"));
    let (mut small, mut large) = (Tensors::new(), Tensors::new());
    for (name, (dtype, shape, data)) in read(from) {
        assert_eq!(dtype, Dtype::F32);
        if shape.len() < 2 || !name.contains("layers") {
            small.insert(name.clone(), (dtype, shape.clone(), data.clone()));
            large.insert(name, (dtype, shape, data));
            continue;
        }
        let (rows, columns) = (shape[0], shape[1]);
        let across = columns.div_ceil(16);
        let scales: Vec<f32> = (0..rows.div_ceil(16) * across)
            .map(|at| 0.001 * (1 + at % 7) as f32)
            .collect();
        let mut codes = Vec::new();
        let mut values = Vec::new();
        for (at, raw) in data.chunks_exact(4).enumerate() {
            let value = f32::from_le_bytes(raw.try_into().unwrap());
            let scale = scales[at / columns / 16 * across + at % columns / 16];
            let nearest = (0..=0x7e).min_by(|a, b| {
                let distance = |code: u8| (e4m3(code) * scale - value.abs()).abs();
                distance(*a).total_cmp(&distance(*b))
            });
            let code = nearest.unwrap() | if value < 0.0 { 0x80 } else { 0 };
            codes.push(code);
            values.push(e4m3(code) * scale);
        }
        let scale_shape = vec![rows.div_ceil(16), across];
        small.insert(
            format!("{name}_scale_inv"),
            (Dtype::F32, scale_shape, f32s(&scales)),
        );
        small.insert(name.clone(), (Dtype::F8_E4M3, shape.clone(), codes));
        large.insert(name, (Dtype::F32, shape, f32s(&values)));
    }
    for (dir, tensors, quantised) in [(f8, &small, true), (wide, &large, false)] {
        fs::create_dir_all(dir).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            if from.join(file).exists() {
                fs::copy(from.join(file), dir.join(file)).unwrap();
            }
        }
        let mut config = config.clone();
        if quantised {
            config["quantization_config"] = settings("_scale_inv");
        }
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        write(dir, tensors);
    }
}

#[test]
fn models_of_eight_bits_are_scored_and_trained_as_the_numbers_they_stand_for() {
    let workshop = Workshop::new();
    let (f8, wide) = (workshop.path("f8"), workshop.path("wide"));
    quantise(&workshop.path("models/pivot"), &f8, &wide);
    let evaluated = |model: &str, more: &str| {
        let line = format!("eval --model {model} --data valid.jsonl {more}");
        let finished = workshop.fuselm(&line).exits(0);
        let words = finished.stdout.replace(model, "model");
        assert!(words.len() > 20, "{words}");
        words
    };
    for more in ["", "--offload"] {
        assert_eq!(evaluated("f8", more), evaluated("wide", more));
    }

    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let weights = |model: &str| {
        let train = format!("train --run run --model {model} --max-steps 2 --force");
        workshop.fuselm(&train).exits(0);
        let config = read_json(&workshop.path("run/checkpoints/clm/config.json"));
        assert!(config.get("quantization_config").is_none());
        fs::read(workshop.path("run/checkpoints/clm/model.safetensors")).unwrap()
    };
    assert!(weights("f8") == weights("wide"));

    let mut tensors = read(&f8);
    let code = tensors
        .values_mut()
        .find(|tensor| tensor.0 == Dtype::F8_E4M3);
    code.unwrap().2[3] = 0xff;
    write(&f8, &tensors);
    workshop
        .fuselm("eval --model f8 --data valid.jsonl")
        .exits(1)
        .says(&["f8/model.safetensors", "number 3 is NaN"]);
}
