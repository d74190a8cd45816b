//! Carrying a plan out: tensor by tensor, each shared out over the threads.

use std::sync::Mutex;

use rayon::prelude::*;

use super::blocks::{Inputs, Output, Walk};
use super::fingerprint::check_unchanged;
use super::inputs::{Input, Pages};
use super::journal::{Done, JOURNAL, Journal};
use super::kernels::{self, Job, Outcome, Remark, Share};
use super::matching::TensorPlan;
use super::output::write_companions;
use super::plan::Plan;
use super::vocabulary::Gathered;
use crate::checkpoint::CheckpointWriter;
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::tensors::Elements;

/// Most elements of a tensor that one thread merges alone.
pub(super) const SMALL: usize = 1 << 22;

/// What one model contributed to one tensor: a row of `merge_stats`.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeStat {
    /// The output tensor.
    pub tensor: String,
    /// The model as written in the configuration.
    pub model: String,
    /// The factor of the model's update (or tensor).
    pub coefficient: f64,
    /// Share of positions that were selected, in 0..=1.
    pub selected_fraction: f64,
    /// Share of positions where the model's entry was used, in 0..=1.
    pub kept_fraction: f64,
    /// L2 norm of the model's difference from the base (of the model where there is no base).
    pub delta_norm: f64,
}

impl MergeStat {
    pub(super) fn new(tensor: &str, model: &str, share: &Share) -> Self {
        Self {
            tensor: tensor.to_owned(),
            model: model.to_owned(),
            coefficient: share.coefficient,
            selected_fraction: share.selected_fraction,
            kept_fraction: share.kept_fraction,
            delta_norm: share.delta_norm,
        }
    }
}

/// What a merge did.
#[derive(Clone, Debug)]
pub struct MergeSummary {
    /// Output tensors.
    pub tensors: usize,
    /// Tensors that an interrupted run had finished before.
    pub resumed: usize,
    /// Bytes read from the inputs, passes counted.
    pub bytes_read: u64,
    /// Bytes of the output's weights.
    pub bytes_written: u64,
    /// One row per tensor and model.
    pub stats: Vec<MergeStat>,
    /// What the user was warned about.
    pub warnings: Vec<String>,
}

/// Carries out a plan: the output folder appears complete, or not at all. A run that was killed
/// is continued at the tensor where it stopped.
///
/// # Errors
///
/// Too little free space for the output, failed reads and writes, and the user's wish to stop:
/// what is complete is kept beside the output for the next run. Numbers that are infinite or NaN in
/// an input, results that the output's dtype does not hold, inputs that changed meanwhile, an output
/// folder that another process writes or that is no longer what was planned for.
///
/// # Memory
///
/// [`Plan::memory`], whatever the size of models and tensors.
pub fn run(plan: &Plan) -> Result<MergeSummary> {
    run_observed(plan, &mut |_, _| Ok(()))
}

/// [`run`], telling `observer` the number and name of each tensor after it is written. An error
/// of the observer stops the merge as an interrupt would.
///
/// # Errors
///
/// As [`run`].
pub fn run_observed(
    plan: &Plan,
    observer: &mut (dyn FnMut(usize, &str) -> Result<()> + Send),
) -> Result<MergeSummary> {
    plan.check_space()?;
    let place = plan.target.begin("merge")?;
    let workplace = plan.workplace();
    std::fs::create_dir_all(&workplace).at(&workplace)?;
    let (journal, done) = Journal::open(&workplace, &plan.fingerprint, plan.tensors())?;
    let resumed = done.iter().flatten().count();
    let writer = CheckpointWriter::open(&workplace, plan.layout.clone())?;
    let tensors = &plan.matched.tensors;
    let bar = Bar::new("merging", plan.bytes_in(), "bytes");
    let open: Vec<usize> = (0..tensors.len())
        .filter(|at| done[*at].is_none())
        .collect();
    for (at, known) in done.iter().enumerate() {
        if let Some(known) = known {
            writer.restore(at, known.digest);
            bar.advance(plan.tensor_bytes(&tensors[at]));
        }
    }
    let progress = Mutex::new((journal, done, observer));
    let poisoned = || Error::usage("another thread failed");

    let merge = |place: usize| -> Result<()> {
        check_interrupt()?;
        let at = open[place];
        if let Some(next) = open.get(place + 1) {
            plan.advise(&tensors[*next], Pages::Soon);
        }
        let outcome = merge_tensor(plan, at, &writer)?;
        if !outcome.finite {
            return Err(not_finite(plan, &tensors[at]));
        }
        let digest = writer.complete(at)?;
        plan.advise(&tensors[at], plan.pages);
        bar.advance(plan.tensor_bytes(&tensors[at]));
        let mut progress = progress.lock().map_err(|_| poisoned())?;
        let (journal, done, observer) = &mut *progress;
        let now = Done { digest, outcome };
        journal.done(at, &now)?;
        done[at] = Some(now);
        observer(at, &tensors[at].name)
    };
    // Small tensors are shared out whole, so that no thread waits at the end of each; large ones
    // one at a time, block by block.
    let is_small = |place: &usize| tensors[open[*place]].shape.iter().product::<usize>() <= SMALL;
    let places: Vec<usize> = (0..open.len()).collect();
    for group in places.chunk_by(|a, b| is_small(a) && is_small(b)) {
        group
            .par_iter()
            .with_max_len(1)
            .try_for_each(|place| merge(*place))?;
    }

    let (journal, done, _) = progress.into_inner().map_err(|_| poisoned())?;
    check_unchanged(plan)?;
    let record = writer.record()?;
    writer.finish(&workplace)?;
    write_companions(plan, &workplace)?;
    record.write(&workplace, &[JOURNAL])?;
    drop(journal);
    place.publish(&workplace, &[JOURNAL])?;

    let outcomes: Vec<Outcome> = done
        .into_iter()
        .flatten()
        .map(|done| done.outcome)
        .collect();
    let mut warnings = warnings(plan, &outcomes);
    warnings.extend(plan.warnings.iter().cloned());
    Ok(MergeSummary {
        tensors: tensors.len(),
        resumed,
        bytes_read: plan.bytes_read(),
        bytes_written: plan.bytes_written(),
        stats: stats(plan, &outcomes),
        warnings,
    })
}

