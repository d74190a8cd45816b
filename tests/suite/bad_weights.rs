//! Checkpoints that do not hold what their configuration says, and weights that are no numbers.

use std::collections::BTreeMap;
use std::fs;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::program::Workshop;

/// Type, shape and bytes of each tensor.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

const NORM: &str = "model.layers.1.input_layernorm.weight";

/// Rewrites the weights of a model.
fn rewrite(workshop: &Workshop, model: &str, edit: impl FnOnce(&mut Tensors)) {
    let path = workshop
        .path("models")
        .join(model)
        .join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .iter()
        .map(|(name, view)| {
            let content = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), content)
        })
        .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
}

#[track_caller]
fn refused(workshop: &Workshop, words: &[&str]) {
    workshop.fuselm("run recipe.yml").exits(1).says(words);
    workshop.has_no_leftovers();
    // `atlas` is the second source: the pivot would have been scored by now.
    assert!(!workshop.path("run/topk").exists(), "found after long work");
    let eval = "eval --model models/atlas --data valid.jsonl";
    workshop.fuselm(eval).exits(1).says(words);
}

#[test]
fn a_missing_tensor() {
    let workshop = Workshop::new();
    rewrite(&workshop, "atlas", |tensors| drop(tensors.remove(NORM)));
    refused(&workshop, &["models/atlas", "lacks", NORM]);
}

#[test]
fn a_tensor_too_many() {
    let workshop = Workshop::new();
    rewrite(&workshop, "atlas", |tensors| {
        let norm = tensors[NORM].clone();
        tensors.insert("model.layers.1.adapter.weight".to_owned(), norm);
    });
    refused(
        &workshop,
        &["models/atlas", "`model.layers.1.adapter.weight`"],
    );
}

#[test]
fn a_wrong_shape() {
    let workshop = Workshop::new();
    rewrite(&workshop, "atlas", |tensors| {
        if let Some((_, shape, data)) = tensors.get_mut(NORM) {
            *shape = vec![16];
            data.truncate(64);
        }
    });
    let words = [
        "models/atlas/model.safetensors",
        NORM,
        "expected shape [32], found [16]",
    ];
    refused(&workshop, &words);
}

#[test]
fn a_wrong_type() {
    let workshop = Workshop::new();
    rewrite(&workshop, "atlas", |tensors| {
        if let Some((dtype, ..)) = tensors.get_mut(NORM) {
            *dtype = Dtype::I32;
        }
    });
    let words = [
        "models/atlas/model.safetensors",
        NORM,
        "expected dtype",
        "I32",
    ];
    refused(&workshop, &words);
}

#[test]
fn a_file_cut_short() {
    for keep in [0, 4, 100, 20_000] {
        let workshop = Workshop::new();
        let path = workshop.path("models/atlas/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..keep]).unwrap();
        refused(
            &workshop,
            &["models/atlas/model.safetensors", "safetensors"],
        );
    }
}

#[test]
fn a_source_without_weights() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("models/atlas/model.safetensors")).unwrap();
    refused(&workshop, &["models/atlas", "safetensors"]);
}

#[test]
fn merges_of_damaged_weights_write_nothing() {
    let workshop = Workshop::new();
    let copy = workshop.path("models/copy");
    fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = workshop.path("models/pivot").join(file);
        fs::copy(from, copy.join(file)).unwrap();
    }
    let config = "merge_method: sce\nbase_model: models/pivot\nmodels: [{ model: models/copy }]\n";
    workshop.write("merge.yml", config);
    let path = copy.join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let name = good.windows(4).position(|four| four == b"norm").unwrap();
    let shape = good.windows(5).position(|five| five == b"shape").unwrap();
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 2;
        bytes
    };
    let mut not_a_number = good.clone();
    let end = good.len();
    not_a_number[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (bytes, word) in [
        (good[..end - 1].to_vec(), "damaged or incomplete"),
        (good[..50].to_vec(), "damaged or incomplete"),
        (long, "the limit is"),
        (flip(name), "is missing"),
        (flip(shape + 8), "takes"),
        (not_a_number, "is NaN"),
    ] {
        fs::write(&path, bytes).unwrap();
        let finished = workshop.fuselm("merge merge.yml merged").exits(1);
        let finished = finished.says(&["models/copy", word]);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert!(!workshop.path("merged").exists());
    }
    fs::write(&path, &good).unwrap();
    workshop.fuselm("merge merge.yml merged").exits(0);
    workshop.has_no_leftovers();
}

/// Sets one embedding of a model, of a token that some sample has but not the first.
fn poison(workshop: &Workshop, model: &str, value: f32) {
    rewrite(workshop, model, |tensors| {
        let (_, shape, data) = tensors.get_mut("model.embed_tokens.weight").unwrap();
        let row = 4 * shape[1];
        // A token for each of the later ids, so that a few samples are hit.
        let from = data.len() - 40 * row;
        for chunk in data[from..].chunks_exact_mut(4) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
    });
}

#[test]
fn weights_that_are_no_numbers_stop_scoring_and_name_the_sample() {
    for value in [f32::NAN, f32::INFINITY] {
        let workshop = Workshop::new();
        poison(&workshop, "atlas", value);
        let finished = workshop.fuselm("run recipe.yml").exits(1);
        let finished = finished.says(&["model `atlas`, sample "]);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        // What other models gave is kept, nothing of this one.
        assert!(workshop.path("run/topk/teacher=market").exists());
        let of_atlas = workshop.path("run/topk/teacher=atlas");
        assert!(fs::read_dir(of_atlas).map_or(0, Iterator::count) == 0);
        workshop.has_no_leftovers();
        let eval = "eval --model models/atlas --data valid.jsonl";
        workshop.fuselm(eval).exits(1).says(&["sample "]);
    }
}

#[test]
fn weights_that_are_no_numbers_stop_training() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    poison(&workshop, "pivot", f32::NAN);
    let train = "train --run run --model models/pivot --max-steps 2";
    workshop.fuselm(train).exits(1).says(&["step 1", "sample"]);
    assert!(!workshop.path("run/checkpoints/clm").exists());
    workshop.has_no_leftovers();
}
