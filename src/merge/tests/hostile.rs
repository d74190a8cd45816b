//! Inputs that are damaged, or made to do damage.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::json;

use super::fixtures::{Zoo, config_of, files, zoo};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::merge::methods::METHODS;
use crate::merge::{MergeConfig, MergeOptions, plan, run, run_observed};
use crate::tensors::tests::Random;
use crate::tensors::{Dtype, TensorSpec};

/// Two models, the second one to be damaged, and a configuration that merges them.
fn pair(dtype: Dtype) -> (Zoo, MergeConfig) {
    let zoo = Zoo::new(dtype, 4);
    zoo.model("base", 1, 0.0).model("a", 2, 0.01);
    let config = zoo.config(
        json!({"merge_method": "task_arithmetic", "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1.0}}]}),
    );
    (zoo, config)
}

/// The length of a file's header with its length field.
fn header_length(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn every_bit_flip_in_a_header_is_refused_or_changes_nothing() {
    let (zoo, config) = pair(Dtype::BF16);
    let path = zoo.out("a/model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let layout = |checkpoint: &Checkpoint| -> Vec<_> { checkpoint.tensors().cloned().collect() };
    let tensors = layout(&zoo.open("a"));
    let mut harmless = 0;
    for bit in 0..8 * header_length(&good) {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        match plan(&config, &zoo.out("out"), &MergeOptions::default()) {
            Err(error) => {
                let error = error.to_string();
                let folder = zoo.out("a").display().to_string();
                assert!(error.contains(&folder), "bit {bit}: {error}");
            }
            Ok(_) => {
                assert_eq!(layout(&zoo.open("a")), tensors, "bit {bit}");
                harmless += 1;
            }
        }
    }
    // Letters of the metadata.
    assert!((1..150).contains(&harmless), "{harmless}");
    assert!(!zoo.out("out").exists());
}

#[test]
fn every_truncation_is_refused() {
    let (zoo, config) = pair(Dtype::BF16);
    let path = zoo.out("a/model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let header = header_length(&good);
    let lengths = (0..header).step_by(7).chain([header, header + 1]);
    for length in lengths.chain([(header + good.len()) / 2, good.len() - 1]) {
        std::fs::write(&path, &good[..length]).unwrap();
        let error = plan(&config, &zoo.out("out"), &MergeOptions::default()).err();
        let error = error.unwrap_or_else(|| panic!("{length} bytes were accepted"));
        let error = error.to_string();
        assert!(error.contains("a/model.safetensors"), "{error}");
        assert!(error.contains("damaged or incomplete"), "{error}");
    }
}

/// Overwrites element `at` of a tensor of 32-bit numbers.
fn set(model: &Path, tensor: &str, at: usize, value: f32) {
    let begin = Checkpoint::open(model).unwrap().info(tensor).unwrap().begin + 4 * at;
    // In place: a merge that has the file mapped must not find it shorter.
    let path = model.join("model.safetensors");
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(begin as u64)).unwrap();
    file.write_all(&value.to_le_bytes()).unwrap();
    // Clocks of file systems are coarse.
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
}

#[test]
fn numbers_that_are_not_finite_are_named_by_every_method() {
    for method in METHODS {
        for (value, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
            for model in ["a", "base"] {
                let zoo = zoo(Dtype::F32, 8);
                let mut value_of = config_of(method, &["a", "b", "c"]);
                if model == "base" {
                    if value_of.get("base_model").is_none() {
                        continue;
                    }
                    // The base takes part in what is selected too.
                    value_of["dtype"] = "bfloat16".into();
                }
                let tensor = "model.layers.1.mlp.weight";
                set(&zoo.out(model), tensor, 3 * 24 + 5, value);
                let plan = zoo.plan(value_of, "out");
                let error = run(&plan.unwrap()).err();
                let error = error.unwrap_or_else(|| panic!("{}: {shown} passed", method.name));
                let expected = format!(
                    "{model}/model.safetensors: tensor `{tensor}`: the number at [3, 5] is {shown}"
                );
                let error = error.to_string();
                assert!(error.contains(&expected), "{}: {error}", method.name);
                assert!(!zoo.out("out").exists());
            }
        }
    }
}

#[test]
fn results_beyond_the_range_of_the_output_are_an_error() {
    let zoo = zoo(Dtype::F32, 8);
    let value = |dtype: &str| {
        json!({"merge_method": "linear", "out_dtype": dtype, "parameters": {"normalize": false},
            "models": [{"model": "a", "parameters": {"weight": 1e5}}]})
    };
    let options = MergeOptions::default();
    let fits = plan(&zoo.config(value("bfloat16")), &zoo.out("fits"), &options).unwrap();
    run(&fits).unwrap();
    let plan = plan(&zoo.config(value("float16")), &zoo.out("out"), &options).unwrap();
    let error = run(&plan).err().unwrap().to_string();
    assert!(error.contains("beyond the range of float16"), "{error}");
    assert!(!zoo.out("out").exists());
}

#[test]
fn tensors_without_elements_are_merged_by_every_method() {
    for shape in [vec![0], vec![0, 1 << 60], vec![7, 0]] {
        for method in METHODS {
            let zoo = Zoo::new(Dtype::F32, 8);
            let mut specs = zoo.specs();
            specs.push(TensorSpec {
                name: "model.empty.weight".into(),
                dtype: Dtype::F32,
                shape: shape.clone(),
            });
            for (seed, name) in ["base", "a", "b", "c"].into_iter().enumerate() {
                zoo.write(name, &specs, seed as u64, 0.01);
            }
            let (merged, _) = zoo.merge(config_of(method, &["a", "b", "c"]), "out");
            assert_eq!(merged.info("model.empty.weight").unwrap().shape, shape);
        }
    }
}

/// A model folder with one file of this header and `data` bytes of ones.
fn raw(zoo: &Zoo, name: &str, header: &str, data: usize) {
    zoo.model(name, 1, 0.0);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    std::fs::write(zoo.out(name).join("model.safetensors"), bytes).unwrap();
}

#[test]
fn types_that_do_not_fit_together_are_refused_and_integers_are_copied() {
    let zoo = Zoo::new(Dtype::F32, 4);
    let merge = |a: &str, b: &str| {
        for (name, (dtype, size)) in [("base", a), ("a", b)].map(|(name, dtype)| {
            let size = if dtype.ends_with("64") { 8 } else { 4 };
            (name, (dtype, size))
        }) {
            let layer = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
            let end = 4 + 2 * size;
            let header = format!(
                r#"{{"model.layers.0.w":{layer},"model.layers.1.w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[4,{end}]}}}}"#
            );
            raw(&zoo, name, &header, end);
        }
        let config = zoo.config(json!({"merge_method": "linear", "models": [
            {"model": "base", "parameters": {"weight": 1}},
            {"model": "a", "parameters": {"weight": 1}}]}));
        let options = MergeOptions {
            force: true,
            ..MergeOptions::default()
        };
        plan(&config, &zoo.out("out"), &options).and_then(|plan| run(&plan))
    };
    let refused = |a: &str, b: &str, expected: &str| {
        let error = merge(a, b).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("tensor `model.layers.1.w`"), "{error}");
        assert!(!zoo.out("out").exists());
    };
    refused("F32", "I32", "is int32, model `base` has float32");
    refused("I64", "F64", "is float64, model `base` has int64");
    refused("F32", "C64", "dtype `C64` is not supported");
    // As in mergekit, only what is equal is copied.
    refused("I64", "U32", "is uint32, model `base` has int64");
    merge("I64", "I64").unwrap();
    let merged = zoo.open("out");
    let copied = merged.tensor("model.layers.1.w").unwrap();
    assert_eq!(
        (copied.dtype, copied.bytes),
        (Dtype::I64, [1u8; 16].as_slice())
    );
    merge("F64", "F32").unwrap();
    merge("I64", "I64").unwrap();
    let path = zoo.out("a/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() = 2;
    std::fs::write(&path, bytes).unwrap();
    for models in [["base", "a"], ["a", "base"]] {
        let models = models.map(|m| json!({"model": m, "parameters": {"weight": 1}}));
        let config = json!({"merge_method": "linear", "models": models});
        let error = zoo.plan(config, "differ").err().unwrap().to_string();
        assert!(
            error.contains("`model.layers.1.w` is int64, differs"),
            "{error}"
        );
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let (zoo, config) = pair(Dtype::F32);
    let deep = format!("{{\"x\": {}", "[".repeat(200_000));
    let mut header = (deep.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(deep.as_bytes());
    let weights = zoo.out("a/model.safetensors");
    for (file, bytes) in [
        ("a/config.json", deep.clone().into_bytes()),
        ("a/model.safetensors", header),
        ("a/model.safetensors.index.json", deep.clone().into_bytes()),
    ] {
        let path = zoo.out(file);
        let before = std::fs::read(&path).ok();
        if before.is_none() {
            std::fs::remove_file(&weights).unwrap();
        }
        std::fs::write(&path, bytes).unwrap();
        let error = plan(&config, &zoo.out("out"), &MergeOptions::default()).err();
        let error = error.unwrap().to_string();
        assert!(error.contains(file) && error.len() < 1000, "{error}");
        if let Some(before) = before {
            std::fs::write(&path, before).unwrap();
        }
    }
    for nested in ["[", "{a: ", "- ", "&a [", "!t ["] {
        let text = format!("models: {}", nested.repeat(100_000));
        let error = MergeConfig::from_yaml(&text, Path::new("")).err();
        assert!(error.unwrap().to_string().len() < 2000);
    }
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{},", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{before}]\n");
    }
    assert!(MergeConfig::from_yaml(&bomb, Path::new("")).is_err());
}

/// What fuzz/fuzz_targets/merge_yaml.rs does, from a fixed seed.
#[test]
fn mutations_of_configurations_are_refused_or_usable() {
    let good = "\
merge_method: ties
base_model: base
models:
- &m { model: a+b, parameters: { weight: 0.5, density: [0.2, 1] } }
- model: b
  parameters:
    weight:
    - { filter: mlp, value: 0.3 }
    - { filter: \"*\", value: [1, 0.5] }
parameters: { normalize: true, int8_mask: true }
dtype: bfloat16
tokenizer_source: base
";
    let words = [
        "slices:",
        "sources:",
        "layer_range: [0, 2]",
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "\n",
        "  ",
        "*m",
        "&m ",
        "<<: ",
        "!!str ",
        "|",
        "~",
        "0x10",
        "-.inf",
        ".nan",
        "1e400",
        "[]",
        "\t",
        "18446744073709551616",
        "'",
        "\"",
        "# ",
        "---\n",
        "%",
        "sce",
        "linear",
        "value: ",
    ];
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut accepted = 0;
    for _ in 0..4000 {
        let mut text = good.as_bytes().to_vec();
        random.mutate(&mut text, &words);
        let text = String::from_utf8_lossy(&text);
        let Ok(config) = MergeConfig::from_yaml(&text, Path::new("")) else {
            continue;
        };
        accepted += 1;
        let sources = config.slices.iter().flat_map(|slice| &slice.sources);
        let levels = sources.map(|source| &source.parameters);
        for (_, setting) in levels.chain([&config.parameters]).flatten() {
            for t in [0.0, 0.3, 1.0] {
                setting.at("model.layers.1.mlp.w.weight", t);
            }
        }
    }
    assert!((40..3000).contains(&accepted), "{accepted}");
}

#[test]
fn an_input_that_changes_during_the_merge_is_noticed() {
    let (zoo, config) = pair(Dtype::F32);
    let out = zoo.out("out");
    let plan = plan(&config, &out, &MergeOptions::default()).unwrap();
    let error = run_observed(&plan, &mut |at, _| {
        if at == 3 {
            set(&zoo.out("a"), "model.norm.weight", 0, 0.5);
        }
        Ok(())
    });
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("has changed since the merge began"),
        "{error}"
    );
    assert!(!out.exists());
    // The next run starts again.
    let again = crate::merge::plan(&config, &out, &MergeOptions::default()).unwrap();
    assert_eq!(run(&again).unwrap().resumed, 0);
}

#[test]
fn what_another_plan_left_is_not_published() {
    let (zoo, config) = pair(Dtype::F32);
    let whole = plan(&config, &zoo.out("whole"), &MergeOptions::default()).unwrap();
    run(&whole).unwrap();
    let out = zoo.out("out");
    let sharded = MergeOptions {
        out_shard_size: 1000,
        ..MergeOptions::default()
    };
    let stopped = plan(&config, &out, &sharded).unwrap();
    let last = stopped.tensors() - 1;
    let error = run_observed(&stopped, &mut |at, _| match at == last {
        true => Err(Error::Interrupted),
        false => Ok(()),
    });
    assert!(error.is_err());
    let left = zoo.out(".out.merging");
    std::fs::write(left.join("model.safetensors.index.json"), "{}").unwrap();
    let again = plan(&config, &out, &MergeOptions::default()).unwrap();
    assert_eq!(run(&again).unwrap().resumed, 0);
    assert_eq!(files(&out), files(&zoo.out("whole")));
}