fn merge_tensor(plan: &Plan, at: usize, writer: &CheckpointWriter) -> Result<Outcome> {
    let tensor = &plan.matched.tensors[at];
    if tensor.copy {
        let (number, name) = tensor.base.as_ref().unwrap_or(&tensor.models[0]);
        writer.write(at, 0, plan.models[*number].checkpoint.tensor(name)?.bytes)?;
        return Ok(Outcome::empty());
    }
    let stored = tensor
        .inputs()
        .map(|(number, name)| plan.models[*number].open_tensor(name))
        .collect::<Result<Vec<Input<'_>>>>()?;
    let gathered = match &tensor.placement {
        Some(placement) => Gathered::all(&stored, placement, tensor.shape[1..].iter().product())?,
        None => Vec::new(),
    };
    let inputs: Vec<&dyn Elements> = match &tensor.placement {
        Some(_) => gathered.iter().map(|input| input as _).collect(),
        None => stored.iter().map(|input| input as _).collect(),
    };
    let (base, models) = inputs.split_at(usize::from(tensor.base.is_some()));
    let len = tensor.shape.iter().product();
    let vector = tensor.shape.len() < 2;
    let row = if vector {
        len
    } else {
        tensor.shape.last().copied().unwrap_or(1)
    };
    let job = Job {
        name: &tensor.name,
        method: plan.config.method,
        walk: Walk::new(len, row, plan.options.chunk),
        inputs: Inputs {
            base: base.first().copied(),
            models: models.to_vec(),
        },
        models: tensor
            .models
            .iter()
            .map(|(number, _)| plan.models[*number].name.as_str())
            .collect(),
        values: tensor.values.clone(),
        per_model: tensor.per_model.clone(),
        compute_dtype: tensor.compute_dtype,
        vector,
    };
    let write = |offset: u64, bytes: &[u8]| writer.write(at, offset, bytes);
    let output = Output {
        dtype: tensor.dtype,
        write: &write,
    };
    kernels::merge(&job, &output)
}

/// Why a tensor came out with values that are not finite: the first number of an input that is not,
/// or the output's range.
fn not_finite(plan: &Plan, tensor: &TensorPlan) -> Error {
    for (number, name) in tensor.inputs() {
        let model = &plan.models[*number];
        match model.first_not_finite(name) {
            Ok(None) => {}
            Ok(Some((index, value))) => {
                let info = model.checkpoint.info(name);
                let at = info
                    .map(|info| place(index, &info.shape))
                    .unwrap_or_default();
                return Error::input(
                    model.file_of(name).display(),
                    format!("tensor `{name}`: the number at {at:?} is {value}"),
                )
                .remedy("the file is damaged, or its training went wrong; copy it again");
            }
            Err(error) => return error,
        }
    }
    let dtype = tensor.dtype;
    Error::usage(format!(
        "tensor `{}`: merged values are beyond the range of {dtype}",
        tensor.name
    ))
    .remedy("set `out_dtype` to bfloat16 or float32, or choose smaller weights")
}

/// The index in each dimension of element `index`.
fn place(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|size| {
            let at = index % size;
            index /= size;
            at
        })
        .collect();
    place.reverse();
    place
}

fn stats(plan: &Plan, outcomes: &[Outcome]) -> Vec<MergeStat> {
    let mut rows = Vec::new();
    for (tensor, outcome) in plan.matched.tensors.iter().zip(outcomes) {
        for ((number, _), share) in tensor.models.iter().zip(&outcome.shares) {
            let model = &plan.models[*number].name;
            rows.push(MergeStat::new(&tensor.name, model, share));
        }
    }
    rows
}

/// One line per kind of remark, with the tensors it is about.
fn warnings(plan: &Plan, outcomes: &[Outcome]) -> Vec<String> {
    let mut kinds: std::collections::BTreeMap<Remark, Vec<&str>> = Default::default();
    for (tensor, outcome) in plan.matched.tensors.iter().zip(outcomes) {
        for remark in &outcome.remarks {
            kinds.entry(*remark).or_default().push(&tensor.name);
        }
    }
    kinds
        .into_iter()
        .map(|(remark, tensors)| {
            let what = match remark {
                Remark::OneTarget => {
                    "there is one target, so that no position varies: `select_topk` has no effect \
                     and the target is returned"
                }
                Remark::Uniform => {
                    "`compat: mergekit` uses uniform coefficients, as the mean squared updates \
                     sum to less than 1e-6"
                }
                Remark::Antipodal => {
                    "the models' directions cancel out: the linear mean is used instead"
                }
            };
            let shown = tensors.iter().take(3).map(|t| format!("`{t}`"));
            let shown = shown.collect::<Vec<_>>().join(", ");
            match tensors.len() {
                0..=3 => format!("{what} (tensors {shown})"),
                n => format!("{what} ({n} tensors: {shown}, ...)"),
            }
        })
        .collect()
}
