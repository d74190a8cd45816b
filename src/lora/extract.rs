//! The difference of two checkpoints as a LoRA adapter.
//!
//! Each adapted matrix gets the best approximation of low rank to its difference (`svd`). What else
//! differs is stored whole, under names that PEFT reads, or counted as missed.
//!
//! Memory: for a matrix of m × n and rank r, 8 · (m + n) · (r + 8) numbers of 4 bytes. The
//! matrices themselves are read piece by piece, six times.

use std::path::Path;

use super::config::LoraConfig;
use super::difference::{Difference, Held, Pair};
use super::low_rank::{LowRank, flip};
use super::names::{embedding_halves, halves};
use super::svd::{Change, decompose};
use super::write::AdapterWriter;
use crate::checkpoint::Target;
use crate::error::{Error, Result};
use crate::files::existing_ancestor;
use crate::progress::{Bar, warn};
use crate::tensors::{Dtype, TensorSpec};

/// The largest rank that is taken for one; more than a matrix has is filled up with zeros.
const MOST_RANK: usize = 1 << 16;

/// How an adapter is extracted.
#[derive(Clone, Debug, clap::Args)]
pub struct ExtractOptions {
    /// Rank of the adapter.
    #[arg(long, default_value_t = ExtractOptions::default().rank)]
    pub rank: usize,
    /// Names of the modules to adapt, as PEFT has them; nothing else is written (default: every
    /// matrix of the layers; embedding, head, norms and biases that differ are stored whole).
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

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// The module: the name of its weight without `.weight`; of another tensor its name.
    pub module: String,
    /// Norm of what the adapter misses, as a share of the norm of the difference (0 where there
    /// is no difference).
    pub error: f64,
    /// L2 norm of the difference.
    pub norm: f64,
    /// How the adapter holds the difference.
    pub form: Form,
}

