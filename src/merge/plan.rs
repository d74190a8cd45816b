//! Everything that is decided and checked before the first byte is written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::config::MergeConfig;
use super::fingerprint::{fingerprint, written};
use super::inputs::{Model, Pages};
use super::matching::{Matched, TensorPlan, match_tensors, reference};
use super::methods::{Family, Sparsify};
use super::vocabulary::{Files, describe, differences, prepare};
use crate::checkpoint::{CONFIG, Layout, Target};
use crate::error::{Error, Result};
use crate::files::existing_ancestor;
use crate::memory::free_memory;
use crate::tensors::TensorSpec;
use crate::units::{Bytes, Count};

/// How a merge is carried out; nothing here changes a byte of a tensor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct MergeOptions {
    /// Most bytes of tensors in one output file (5 GB, as Hugging Face has it).
    #[arg(long, default_value_t = MergeOptions::default().out_shard_size)]
    pub out_shard_size: u64,
    /// Elements that a thread works on at a time, rounded up to blocks of
    /// 65,536.
    #[arg(long, default_value_t = MergeOptions::default().chunk)]
    pub chunk: usize,
    /// Replace an output folder that holds a model.
    #[arg(long)]
    pub force: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            out_shard_size: 5_000_000_000,
            chunk: 1 << 18,
            force: false,
        }
    }
}

impl MergeOptions {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// A shard size or chunk of zero.
    pub fn validate(&self) -> Result<()> {
        if self.out_shard_size == 0 {
            return Err(Error::usage("`out_shard_size` must be at least 1 byte"));
        }
        if self.chunk == 0 || self.chunk > 1 << 30 {
            return Err(Error::usage("`chunk` must be from 1 to 2^30 elements"));
        }
        Ok(())
    }
}

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
    pub(super) written: Vec<(u64, Option<SystemTime>)>,
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
    let target = check_output(&models, out, options.force)?;
    let vocabulary = prepare(config, &models, reference(config, &models)?)?;
    let (vocabulary, tokenizer, about) = match vocabulary {
        Some((vocabulary, files, about)) => (Some(vocabulary), Some(files), about),
        None => (None, None, Vec::new()),
    };
    let matched = match_tensors(config, &models, vocabulary.as_ref())?;
    drop(vocabulary);
    let tokenizer = tokenizer.map(|files| Files {
        summary: summarise(files.summary, &matched, &models),
        ..files
    });
    let specs = matched
        .tensors
        .iter()
        .map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        })
        .collect();
    let layout = Layout::new(specs, options.out_shard_size)?;
    let inputs: u64 = models.iter().map(|model| model.checkpoint.bytes()).sum();
    let fits = free_memory().is_none_or(|memory| inputs < memory / 2);
    let warnings = differences(config, &models)
        .into_iter()
        .chain(about)
        .collect();
    let mut plan = Plan {
        config: config.clone(),
        options: options.clone(),
        target,
        models,
        matched,
        layout,
        fingerprint: String::new(),
        written: Vec::new(),
        warnings,
        tokenizer,
        pages: if fits { Pages::Keep } else { Pages::Drop },
    };
    plan.fingerprint = fingerprint(&plan)?;
    plan.written = written(&plan)?;
    Ok(plan)
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

fn check_output(models: &[Model], out: &Path, force: bool) -> Result<Target> {
    let place = existing_ancestor(out);
    let exists = out.exists();
    let folders = models.iter().flat_map(|model| {
        let adapter = model.adapter.iter().map(|adapter| &adapter.dir);
        std::iter::once(&model.dir).chain(adapter)
    });
    for folder in folders {
        let dir = existing_ancestor(folder);
        if place.starts_with(&dir) {
            return Err(Error::usage(format!(
                "the output `{}` lies inside the input folder `{}`",
                out.display(),
                folder.display()
            ))
            .remedy("choose another output folder"));
        }
        if exists && dir.starts_with(&place) {
            return Err(Error::usage(format!(
                "the output `{}` contains the input folder `{}`",
                out.display(),
                folder.display()
            ))
            .remedy("choose another output folder"));
        }
    }
    let target = Target::look(out, force)?;
    if target.is_taken() {
        let problem =
            |what: &str| Error::usage(format!("the output folder `{}` is {what}", out.display()));
        if !force {
            return Err(
                problem("not empty").remedy("choose another one, or replace it with `--force`")
            );
        }
        if !target.holds(CONFIG) {
            return Err(
                problem("no model folder (it has no config.json) and is not replaced")
                    .remedy("choose another one, or remove it yourself"),
            );
        }
    }
    Ok(target)
}

impl Plan {
    /// The folder beside the output in which the merge is put together.
    pub(super) fn workplace(&self) -> PathBuf {
        self.target.beside("merging")
    }

    /// The number of output tensors.
    pub fn tensors(&self) -> usize {
        self.matched.tensors.len()
    }

    /// Bytes of input tensors, each counted once.
    pub fn bytes_in(&self) -> u64 {
        self.matched
            .tensors
            .iter()
            .map(|t| self.tensor_bytes(t))
            .sum()
    }

    /// Bytes that are read, passes counted.
    pub fn bytes_read(&self) -> u64 {
        let read = |t: &TensorPlan| self.tensor_bytes(t) * self.passes(t).max(1);
        self.matched.tensors.iter().map(read).sum()
    }

    /// Bytes of the output's weights.
    pub fn bytes_written(&self) -> u64 {
        self.layout.bytes()
    }

    pub(super) fn tensor_bytes(&self, tensor: &TensorPlan) -> u64 {
        let inputs = tensor.inputs();
        inputs
            .filter_map(|(number, name)| self.models[*number].checkpoint.info(name))
            .map(|info| (info.end - info.begin) as u64)
            .sum()
    }

