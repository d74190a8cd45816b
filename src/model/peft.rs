//! Adapters as files, in the layout of PEFT:
//!
//! ```text
//! adapter_config.json            rank, strength, targets, the base model
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight, ...lora_B.weight
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Map, Value, json};

use super::config::Config;
use super::decoder::Decoder;
use super::lora::{Adapters, Lora, Module, modules, names};
use super::options::LoadOptions;
use super::save::write_tensors;
use super::weights::{Shard, wide_float};
use crate::error::{Context, Error, Result};
use crate::integrity::FolderRecord;

/// The settings of an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of modules.
const PREFIX: &str = "base_model.model.";

impl Decoder {
    /// [`Decoder::load`] of the folder `base`, with the adapter of the folder `adapter`, as PEFT
    /// or [`Decoder::save_lora`] wrote it.
    ///
    /// # Errors
    /// Those of [`Decoder::load`]; an adapter of another kind than LoRA, or with settings that are
    /// not supported; adapters of projections that the model does not have; A without B; shapes
    /// that fit neither rank nor projection.
    pub fn load_with_adapter(base: &Path, adapter: &Path, options: &LoadOptions) -> Result<Self> {
        let decoder = Self::load(base, options)?;
        let adapters = read(adapter, decoder.config(), &options.device)?;
        decoder.adapt(adapters)
    }
}

/// Writes the adapters to the folder `dir`, and returns what was written; `base` is where the base
/// model is, for PEFT.
pub(super) fn write(adapters: &Adapters, dir: &Path, base: &Path) -> Result<FolderRecord> {
    let lora = adapters.lora();
    let alpha = match lora.alpha {
        whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
        alpha => json!(alpha),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.to_string_lossy(),
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": lora.rslora,
        "target_modules": lora.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    let path = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(&config).at(&path)?;
    std::fs::write(&path, text + "\n").at(&path)?;
    let tensors: Vec<(String, Vec<usize>)> = adapters
        .params()
        .iter()
        .map(|(name, var)| (format!("{PREFIX}{name}"), var.dims().to_vec()))
        .collect();
    let weights = write_tensors(&dir.join(WEIGHTS), &tensors, DType::F32, |name| {
        let var = name
            .strip_prefix(PREFIX)
            .and_then(|name| adapters.params().get(name));
        var.map(Var::as_detached_tensor)
            .ok_or_else(|| Error::usage(format!("the adapter lacks tensor `{name}`")))
    })?;
    let mut record = FolderRecord::default();
    record.insert(WEIGHTS, weights);
    Ok(record)
}

/// Reads the adapters in `dir` for a model of shape `config`.
fn read(dir: &Path, config: &Config, device: &Device) -> Result<Adapters> {
    let lora = read_config(dir)?;
    let path = dir.join(WEIGHTS);
    let shard = Shard::open(path.clone())?;
    let known: BTreeMap<String, Module> = modules(config)
        .into_iter()
        .map(|module| (module.name.clone(), module))
        .collect();
    let mut found = BTreeSet::new();
    for name in shard.tensors.keys() {
        let module = name.strip_prefix(PREFIX).and_then(|name| {
            let part = |end: &str| name.strip_suffix(end);
            part(".lora_A.weight").or_else(|| part(".lora_B.weight"))
        });
        let Some(module) = module else {
            return Err(Error::file(
                &path,
                format!(
                    "tensor `{name}`: expected `{PREFIX}<module>.lora_A.weight` or `.lora_B.weight`"
                ),
            )
            .remedy("only LoRA adapters of linear projections can be read"));
        };
        if !known.contains_key(module) {
            return Err(Error::file(
                &path,
                format!("tensor `{name}`: the model has no projection `{module}`"),
            )
            .remedy("check that the adapter belongs to this model"));
        }
        found.insert(module);
    }
    if found.is_empty() {
        return Err(Error::file(&path, "there is no adapter in this file"));
    }
    let mut params = BTreeMap::new();
    let mut adapted = Vec::new();
    for module in found.into_iter().filter_map(|name| known.get(name)) {
        let (a, b) = names(&module.name);
        let shapes = [
            (a, [lora.rank, module.columns]),
            (b, [module.rows, lora.rank]),
        ];
        for (name, shape) in shapes {
            let full = format!("{PREFIX}{name}");
            let Some(info) = shard.tensors.get(&full) else {
                return Err(Error::file(&path, format!("lacks tensor `{full}`")));
            };
            if info.shape != shape {
                let found = &info.shape;
                return Err(Error::file(
                    &path,
                    format!("tensor `{full}`: expected shape {shape:?}, found {found:?}"),
                )
                .remedy(format!("check that `{CONFIG}` belongs to it")));
            }
            let dtype = wide_float(&path, &full, info.dtype)?;
            let bytes = shard
                .bytes(info)
                .ok_or_else(|| Error::file(&path, format!("tensor `{full}` is damaged")))?;
            let var = Tensor::from_raw_buffer(bytes, dtype, &shape, &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(DType::F32)?.to_device(device))
                .and_then(|tensor| Var::from_tensor(&tensor))
                .during(|| format!("loading tensor `{full}`"))?;
            params.insert(name, var);
        }
        adapted.push(module.clone());
    }
    Ok(Adapters::new(lora, adapted, params))
}

fn read_config(dir: &Path) -> Result<Lora> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).at(&path)?;
    let map: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| Error::file(&path, format!("not a JSON object: {error}")))?;
    let wrong = |field: &str, expected: &str| {
        let found = map.get(field).unwrap_or(&Value::Null);
        Error::file(
            &path,
            format!("field `{field}`: expected {expected}, found {found}"),
        )
    };
    let nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    if map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(wrong("peft_type", "\"LORA\""));
    }
    if map.get("bias").is_some_and(|bias| bias != "none") {
        return Err(wrong("bias", "\"none\""));
    }
    // Settings that change what an adapter computes.
    for field in [
        "use_dora",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "lora_bias",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
    ] {
        if !map.get(field).is_none_or(nothing) {
            return Err(wrong(field, "none").remedy("this setting is not supported"));
        }
    }
    let rank = map.get("r").and_then(Value::as_u64);
    let rank = rank.and_then(|rank| usize::try_from(rank).ok());
    let alpha = map.get("lora_alpha").and_then(Value::as_f64);
    let targets = match map.get("target_modules") {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    Ok(Lora {
        rank: rank
            .filter(|rank| *rank > 0)
            .ok_or_else(|| wrong("r", "a number of at least 1"))?,
        alpha: alpha.ok_or_else(|| wrong("lora_alpha", "a number"))?,
        rslora: match map.get("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => return Err(wrong("use_rslora", "true or false")),
        },
        targets,
    })
}