/// How an adapter holds the difference of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As A and B.
    LowRank,
    /// The tuned model's tensor itself.
    Whole,
    /// Not at all.
    Missing,
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
    let pair = Pair::open(base, tuned)?;
    let target = check_output(&[base, tuned], out)?;
    let differences = pair.differences(&options.targets)?;
    let mut adapted = differences
        .iter()
        .filter(|difference| difference.is_adapted());
    if adapted.next().is_none() {
        return Err(Error::file(base, "there is no matrix in a layer")
            .remedy("name the modules with `--targets`"));
    }
    let extras = pair.extras();
    if let Some(first) = extras.first() {
        warn(format!(
            "{} has {} tensors that the base model lacks, and which are left out (`{first}`)",
            tuned.display(),
            extras.len()
        ));
    }
    let place = target.begin("extract-lora")?;
    let config = settings(&pair, &differences, options.rank);
    let mut report = Vec::new();
    place.fill(|out| {
        let specs = differences.iter().map(|d| specs(&pair, d, options.rank));
        let specs = specs.collect::<Result<Vec<_>>>()?;
        let writer = AdapterWriter::of(out, specs.into_iter().flatten(), &config, base)?;
        let bar = Bar::new("extracting", differences.len() as u64, "tensors");
        let mut at = 0;
        for difference in &differences {
            at += write(&pair, difference, (&writer, at), &config, &mut report)?;
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

/// What PEFT is told.
fn settings(pair: &Pair, differences: &[Difference], rank: usize) -> LoraConfig {
    let names = |test: &dyn Fn(&Difference) -> bool, name: &dyn Fn(&Difference) -> String| {
        let mut names: Vec<String> = differences.iter().filter(|d| test(d)).map(name).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let last = |d: &Difference| d.last_part().to_owned();
    let mut targets = names(&|d| d.is_adapted(), &last);
    if targets
        .iter()
        .any(|name| pair.matrices(name) > adapted_as(differences, name))
    {
        // The last part of a name does not tell them apart.
        targets = names(&|d| d.is_adapted(), &|d| d.module.clone());
    }
    let mut forms = differences.iter().map(|difference| difference.held);
    let looks_up = |held| {
        matches!(
            held,
            Held::Adapted {
                embedding: true,
                ..
            }
        )
    };
    let transposed = |held| {
        let adapted = Held::Adapted {
            flipped: true,
            embedding: false,
        };
        held == adapted
    };
    LoraConfig {
        saved: names(&|d| d.held == Held::Saved, &|d| d.module.clone()),
        keeps_tied: pair.is_tied() && forms.clone().any(looks_up),
        transposed: forms.clone().any(transposed),
        biases: forms.any(|held| held == Held::Below),
        ..LoraConfig::new(rank, rank as f64, targets)
    }
}

/// How many adapted modules have this last part of their names.
fn adapted_as(differences: &[Difference], last: &str) -> usize {
    let adapted = differences
        .iter()
        .filter(|difference| difference.is_adapted());
    adapted
        .filter(|difference| difference.last_part() == last)
        .count()
}

/// The adapter's tensors for a difference.
fn specs(pair: &Pair, difference: &Difference, rank: usize) -> Result<Vec<TensorSpec>> {
    let Difference {
        tensor,
        module,
        parameter,
        ..
    } = difference;
    let [base, tuned] = pair.views(tensor)?;
    let whole = |name: String| {
        vec![TensorSpec {
            name,
            dtype: tuned.dtype,
            shape: tuned.shape.to_vec(),
        }]
    };
    Ok(match difference.held {
        Held::Missed => Vec::new(),
        Held::Saved | Held::Plain => whole(format!("{module}.{parameter}")),
        Held::Below => whole(format!("{module}.base_layer.{parameter}")),
        Held::Adapted { flipped, embedding } => {
            let [a, b] = match embedding {
                true => embedding_halves(module),
                false => halves(module),
            };
            let (inner, outer) = match flipped {
                true => (base.shape[0], base.shape[1]),
                false => (base.shape[1], base.shape[0]),
            };
            let shapes = [(a, [rank, inner]), (b, [outer, rank])];
            let specs = shapes.map(|(name, shape)| TensorSpec {
                name,
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            });
            specs.to_vec()
        }
    })
}

/// Writes a difference from tensor `at` of the adapter on; returns the number of its tensors.
fn write(
    pair: &Pair,
    difference: &Difference,
    (writer, at): (&AdapterWriter, usize),
    config: &LoraConfig,
    report: &mut Vec<Extracted>,
) -> Result<usize> {
    let [base, tuned] = pair.views(&difference.tensor)?;
    let columns = base.shape.last().copied().unwrap_or(1);
    let change = Change {
        base,
        tuned,
        rows: base.shape.iter().product::<usize>() / columns.max(1),
        columns,
    };
    let named = |form, (missed, norm): (f64, f64)| Extracted {
        module: match difference.parameter.as_str() {
            "weight" => difference.module.clone(),
            parameter => format!("{}.{parameter}", difference.module),
        },
        error: if norm > 0.0 { missed / norm } else { 0.0 },
        norm,
        form,
    };
    let nothing = || LowRank::new(1.0, 1, vec![0.0; columns], vec![0.0; change.rows], false);
    let Held::Adapted { flipped, .. } = difference.held else {
        let (_, norm) = change.missed(&nothing())?;
        let (form, missed, count) = match difference.held {
            Held::Missed => (Form::Missing, norm, 0),
            _ => (Form::Whole, 0.0, 1),
        };
        if count > 0 {
            writer.bytes(at, tuned.bytes)?;
        }
        report.push(named(form, (missed, norm)));
        return Ok(count);
    };
    let rank = config.rank;
    let (right, left) = decompose(&change, rank)?;
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let (a, b) = match flipped {
        true => (flip(&left, rank), flip(&right, columns)),
        false => (right.clone(), left.clone()),
    };
    writer.bytes(at, &bytes(&a))?;
    writer.bytes(at + 1, &bytes(&b))?;
    let missed = change.missed(&LowRank::new(1.0, rank, right, left, false))?;
    report.push(named(Form::LowRank, missed));
    Ok(2)
}