    /// Tells the system what becomes of the pages of a tensor's inputs.
    pub(super) fn advise(&self, tensor: &TensorPlan, pages: Pages) {
        for (number, name) in tensor.inputs() {
            self.models[*number].advise(name, pages);
        }
    }

    /// The most passes over a tensor's inputs that the method may need.
    fn passes(&self, tensor: &TensorPlan) -> u64 {
        let below = |values: &super::kernels::Values, name: &str| values.number(name) < 1.0;
        let sparse = tensor
            .per_model
            .iter()
            .any(|values| below(values, "density"));
        match self.config.method.family {
            Family::Linear | Family::Passthrough | Family::NearSwap => 1,
            Family::Varm | Family::Slerp | Family::NuSlerp => 2,
            Family::MultiSlerp | Family::Karcher | Family::ModelStock => 2,
            Family::ArceeFusion => 2,
            Family::Sce if tensor.values.word("compat") == "mergekit" => 4,
            Family::Sce => 2,
            Family::TaskArithmetic { .. } if !sparse => 1,
            Family::TaskArithmetic { sparsify, .. } => {
                let select = match sparsify {
                    Sparsify::Magnitude | Sparsify::Outliers => 1,
                    _ => 0,
                };
                1 + select + u64::from(tensor.values.flag("rescale"))
            }
        }
    }

    /// Most anonymous memory that the merge takes beyond the program itself.
    pub fn memory(&self) -> u64 {
        let threads = rayon::current_num_threads() as u64;
        let one = |t: &TensorPlan| -> u64 {
            let models = t.models.len() as u64 + 2;
            let len = t.shape.iter().product::<usize>() as u64;
            // What a thread works on: a tile of every model and a block of output.
            let row = t.shape.last().copied().unwrap_or(1) as u64;
            let row = row.min(len).max(1 << 10);
            let tiles = models * row * 12 + (1 << 19);
            let blocks = len / (1 << 16) * models * 80;
            // What a selection remembers (twice, as growing vectors leave behind as much), or its
            // histograms.
            let remembered = (len / 8).clamp(1 << 16, 1 << 21).min(len) * 2 * (32 + 4 * models);
            let histograms = threads * models * (1 << 19);
            let selects = self.passes(t) > 1
                && matches!(
                    self.config.method.family,
                    Family::Sce | Family::TaskArithmetic { .. } | Family::ArceeFusion
                );
            let selection = if selects {
                remembered.max(histograms)
            } else {
                0
            };
            match len <= super::run::SMALL as u64 {
                true => threads * (tiles + blocks + selection),
                false => threads * tiles + blocks + selection,
            }
        };
        // Placements of rows that tensors share, and the tokenizer's file.
        let placements = self
            .matched
            .tensors
            .iter()
            .filter_map(|t| t.placement.as_ref());
        let mut placements: Vec<_> = placements.collect();
        placements.dedup_by(|a, b| std::sync::Arc::ptr_eq(a, b));
        let placements: u64 = placements.iter().map(|placement| placement.bytes()).sum();
        let json = self
            .tokenizer
            .as_ref()
            .and_then(|files| files.json.as_ref());
        let json = json.map_or(0, |json| json.len() as u64);
        placements + json + self.matched.tensors.iter().map(one).max().unwrap_or(0)
    }

    /// Free bytes where the output will be, if the system says.
    fn free_space(&self) -> Option<u64> {
        free_bytes(&existing_ancestor(self.target.out()))
    }

    pub(super) fn check_space(&self) -> Result<()> {
        let there: u64 = self
            .layout
            .files()
            .filter_map(|file| allocated(&self.workplace().join(file)))
            .sum();
        let needed = self.bytes_written().saturating_sub(there);
        match self.free_space() {
            Some(free) if free < needed => Err(Error::file(
                self.target.out(),
                format!(
                    "the merged model takes {}, {} are free",
                    Bytes(needed),
                    Bytes(free)
                ),
            )
            .remedy("free some space or choose another output folder")),
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
fn allocated(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.blocks() * 512)
}

#[cfg(not(unix))]
fn allocated(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.len())
}

#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` is a terminated string and `stat` has room for the answer; it was zeroed,
    // which is a valid value of this plain C structure, even where the call fails.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    #[allow(clippy::unnecessary_cast)]
    Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .models
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        let passes = self.matched.tensors.iter().map(|t| self.passes(t)).max();
        writeln!(
            f,
            "merge       {} of {}",
            self.config.method.name,
            names.join(", ")
        )?;
        if let Some(base) = &self.config.base_model {
            writeln!(f, "base        {base}")?;
        }
        writeln!(f, "output      {}", self.target.out().display())?;
        writeln!(
            f,
            "tensors     {} in {} file(s)",
            Count(self.tensors() as u64),
            self.layout.files().len()
        )?;
        writeln!(
            f,
            "read        {} in up to {} pass(es)",
            Bytes(self.bytes_in()),
            passes.unwrap_or(0)
        )?;
        write!(f, "write       {}", Bytes(self.bytes_written()))?;
        if let Some(free) = self.free_space() {
            let enough = free >= self.bytes_written();
            let but = if enough { "" } else { ": too little" };
            write!(f, " ({} free{but})", Bytes(free))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "memory      at most {} beyond the page cache",
            Bytes(self.memory())
        )?;
        let vocabulary = self.tokenizer.iter().flat_map(|files| &files.summary);
        for (at, line) in vocabulary.enumerate() {
            let title = if at == 0 { "vocabulary" } else { "" };
            writeln!(f, "{title:<12}{line}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning     {warning}")?;
        }
        for note in &self.matched.notes {
            writeln!(f, "note        {note}")?;
        }
        Ok(())
    }
}
