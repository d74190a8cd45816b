//! Everything that is decided and checked before the first byte is written.
//!
//! | file | what it decides |
//! |---|---|
//! | `options` | how a merge is carried out |
//! | `parameters` | the parameters of one tensor |
//! | `tensors` | what a planned tensor is |
//! | `slices` | which layers of which models the output is stacked from |
//! | `packed` | which tensors are copied because they are no numbers |
//! | `shapes` | whether shapes are equal, and which rows are placed by token |
//! | `matching` | which tensors become which output tensor |
//! | `left_out` | which files beside the weights the output does not get |
//! | `checks` | whether the models belong together |
//! | `notes` | what users are told of them |
//! | `target` | whether the output folder may be written to |
//! | `size`, `space`, `display` | bytes, memory, free space; the plan for people |

mod checks;
mod display;
mod left_out;
mod matching;
mod notes;
mod options;
mod packed;
mod parameters;
mod shapes;
mod size;
mod slices;
mod space;
mod target;
mod tensors;

use std::path::{Path, PathBuf};

pub use self::options::MergeOptions;
pub(super) use self::parameters::Lookup;
pub(super) use self::tensors::{SMALL, TensorPlan};

use self::left_out::left_out;
use self::matching::match_tensors;
use self::packed::check_packed;
use self::slices::stack;
use self::target::check_output;
use self::tensors::Matched;
use super::config::MergeConfig;
use super::fingerprint::{Written, fingerprint, written};
use super::inputs::{Model, Pages};
use super::vocabulary::{Files, describe, differences, is_by_token, is_per_layer, prepare};
use crate::checkpoint::{Layout, Target};
use crate::error::Result;
use crate::memory::free_memory;
use crate::tensors::TensorSpec;

/// A merge that is ready to run: inputs open and checked, output laid out.
pub struct Plan {
    pub(super) config: MergeConfig,
    pub(super) options: MergeOptions,
    pub(super) target: Target,
    pub(super) models: Vec<Model>,
    pub(super) matched: Matched,
    pub(super) layout: Layout,
    pub(super) fingerprint: String,
    /// The tokenizer of the output, where rows are placed by token.
    pub(super) tokenizer: Option<Files>,
    /// Sizes of the inputs' files, and when each was last written, when the plan was made.
    pub(super) written: Vec<Written>,
    /// What the user is warned about before the merge.
    pub(super) warnings: Vec<String>,
    /// What becomes of the pages of a tensor that is merged.
    pub(super) pages: Pages,
}

/// Plans a merge into the folder `out`.
///
/// # Errors
///
/// Inputs that are missing, damaged or of different architectures, tensors that are missing,
/// superfluous or of different shapes (model, tensor and shapes are named), parameters that are
/// missing, an output folder that is not empty (with `force`: that is no model folder), lies inside
/// an input or contains one.
pub fn plan(config: &MergeConfig, out: &Path, options: &MergeOptions) -> Result<Plan> {
    options.validate()?;
    let models = config
        .models()
        .into_iter()
        .map(|name| Model::open(config, name))
        .collect::<Result<Vec<_>>>()?;
    check_packed(config, &models)?;
    let target = check_output(&models, out, options.force)?;
    let stacks = stack(config, &models)?;
    let vocabulary = prepare(config, &models, stacks[0].reference)?;
    let (vocabulary, tokenizer, about) = match vocabulary {
        Some((vocabulary, files, about)) => (Some(vocabulary), Some(files), about),
        None => (None, None, Vec::new()),
    };
    let mut matched = match_tensors(config, &models, &stacks, vocabulary.as_ref())?;
    drop(vocabulary);
    let tokenizer = tokenizer.map(|files| Files {
        summary: summarise(files.summary, &matched, &models),
        per_layer: (matched.tensors.iter())
            .any(|tensor| tensor.placement.is_some() && is_per_layer(&tensor.name)),
        ..files
    });
    let left = left_out(&models[matched.reference], tokenizer.as_ref())?;
    matched.notes.extend(left);
    let layout = Layout::new(specs(&matched), options.out_shard_size)?;
    let placements = matched.tensors.iter();
    let placements = placements.filter_map(|tensor| tensor.placement.as_deref());
    let fingerprint = fingerprint(config, &models, tokenizer.as_ref(), placements, &layout)?;
    let differing = differences(config, &with_tables(&matched, &models));
    let without_effect = config.warnings.iter().cloned();
    let warnings = differing.into_iter().chain(about).chain(without_effect);
    let inputs: u64 = models.iter().map(|model| model.checkpoint.bytes()).sum();
    let fits = free_memory().is_none_or(|memory| inputs < memory / 2);
    Ok(Plan {
        config: config.clone(),
        options: options.clone(),
        target,
        layout,
        fingerprint,
        written: written(&models)?,
        warnings: warnings.collect(),
        tokenizer,
        pages: if fits { Pages::Keep } else { Pages::Drop },
        matched,
        models,
    })
}

/// The models from which rows for tokens are taken.
fn with_tables<'a>(matched: &Matched, models: &'a [Model]) -> Vec<&'a Model> {
    let tables = matched.tensors.iter().filter(|t| is_by_token(&t.name));
    let numbers: Vec<usize> = tables
        .flat_map(TensorPlan::inputs)
        .map(|(number, _)| *number)
        .collect();
    let all = models.iter().enumerate();
    all.filter(|(number, _)| numbers.is_empty() || numbers.contains(number))
        .map(|(_, model)| model)
        .collect()
}

fn specs(matched: &Matched) -> Vec<TensorSpec> {
    let tensors = matched.tensors.iter();
    let specs = tensors.map(|tensor| TensorSpec {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    });
    specs.collect()
}

/// What the vocabulary is made of, and where the rows of the first tensor that is placed come from.
fn summarise(mut summary: Vec<String>, matched: &Matched, models: &[Model]) -> Vec<String> {
    let placed = matched.tensors.iter().find_map(|tensor| {
        let names = tensor
            .inputs()
            .map(|(number, _)| models[*number].name.as_str());
        Some((tensor.placement.as_ref()?, names.collect::<Vec<_>>()))
    });
    match placed {
        Some((placement, names)) => summary.extend(describe(placement, &names)),
        None => summary.push("all models have these tokens in this order".to_owned()),
    }
    summary
}

impl Plan {
    /// The folder beside the output in which the merge is put together.
    pub(super) fn workplace(&self) -> PathBuf {
        self.target.beside("merging")
    }

    /// Tells the system what becomes of the pages of a tensor's inputs.
    pub(super) fn advise(&self, tensor: &TensorPlan, pages: Pages) {
        for (number, name) in tensor.inputs() {
            self.models[*number].advise(name, pages);
        }
    }
}
