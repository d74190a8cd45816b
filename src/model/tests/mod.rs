//! The decoder against Hugging Face transformers, a plain float64 version, and bad files.

mod adapters;
mod configurations;
pub(crate) mod families;
mod files;
mod gemma3;
mod gradients;
mod invariances;
mod layouts;
mod plain;
mod references;
mod ropes;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use self::families::{tiny, variants};
use super::*;

fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let dir = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| default.to_owned());
    let dir = PathBuf::from(dir);
    if !dir.is_dir() {
        eprintln!("skipped: no shared test material at {}", dir.display());
        return None;
    }
    Some(dir)
}

fn options(mode: Mode) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode,
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    all.sort();
    all
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let f64s = |t: &Tensor| {
        t.detach()
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
    };
    let difference = (f64s(a) - f64s(b)).unwrap().abs().unwrap();
    difference.max(0).unwrap().to_scalar::<f64>().unwrap()
}

fn all_logits(decoder: &Decoder, ids: &Tensor) -> Tensor {
    let hidden = decoder.hidden(ids).unwrap();
    decoder.logits(&hidden.flatten_to(1).unwrap()).unwrap()
}

/// A random model whose norms and biases have left their defaults too.
fn random(config: &Config, mode: Mode) -> Decoder {
    let decoder = Decoder::random(config.clone(), &options(mode), 7).unwrap();
    for (index, var) in decoder.params().values().enumerate() {
        let noise = direction(var.as_tensor(), 1000 + index as u64);
        let noise = noise.to_dtype(DType::F32).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap())
            .unwrap();
    }
    decoder
}

/// A fixed pseudo-random f64 tensor in the shape of `like`, values in [-1, 1).
fn direction(like: &Tensor, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..like.elem_count())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(values, like.shape(), &Device::Cpu).unwrap()
}

fn some_ids() -> Tensor {
    let ids: Vec<u32> = (0..18).map(|i| (i * i * 7 + 3) % 19).collect();
    Tensor::from_vec(ids, (2, 9), &Device::Cpu).unwrap()
}
