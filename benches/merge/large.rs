//! SCE (τ = 0.1) of a pivot and five targets of Qwen1.5-72B's shapes, 145 GB each.
//!
//! The merge is planned on sparse files of that size. Their content would be zeros, which are no
//! work, so the tensors that are merged are computed from their index behind the interface that
//! files are read through, and the result is discarded. By default the embedding and two layers
//! are merged; the time of the whole follows from the positions per second.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuselm::checkpoint::{CheckpointWriter, Layout};
use fuselm::merge::{MergeConfig, MergeOptions, Output, TensorInputs, merge_elements, plan};
use fuselm::tensors::{Dtype, Elements};

use super::models::{self, LARGE};

const TARGETS: usize = 5;
/// Weights of each model that tensors are put together from.
const TABLE: usize = 1 << 20;
/// Neighbouring elements that are taken from neighbouring weights.
const RUN: usize = 1 << 10;

/// A tensor of one model, computed from its index: runs of the model's weights, in an order that
/// depends on the tensor. It costs what decoding a file's bf16 costs.
struct Computed<'a> {
    /// The model's weights in bf16.
    weights: &'a [u8],
    tensor: u64,
    len: usize,
}

impl Elements for Computed<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            let (run, offset) = (at / RUN, at % RUN);
            let width = (RUN - offset).min(out.len());
            let (here, rest) = out.split_at_mut(width);
            let hash = (self.tensor << 48 ^ run as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let place = (hash >> 32) as usize % (TABLE - RUN) + offset;
            Dtype::BF16.decode(&self.weights[2 * place..2 * (place + width)], here);
            at += width;
            out = rest;
        }
    }
}

/// Shows the plan over sparse files.
fn planned(dir: &Path) {
    let mut names = Vec::new();
    for model in 0..=TARGETS {
        let path = dir.join(models::name(model));
        fs::create_dir_all(&path).unwrap();
        let layout = Layout::new(LARGE.tensors(), 10_000_000_000).unwrap();
        CheckpointWriter::open(&path, layout)
            .unwrap()
            .finish(&path)
            .unwrap();
        fs::write(path.join("config.json"), LARGE.config()).unwrap();
        names.push(path.display().to_string());
    }
    let text = configuration(&names);
    let config = MergeConfig::from_yaml(&text, Path::new("")).unwrap();
    let started = Instant::now();
    let plan = plan(&config, &dir.join("out"), &MergeOptions::default()).unwrap();
    println!("{plan}planned in {:.2} s", started.elapsed().as_secs_f64());
}

fn configuration(names: &[String]) -> String {
    let targets = names[1..].join(", ");
    format!(
        "merge_method: sce\nbase_model: {}\nmodels: [{targets}]\nparameters: {{ select_topk: 0.1 }}\n",
        names[0]
    )
}

/// Merges the embedding and `layers` layers.
pub fn run(layers: usize) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("merge-bench-large");
    planned(&dir);
    fs::remove_dir_all(&dir).unwrap();

    let weights: Vec<Vec<u8>> = (0..=TARGETS as u64)
        .map(|model| {
            let element = |index| models::element(model, 0, index).to_le_bytes();
            (0..TABLE as u64).flat_map(element).collect()
        })
        .collect();
    let names: Vec<String> = (0..=TARGETS).map(models::name).collect();
    let config = MergeConfig::from_yaml(&configuration(&names), Path::new("")).unwrap();
    let tensors = LARGE.tensors();
    let whole: usize = tensors.iter().map(|tensor| tensor.elements()).sum();

    let most = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let (mut positions, mut merging) = (0, 0.0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let bytes = super::status(std::process::id(), "RssAnon").unwrap_or(0.0);
                most.fetch_max(bytes as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let last = format!("model.layers.{layers}.");
        for (at, tensor) in tensors.iter().enumerate() {
            if tensor.name.starts_with(&last) {
                break;
            }
            let computed: Vec<Computed<'_>> = weights
                .iter()
                .map(|weights| Computed {
                    weights,
                    tensor: at as u64,
                    len: tensor.elements(),
                })
                .collect();
            let models: Vec<&dyn Elements> =
                computed[1..].iter().map(|c| c as &dyn Elements).collect();
            let started = Instant::now();
            let inputs = TensorInputs {
                name: &tensor.name,
                shape: &tensor.shape,
                base: Some(&computed[0]),
                models: &models,
            };
            let output = Output {
                dtype: Dtype::BF16,
                write: &|_, _| Ok(()),
            };
            merge_elements(&config, &inputs, &output).unwrap();
            merging += started.elapsed().as_secs_f64();
            positions += tensor.elements();
        }
        done.store(true, Ordering::Relaxed);
    });
    let rate = positions as f64 / merging;
    println!(
        "merged {:.2} of {:.2} billion positions in {merging:.1} s: {:.0} million positions/s",
        positions as f64 / 1e9,
        whole as f64 / 1e9,
        rate / 1e6
    );
    println!(
        "projected for the whole: {:.0} minutes",
        whole as f64 / rate / 60.0
    );
    println!(
        "most anonymous memory: {:.0} MB",
        most.load(Ordering::Relaxed) as f64 / 1e6
    );
}
