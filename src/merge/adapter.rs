//! LoRA adapters in PEFT's layout, applied to a tensor while it is read.
//!
//! ```text
//! adapter_config.json            r, lora_alpha, use_rslora, fan_in_fan_out
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r × in), .lora_B.weight (out × r)
//! ```
//!
//! The weight of an adapted module is W + s · B A, with s = lora_alpha / r, or lora_alpha / √r with
//! `use_rslora`. It is computed in `f32` and not rounded to the dtype of W.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::vector::add;
use crate::error::{Context, Error, Result};
use crate::tensors::Checkpoint;

/// The settings of an adapter.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The matrices of an adapter.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of modules.
pub(super) const PREFIX: &str = "base_model.model.";

/// An open adapter.
pub(super) struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its matrices.
    pub checkpoint: Checkpoint,
    /// Its settings as they are in the file.
    pub config: String,
    alpha: f64,
    rslora: bool,
    /// W is stored as in × out.
    transposed: bool,
    /// By the name of the weight: the names of A and B.
    modules: BTreeMap<String, (String, String)>,
}

/// Settings that change what an adapter computes, and are not supported.
const UNSUPPORTED: &[&str] = &[
    "use_dora",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
];

impl Adapter {
    /// Opens the adapter in `dir` for the model `base`.
    ///
    /// # Errors
    ///
    /// Missing or damaged files; another kind of adapter; settings that are not supported; tensors
    /// that are no matrices of an adapter; A without B; modules that the model does not have;
    /// shapes that do not fit.
    pub fn open(dir: &Path, base: &Checkpoint) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            return Err(
                Error::file(dir, format!("expected an adapter, there is no `{CONFIG}`"))
                    .remedy("write `model+adapter` with the folder of a LoRA adapter"),
            );
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let config: Value = serde_json::from_str(&text).at(&path)?;
        let wrong = |field: &str, expected: &str| {
            let found = &config[field];
            let problem = format!("field `{field}`: expected {expected}, found {found}");
            Error::file(&path, problem)
        };
        if config["peft_type"] != "LORA" {
            return Err(wrong("peft_type", "\"LORA\"").remedy("only LoRA adapters are supported"));
        }
        if !matches!(config["bias"].as_str(), None | Some("none")) {
            return Err(wrong("bias", "\"none\"").remedy("adapters with biases are not supported"));
        }
        for field in UNSUPPORTED {
            let nothing = match &config[*field] {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !nothing {
                return Err(wrong(field, "none").remedy("this setting is not supported"));
            }
        }
        let flag = |field: &str| match &config[field] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(wrong(field, "true or false")),
        };
        let alpha = config["lora_alpha"].as_f64().filter(|a| a.is_finite());
        let checkpoint = Checkpoint::open(&dir.join(WEIGHTS))?;
        let mut adapter = Self {
            dir: dir.to_path_buf(),
            alpha: alpha.ok_or_else(|| wrong("lora_alpha", "a number"))?,
            rslora: flag("use_rslora")?,
            transposed: flag("fan_in_fan_out")?,
            modules: BTreeMap::new(),
            checkpoint,
            config: text.clone(),
        };
        adapter.pair(base)?;
        Ok(adapter)
    }

    /// Finds A and B of each module, and checks them against the model.
    fn pair(&mut self, base: &Checkpoint) -> Result<()> {
        let path = self.dir.join(WEIGHTS);
        let bad = |name: &str, problem: String| {
            Error::file(&path, format!("tensor `{name}`: {problem}"))
                .remedy("check that the adapter belongs to this model")
        };
        let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for tensor in self.checkpoint.tensors() {
            let name = &tensor.name;
            let found = name.strip_prefix(PREFIX).and_then(|name| {
                let (module, half) = name.rsplit_once(".lora_")?;
                match half {
                    "A.weight" | "A.default.weight" => Some((module, 0)),
                    "B.weight" | "B.default.weight" => Some((module, 1)),
                    _ => None,
                }
            });
            let Some((module, half)) = found else {
                let expected =
                    format!("expected `{PREFIX}<module>.lora_A.weight` or `.lora_B.weight`");
                return Err(bad(name, expected));
            };
            if !tensor.dtype.is_float() || tensor.shape.len() != 2 {
                let problem = format!(
                    "expected a matrix, found {} {:?}",
                    tensor.dtype, tensor.shape
                );
                return Err(bad(name, problem));
            }
            let halves = halves.entry(format!("{module}.weight")).or_default();
            if halves[half].replace(name.clone()).is_some() {
                return Err(bad(name, "the module has another one".into()));
            }
        }
        if halves.is_empty() {
            return Err(Error::file(&path, "there is no adapter in this file"));
        }
        for (weight, halves) in halves {
            let [Some(a), Some(b)] = halves else {
                let missing = format!("`{weight}` has A without B, or B without A");
                return Err(Error::file(&path, missing).remedy("the adapter is incomplete"));
            };
            let Some(info) = base.info(&weight) else {
                return Err(bad(&a, format!("the model has no tensor `{weight}`")));
            };
            let shape = |name: &str| self.checkpoint.info(name).map(|t| t.shape.as_slice());
            if let (Some(&[rank, columns]), Some(&[rows, other])) = (shape(&a), shape(&b)) {
                let whole = match self.transposed {
                    true => [columns, rows],
                    false => [rows, columns],
                };
                if rank != other || rank == 0 || info.shape != whole {
                    let problem = format!(
                        "A of {rank} x {columns} and B of {rows} x {other} do not fit `{weight}` of {:?}",
                        info.shape
                    );
                    return Err(bad(&a, problem));
                }
            }
            self.modules.insert(weight, (a, b));
        }
        Ok(())
    }

    /// The update of the tensor `name`, if the adapter has one. Memory: 4 bytes for each element
    /// of A and B.
    ///
    /// # Errors
    ///
    /// None that [`Adapter::open`] did not have.
    pub fn update(&self, name: &str) -> Result<Option<LowRank>> {
        let Some((a, b)) = self.modules.get(name) else {
            return Ok(None);
        };
        let (a, b) = (self.checkpoint.tensor(a)?, self.checkpoint.tensor(b)?);
        let rank = a.shape[0];
        let strength = match self.rslora {
            true => (rank as f64).sqrt(),
            false => rank as f64,
        };
        Ok(Some(LowRank::new(
            (self.alpha / strength) as f32,
            rank,
            a.to_f32(),
            b.to_f32(),
            self.transposed,
        )))
    }
}

