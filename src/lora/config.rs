//! `adapter_config.json`, written: the settings of an adapter that is trained or extracted, under
//! the names of PEFT's `LoraConfig`.

use std::path::Path;

use serde_json::json;

use crate::checkpoint::ADAPTER_CONFIG as CONFIG;
use crate::error::{Context, Result};

/// The settings of an adapter of one rank and strength.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`: rows of A, columns of B; at least 1.
    pub rank: usize,
    /// `lora_alpha`: the strength of B A.
    pub alpha: f64,
    /// `use_rslora`: B A is multiplied by alpha / √rank instead of alpha / rank (rsLoRA;
    /// Kalajdzievski, arXiv 2312.03732).
    pub rslora: bool,
    /// `target_modules`: names of the adapted modules, see [`names_module`](super::names_module).
    pub targets: Vec<String>,
    /// `modules_to_save`: names of the modules whose weights are stored whole.
    pub saved: Vec<String>,
    /// `fan_in_fan_out`: weights are stored as in × out.
    pub transposed: bool,
    /// `ensure_weight_tying`: a head that is the embedding is adapted as it is.
    pub keeps_tied: bool,
    /// `bias: lora_only`: the adapted modules' biases are stored.
    pub biases: bool,
}

impl LoraConfig {
    /// Adapters of one rank and strength.
    pub fn new(rank: usize, alpha: f64, targets: Vec<String>) -> Self {
        Self {
            rank,
            alpha,
            rslora: false,
            targets,
            saved: Vec::new(),
            transposed: false,
            keeps_tied: false,
            biases: false,
        }
    }

    /// The factor s of B A.
    pub fn scale(&self) -> f64 {
        scale(self.alpha, self.rank, self.rslora)
    }

    /// Writes the settings into the folder `dir`; `base` is where PEFT finds the model.
    pub(super) fn write(&self, dir: &Path, base: &Path) -> Result<()> {
        let alpha = match self.alpha {
            whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
            alpha => json!(alpha),
        };
        let saved = (!self.saved.is_empty()).then_some(&self.saved);
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.to_string_lossy(),
            "r": self.rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.rslora,
            "target_modules": self.targets,
            "bias": if self.biases { "lora_only" } else { "none" },
            "fan_in_fan_out": self.transposed,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": saved,
        });
        if self.keeps_tied {
            config["ensure_weight_tying"] = json!(true);
        }
        let path = dir.join(CONFIG);
        std::fs::write(&path, format!("{config:#}\n")).at(&path)
    }
}

/// The factor s of B A: alpha / rank, or alpha / √rank.
pub(super) fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}
