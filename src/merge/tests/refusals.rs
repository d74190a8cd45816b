//! What is refused before the first byte.

use std::path::PathBuf;

use serde_json::json;

use super::fixtures::{config_of, zoo};
use crate::merge::methods::METHODS;
use crate::merge::{MergeOptions, plan, run};
use crate::tensors::{Dtype, TensorSpec};

#[test]
fn models_that_do_not_fit_together_are_refused_before_a_byte_is_written() {
    let zoo = zoo(Dtype::F32, 8);
    let refused = |what: &str, parts: &[&str]| {
        let value = json!({"merge_method": "varm", "base_model": "base", "models": ["a", "x"]});
        let error = zoo.plan(value, "out").err();
        let error = error.unwrap_or_else(|| panic!("{what} was accepted"));
        for part in parts {
            assert!(error.to_string().contains(part), "{what}: {error}");
        }
        assert!(!zoo.out("out").exists());
    };
    refused("missing folder", &["x", "no such model folder"]);
    let mut specs = zoo.specs();
    specs[1].shape = vec![24, 16];
    zoo.write("x", &specs, 5, 0.1);
    refused(
        "shape",
        &[
            "model `x`",
            "model.layers.0.mlp.weight",
            "[24, 16]",
            "[16, 24]",
        ],
    );
    let mut specs = zoo.specs();
    specs.remove(3);
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.write("x", &specs, 5, 0.1);
    refused("missing", &["`model.layers.1.mlp.weight` is missing"]);
    let mut specs = zoo.specs();
    specs.push(TensorSpec {
        name: "extra.weight".into(),
        dtype: Dtype::F32,
        shape: vec![2],
    });
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.write("x", &specs, 5, 0.1);
    refused("extra", &["`extra.weight` is in model `x` only"]);
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.model("x", 5, 0.1);
    let config = zoo.out("x/config.json");
    std::fs::write(
        &config,
        "{\"model_type\": \"qwen2\", \"num_hidden_layers\": 2}",
    )
    .unwrap();
    refused("architecture", &["config.json", "qwen2", "llama"]);
    std::fs::remove_file(&config).unwrap();
    refused("no config", &["config.json"]);
    let weights = zoo.out("x/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    refused("truncated", &["model.safetensors", "damaged or incomplete"]);
}

#[test]
fn outputs_in_the_way_are_refused() {
    let zoo = zoo(Dtype::F32, 8);
    let config = zoo.config(config_of(&METHODS[0], &["a", "b", "c"]));
    let options = MergeOptions::default();
    let refused = |out: PathBuf, part: &str| {
        let error = plan(&config, &out, &options).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(zoo.out("a/merged"), "lies inside the input folder");
    refused(zoo.out("a"), "lies inside the input folder");
    refused(zoo.dir.path().to_path_buf(), "contains the input folder");
    std::fs::create_dir(zoo.out("out")).unwrap();
    assert!(plan(&config, &zoo.out("out"), &options).is_ok());
    std::fs::write(zoo.out("out/x"), "x").unwrap();
    refused(zoo.out("out"), "is not empty");
    refused(zoo.out("out/x"), "is a file");
    refused(zoo.out("out/.."), "contains the input folder");
    std::fs::create_dir_all(zoo.out("deep/er")).unwrap();
    std::fs::remove_file(zoo.out("out/x")).unwrap();
    refused(zoo.out("deep/er/.."), "has no name of its own");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(zoo.out("nothing"), zoo.out("dangling")).unwrap();
        refused(zoo.out("dangling"), "is a file");
        symlink(zoo.out("a"), zoo.out("link")).unwrap();
        refused(zoo.out("link"), "lies inside the input folder");
        refused(zoo.out("link/x"), "lies inside the input folder");
    }
    std::fs::write(zoo.out("out/x"), "x").unwrap();
    let options = MergeOptions {
        force: true,
        ..options.clone()
    };
    let kept = plan(&config, &zoo.out("out"), &options).err().unwrap();
    assert!(kept.to_string().contains("is no model folder"), "{kept}");
    std::fs::write(zoo.out("out/config.json"), "{}").unwrap();
    let forced = plan(&config, &zoo.out("out"), &options).unwrap();
    assert!(
        forced.to_string().contains("tensors     7 in 1 file(s)"),
        "{forced}"
    );
    run(&forced).unwrap();
    assert!(!zoo.out("out/x").exists());
}
