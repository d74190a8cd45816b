//! Small made-up models, and the cases of the shared folder.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::error::Result;
use crate::merge::methods::{Base, DefaultValue, Method};
use crate::merge::{MergeConfig, MergeOptions, MergeSummary, Plan, plan, run};
use crate::tensors::{Dtype, TensorSpec};

/// Numbers between -1 and 1 from a counter.
pub fn noise(seed: u64, index: usize) -> f32 {
    let mut x = (seed << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (((x >> 40) as f32) / (1 << 23) as f32) - 1.0
}

/// A model folder: two layers of a matrix and a vector, an embedding, a norm.
pub struct Zoo {
    pub dir: tempfile::TempDir,
    dtype: Dtype,
    /// Rows of the embedding.
    rows: usize,
}

impl Zoo {
    pub fn new(dtype: Dtype, rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, dtype, rows }
    }

    pub fn specs(&self) -> Vec<TensorSpec> {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.into(),
            dtype: self.dtype,
            shape: shape.to_vec(),
        };
        vec![
            spec("model.embed_tokens.weight", &[self.rows, 24]),
            spec("model.layers.0.mlp.weight", &[16, 24]),
            spec("model.layers.0.norm.weight", &[24]),
            spec("model.layers.1.mlp.weight", &[16, 24]),
            spec("model.layers.1.norm.weight", &[24]),
            spec("model.norm.weight", &[24]),
            spec("lm_head.weight", &[self.rows, 24]),
        ]
    }

    /// Writes model `name`: a base of seed 1 plus `scale` times noise of `seed`.
    pub fn model(&self, name: &str, seed: u64, scale: f32) -> &Self {
        self.write(name, &self.specs(), seed, scale)
    }

    pub fn write(&self, name: &str, specs: &[TensorSpec], seed: u64, scale: f32) -> &Self {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "num_hidden_layers": 2, "torch_dtype": "float32"});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
        let layout = Layout::new(specs.to_vec(), 1 << 20).unwrap();
        let writer = CheckpointWriter::open(&dir, layout).unwrap();
        for (at, tensor) in specs.iter().enumerate() {
            let values: Vec<f32> = (0..tensor.elements())
                .map(|i| noise(1 + at as u64, i) + scale * noise(seed * 100 + at as u64, i))
                .collect();
            let mut bytes = vec![0; tensor.bytes() as usize];
            tensor.dtype.encode(&values, &mut bytes);
            writer.write(at, 0, &bytes).unwrap();
        }
        writer.finish(&dir).unwrap();
        self
    }

    pub fn config(&self, value: Value) -> MergeConfig {
        MergeConfig::from_value(&value, self.dir.path()).unwrap()
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn plan(&self, value: Value, out: &str) -> Result<Plan> {
        plan(
            &self.config(value),
            &self.out(out),
            &MergeOptions::default(),
        )
    }

    pub fn merge(&self, value: Value, out: &str) -> (Checkpoint, MergeSummary) {
        let summary = run(&self.plan(value, out).unwrap()).unwrap();
        (Checkpoint::open(&self.out(out)).unwrap(), summary)
    }

    pub fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::open(&self.out(name)).unwrap()
    }
}

pub fn zoo(dtype: Dtype, rows: usize) -> Zoo {
    let zoo = Zoo::new(dtype, rows);
    zoo.model("base", 1, 0.0);
    for (seed, name) in [(2, "a"), (3, "b"), (4, "c")] {
        zoo.model(name, seed, 0.01);
    }
    zoo
}

/// A configuration that every method accepts, over these models.
pub fn config_of(method: &Method, models: &[&str]) -> Value {
    let models = &models[..models.len().min(method.models.1)];
    let mut parameters = serde_json::Map::new();
    for p in method.parameters {
        let value: Value = match (p.name, p.default) {
            ("density", _) => 0.5.into(),
            ("gamma", _) => 0.1.into(),
            ("select_topk", _) => 0.4.into(),
            (_, DefaultValue::Required) => 0.3.into(),
            _ => continue,
        };
        parameters.insert(p.name.into(), value);
    }
    let models: Vec<Value> = models.iter().map(|m| json!({ "model": m })).collect();
    let mut value =
        json!({"merge_method": method.name, "models": models, "parameters": parameters});
    if method.base == Base::Required {
        value["base_model"] = "base".into();
    }
    value
}

pub fn values(checkpoint: &Checkpoint) -> Vec<f32> {
    let names: Vec<_> = checkpoint.tensors().map(|t| t.name.clone()).collect();
    names
        .iter()
        .flat_map(|name| checkpoint.tensor(name).unwrap().to_f32())
        .collect()
}

pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "README.md")
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut bytes = std::fs::read(path).unwrap();
            if name == crate::checkpoint::RECORD {
                // The card has the folder's name.
                let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                record["files"]["README.md"] = serde_json::Value::Null;
                bytes = record.to_string().into_bytes();
            }
            (name, bytes)
        })
        .collect();
    all.sort();
    all
}

/// The folders of `golden/merge`.
pub fn cases() -> Vec<PathBuf> {
    let shared = std::env::var("FUSELM_TEST_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let Ok(entries) = std::fs::read_dir(shared.join("golden/merge")) else {
        eprintln!("skipped: no golden/merge in {}", shared.display());
        return Vec::new();
    };
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

/// What is in a folder, sorted.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all
}

/// Merges into `out` of a temporary folder.
pub fn merged(config: &MergeConfig) -> (tempfile::TempDir, MergeSummary) {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(config, &dir.path().join("out"), &MergeOptions::default()).unwrap();
    let summary = run(&plan).unwrap();
    (dir, summary)
}

/// The result of [`merged`].
pub fn open(dir: &tempfile::TempDir) -> Checkpoint {
    Checkpoint::open(&dir.path().join("out")).unwrap()
}
