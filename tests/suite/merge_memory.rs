//! The memory that a merge takes: bounded, and no more where the largest tensor is ten times
//! larger.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fuselm::checkpoint::{CheckpointWriter, Layout};
use fuselm::tensors::{Dtype, TensorSpec};

/// Most anonymous memory that a merge may take.
const LIMIT: u64 = 300_000_000;

/// A model whose largest tensor has `rows` rows of 1,024; the others are small.
fn write(dir: &Path, rows: usize, seed: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let spec = |name: &str, rows: usize| TensorSpec {
        name: name.into(),
        dtype: Dtype::BF16,
        shape: vec![rows, 1024],
    };
    let specs = vec![
        spec("model.embed_tokens.weight", rows),
        spec("model.layers.0.mlp.weight", 1000),
    ];
    let writer = CheckpointWriter::open(dir, Layout::new(specs.clone(), 1 << 40).unwrap()).unwrap();
    for (at, spec) in specs.iter().enumerate() {
        let bytes: Vec<u8> = (0..spec.elements() as u64)
            .flat_map(|index| {
                let random = |seed: u64| {
                    let mut x = (seed << 40 ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    (x >> 40) as f32 / 2f32.powi(24) - 0.5
                };
                let value = random(0) + 0.02 * random(seed);
                (((value.to_bits() + 0x8000) >> 16) as u16).to_le_bytes()
            })
            .collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(dir).unwrap();
    let config = "{\"model_type\": \"llama\", \"num_hidden_layers\": 1}";
    std::fs::write(dir.join("config.json"), config).unwrap();
}

/// Most anonymous memory of a merge, as far as it was seen.
fn anonymous(dir: &Path, method: &str, parameters: &str) -> u64 {
    let text = format!(
        "merge_method: {method}\nbase_model: base\nmodels: [a, b, c]\nparameters: {{ {parameters} }}\n"
    );
    std::fs::write(dir.join("merge.yml"), text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fuselm"))
        .args(["merge", "merge.yml", "out", "--force", "--threads", "2"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1000);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    most
}

#[test]
fn memory_does_not_grow_with_the_largest_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let methods = [
        ("sce", "select_topk: 0.1"),
        ("ties", "density: 0.6, weight: 0.3"),
    ];
    let mut most = Vec::new();
    for rows in [2000, 20_000] {
        for (seed, name) in ["base", "a", "b", "c"].into_iter().enumerate() {
            write(&dir.path().join(name), rows, seed as u64);
        }
        for (method, parameters) in methods {
            let bytes = anonymous(dir.path(), method, parameters);
            assert!(
                bytes > 0 && bytes < LIMIT,
                "{method}, {rows} rows: {bytes} bytes"
            );
            most.push(bytes);
        }
    }
    // The larger one has 33 MB more in each model, and all its inputs are 164 MB.
    for (small, large) in [(most[0], most[2]), (most[1], most[3])] {
        assert!(large < small + 60_000_000, "{most:?}");
    }
}