/// The matrix s · B A, row by row.
pub(super) struct LowRank {
    rank: usize,
    columns: usize,
    /// rank × columns.
    right: Vec<f32>,
    /// rows × rank, with the factor s in it.
    left: Vec<f32>,
}

impl LowRank {
    /// From A (`rank` × in) and B (out × `rank`); `transposed` for (s · B A)ᵀ.
    pub fn new(scale: f32, rank: usize, a: Vec<f32>, b: Vec<f32>, transposed: bool) -> Self {
        let flip = |matrix: &[f32], columns: usize| -> Vec<f32> {
            let rows = matrix.len() / columns.max(1);
            (0..columns)
                .flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column]))
                .collect()
        };
        let (right, mut left) = match transposed {
            true => (flip(&b, rank), flip(&a, a.len() / rank)),
            false => (a, b),
        };
        left.iter_mut().for_each(|value| *value *= scale);
        Self {
            columns: right.len() / rank,
            rank,
            right,
            left,
        }
    }

    /// Adds the elements from `start` on to `out`.
    pub fn add(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let width = (self.columns - column).min(out.len());
            let (here, rest) = out.split_at_mut(width);
            for term in 0..self.rank {
                let begin = term * self.columns + column;
                let factor = self.left[row * self.rank + term];
                add(here, factor, &self.right[begin..begin + width]);
            }
            at += width;
            out = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_by_hand_in_any_piece() {
        // A 1 x 3 = (1, 2, 3), B 2 x 1 = (1, -1): (1 2 3; -1 -2 -3), times 2.
        let whole = [2.0, 4.0, 6.0, -2.0, -4.0, -6.0];
        let product = LowRank::new(2.0, 1, vec![1.0, 2.0, 3.0], vec![1.0, -1.0], false);
        for start in 0..6 {
            for end in start..=6 {
                let mut out = vec![1.0; end - start];
                product.add(start, &mut out);
                let expected: Vec<f32> = whole[start..end].iter().map(|x| x + 1.0).collect();
                assert_eq!(out, expected);
            }
        }
        let product = LowRank::new(2.0, 1, vec![1.0, 2.0, 3.0], vec![1.0, -1.0], true);
        let mut out = [0.0; 6];
        product.add(0, &mut out);
        assert_eq!(out, [2.0, -2.0, 4.0, -4.0, 6.0, -6.0]);
        // Rank 2: A = (1 2; 3 4), B = (1 1; 0 2): (4 6; 6 8).
        let a = vec![1.0, 2.0, 3.0, 4.0];
        let b = vec![1.0, 1.0, 0.0, 2.0];
        for (transposed, expected) in [(false, [4.0, 6.0, 6.0, 8.0]), (true, [4.0, 6.0, 6.0, 8.0])]
        {
            let mut out = [0.0; 4];
            LowRank::new(1.0, 2, a.clone(), b.clone(), transposed).add(0, &mut out);
            assert_eq!(out, expected);
        }
    }
}
