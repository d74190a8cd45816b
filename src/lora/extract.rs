//! The difference of two checkpoints as a LoRA adapter.
//!
//! Each adapted matrix gets the best approximation of low rank to its difference (`svd`).
//!
//! Memory: for a matrix of m × n and rank r, 8 · (m + n) · (r + 8) numbers of 4 bytes. The
//! matrices themselves are read piece by piece, six times.

use std::path::Path;

use super::config::LoraConfig;
use super::low_rank::LowRank;
use super::names::{Module, names_module};
use super::svd::{Difference, decompose};
use super::write::AdapterWriter;
use crate::checkpoint::{Checkpoint, Target, refuse_packed};
use crate::error::{Error, Result};
use crate::files::existing_ancestor;
use crate::progress::Bar;
use crate::tensors::layer;

/// The largest rank that is taken for one; more than a matrix has is filled up with zeros.
const MOST_RANK: usize = 1 << 16;

/// How an adapter is extracted.
#[derive(Clone, Debug, clap::Args)]
pub struct ExtractOptions {
    /// Rank of the adapter.
    #[arg(long, default_value_t = ExtractOptions::default().rank)]
    pub rank: usize,
    /// Names of the modules to adapt, as PEFT has them (default: every matrix of the layers).
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub targets: Vec<String>,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            rank: 32,
            targets: Vec::new(),
        }
    }
}

/// What became of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// The module: the name of its weight without `.weight`.
    pub module: String,
    /// Norm of what the adapter misses, as a share of the norm of the difference (0 where there
    /// is no difference).
    pub error: f64,
    /// L2 norm of the difference.
    pub norm: f64,
}

/// Writes the difference of the checkpoints `tuned` and `base` as an adapter into the folder
/// `out`, with `lora_alpha` equal to the rank.
///
/// # Errors
///
/// Checkpoints that cannot be read or do not fit together, targets that no matrix has, an output
/// folder that is not empty or inside an input, failed writes.
pub fn extract(
    base: &Path,
    tuned: &Path,
    out: &Path,
    options: &ExtractOptions,
) -> Result<Vec<Extracted>> {
    if !(1..=MOST_RANK).contains(&options.rank) {
        let problem = format!("`rank` is {}, expected 1 to {MOST_RANK}", options.rank);
        return Err(Error::usage(problem));
    }
    let (a, b) = (Checkpoint::open(base)?, Checkpoint::open(tuned)?);
    refuse_packed(&a)?;
    refuse_packed(&b)?;
    let target = check_output(&[base, tuned], out)?;
    let modules = modules(&a, &b, &options.targets)?;
    let place = target.begin("extract-lora")?;
    let rank = options.rank;
    let config = LoraConfig::new(rank, rank as f64, last_parts(&modules));
    let mut report = Vec::new();
    place.fill(|out| {
        let writer = AdapterWriter::create(out, &modules, &config, base)?;
        let bar = Bar::new("extracting", modules.len() as u64, "modules");
        for (at, module) in modules.iter().enumerate() {
            let weight = format!("{}.weight", module.name);
            let difference = Difference {
                base: a.tensor(&weight)?,
                tuned: b.tensor(&weight)?,
                rows: module.rows,
                columns: module.columns,
            };
            let (right, left) = decompose(&difference, rank)?;
            writer.write(at, [&right, &left])?;
            let (missed, norm) = difference.missed(&LowRank::new(1.0, rank, right, left, false))?;
            report.push(Extracted {
                module: module.name.clone(),
                error: if norm > 0.0 { missed / norm } else { 0.0 },
                norm,
            });
            bar.advance(1);
        }
        writer.finish()
    })?;
    Ok(report)
}

fn check_output(inputs: &[&Path], out: &Path) -> Result<Target> {
    let place = existing_ancestor(out);
    if inputs
        .iter()
        .any(|dir| place.starts_with(existing_ancestor(dir)))
    {
        let problem = format!("the output `{}` lies inside an input folder", out.display());
        return Err(Error::usage(problem).remedy("choose another output folder"));
    }
    let target = Target::look(out, false)?;
    if target.is_taken() {
        let taken = target.taken().display();
        let problem = format!("the output folder `{taken}` is not empty");
        return Err(Error::usage(problem).remedy("choose another one"));
    }
    Ok(target)
}

/// The last parts of the modules' names, each once.
fn last_parts(modules: &[Module]) -> Vec<String> {
    let mut targets: Vec<String> = modules.iter().map(|m| m.last_part().to_owned()).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// The modules to adapt.
fn modules(base: &Checkpoint, tuned: &Checkpoint, targets: &[String]) -> Result<Vec<Module>> {
    let mut found = Vec::new();
    let mut used = vec![false; targets.len()];
    for tensor in base.tensors() {
        let Some(module) = tensor.name.strip_suffix(".weight") else {
            continue;
        };
        let &[rows, columns] = tensor.shape.as_slice() else {
            continue;
        };
        let is_target = |target: &String| names_module(target, module);
        let wanted = match targets.iter().position(is_target) {
            Some(at) => {
                used[at] = true;
                true
            }
            None => targets.is_empty() && layer(&tensor.name).is_some(),
        };
        if !wanted || rows == 0 || columns == 0 || !tensor.dtype.is_float() {
            continue;
        }
        let other = tuned.tensor(&tensor.name)?;
        for (checkpoint, dtype) in [(base, tensor.dtype), (tuned, other.dtype)] {
            if dtype.is_f8() {
                let problem = format!("tensor `{}` has 8-bit numbers", tensor.name);
                return Err(Error::file(checkpoint.dir(), problem).remedy(
                    "write the model in bfloat16 first: `fuselm merge` with `passthrough`",
                ));
            }
        }
        if other.shape != tensor.shape || !other.dtype.is_float() {
            return Err(Error::input(
                tuned.dir().display(),
                format!(
                    "tensor `{}` is {} {:?}, the base model has {} {:?}",
                    tensor.name, other.dtype, other.shape, tensor.dtype, tensor.shape
                ),
            )
            .remedy("give two checkpoints of one architecture"));
        }
        found.push(Module {
            name: module.to_owned(),
            rows,
            columns,
        });
    }
    if let Some(at) = used.iter().position(|used| !used) {
        let problem = format!("no matrix of the model is named `{}`", targets[at]);
        return Err(Error::usage(problem).remedy("give names like `q_proj`"));
    }
    if found.is_empty() {
        return Err(Error::file(base.dir(), "there is no matrix in a layer")
            .remedy("name the modules with `--targets`"));
    }
    Ok(found)
}
