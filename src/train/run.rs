//! From inputs to outputs: what is checked before any work, and what is written after it.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Device;

use super::checkpoint::Checkpoint;
use super::data::{DataSet, Limits};
use super::gradients::Gradients;
use super::groups::{check_used, groups, matches};
use super::memory::{Estimate, Plan};
use super::optim::{AdamW, Settings};
use super::order::count_steps;
use super::steps;
use super::stopping::Verdict;
use super::trainer::Trainer;
use super::workers::Workers;
use super::{
    Checkpointing, Init, Method, MicroBatchTokens, TrainInputs, TrainOptions, TrainSummary,
};
use crate::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer};
use crate::checkpoint::{Target, model_digest};
use crate::error::{Error, Result};
use crate::files::digest;
use crate::model::{Adapters, Config, Decoder, LoadOptions, LoraSave, Mode, free_memory, lora};
use crate::progress;
use crate::vocab::Tokenizer;

/// Models up to so many parameters are computed by workers side by side.
const SIDE_BY_SIDE: u64 = 100_000_000;

/// What determines the weights and the log of a training.
///
/// # Errors
/// Unreadable inputs.
pub fn provenance(inputs: &TrainInputs, options: &TrainOptions) -> Result<Provenance> {
    let pivot = match &inputs.pivot {
        Init::Model(dir) => model_digest(dir)?,
        Init::Random { config, .. } => {
            let config = serde_json::Value::Object(config.clone());
            digest::text(&format!("random {config}"))
        }
    };
    let tokens = Artifact::open(&inputs.tokens, Kind::Tokens)?;
    let mut provenance = Provenance::new(Kind::Steps)
        .options(options.changing(inputs.targets.is_some()))
        .input("pivot", pivot)
        .input("tokens", tokens.identity());
    if let Some(dir) = used_targets(inputs, options) {
        let targets = Artifact::open(dir, Kind::Targets)?;
        provenance = provenance.input("targets", targets.identity());
    }
    if let Some(dir) = &inputs.valid_tokens {
        let valid = Artifact::open(dir, Kind::Tokens)?;
        provenance = provenance.input("valid", valid.identity());
    }
    Ok(provenance)
}

fn used_targets<'a>(inputs: &'a TrainInputs, options: &TrainOptions) -> Option<&'a Path> {
    let targets = inputs.targets.as_deref();
    targets.filter(|_| options.learns_from_targets(true))
}

/// Trains `inputs.pivot` and writes the model folder and the log.
///
/// An unfinished training of the same inputs and options is continued from its last saved state.
///
/// # Errors
/// Options out of range; an `out` that exists, or the state of another training, unless
/// `overwrite`; tokens of another vocabulary, or those of [`DataSet::open`]; a model that cannot be
/// loaded; a loss or gradient that is infinite or NaN, naming step and samples;
/// [`Error::Interrupted`], after the state was saved.
pub fn run(inputs: &TrainInputs, options: &TrainOptions) -> Result<TrainSummary> {
    run_with(inputs, options, Hooks::default())
}

/// What tests change of a training.
#[derive(Default)]
pub(super) struct Hooks<'a> {
    /// Called after each step; its error stops the training like any other.
    pub after_step: Option<&'a mut dyn FnMut(u64) -> Result<()>>,
    /// Number of workers.
    pub workers: Option<usize>,
}

/// [`run`] with hooks.
pub(super) fn run_with(
    inputs: &TrainInputs,
    options: &TrainOptions,
    mut hooks: Hooks<'_>,
) -> Result<TrainSummary> {
    options.validate()?;
    if let (Some(option), None) = (options.needs_validation(), &inputs.valid_tokens) {
        return Err(
            Error::usage(format!("`train.{option}` needs a validation set"))
                .remedy("give `train.valid` in a recipe, or `--valid-tokens`"),
        );
    }
    let provenance = provenance(inputs, options)?;
    let checkpoint = Checkpoint::new(&inputs.out, provenance.clone());
    let target = Target::look(&inputs.out, inputs.overwrite)?;
    let place = target.begin("train")?;
    prepare_outputs(inputs, &checkpoint, &provenance)?;

    let (config, folder) = match &inputs.pivot {
        Init::Model(dir) => (Config::load(dir)?, dir),
        Init::Random { config, tokenizer } => {
            let place = tokenizer.join("config.json");
            (Config::from_json(config.clone(), &place)?, tokenizer)
        }
    };
    let limits = Limits {
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
    };
    let data = DataSet::open(&inputs.tokens, used_targets(inputs, options), limits)?;
    let valid = inputs
        .valid_tokens
        .as_deref()
        .map(|dir| DataSet::open(dir, None, limits))
        .transpose()?;
    check_vocabulary(folder, &data)?;
    if let Some(valid) = &valid {
        check_vocabulary(folder, valid)?;
    }

    let load = LoadOptions {
        device: inputs.device.clone(),
        dtype: options.dtype.dtype(),
        mode: Mode::Training,
    };
    let workers = hooks
        .workers
        .unwrap_or_else(|| worker_count(&config, &inputs.device));
    let (micro_batch_tokens, checkpointing) =
        micro_batch_tokens(&config, &data, options, &inputs.device);
    let estimate = Estimate::of(
        &config,
        options,
        Plan {
            trained: count_trained(&config, options)?,
            workers: workers.max(1) as u64,
            tokens: micro_batch_tokens.max(data.lengths().longest() as usize) as u64,
            checkpointing,
        },
    );
    progress::note(format!(
        "{}: {}",
        inputs.name,
        estimate.describe(&inputs.device)
    ));
    estimate.check(free_memory(&inputs.device))?;
    let workers = Workers::new(workers)?;
    let decoder = match &inputs.pivot {
        Init::Model(dir) => Decoder::load(dir, &load)?,
        Init::Random { .. } => Decoder::random(config, &load, options.seed)?,
    };
    let decoder = choose_trained(decoder, options)?;
    let mut optimiser = AdamW::new(
        decoder.trained(),
        groups(decoder.trained(), options)?,
        Settings {
            beta1: options.beta1,
            beta2: options.beta2,
            eps: options.eps,
            clip: options.clip,
        },
    )?;
    let restored = checkpoint.load(decoder.trained(), &mut optimiser)?;
    let resumed = restored.is_some();
    let progress = restored.unwrap_or_default();
    let verdict = Verdict::of(&progress.steps, options);
    if let Some(best) = verdict.best.filter(|_| options.keeps_best()) {
        checkpoint.check_best(best.step)?;
    }
    if resumed {
        let done = progress.steps.len();
        progress::note(format!("{}: continuing after step {done}", inputs.name));
    }

    let mut trainer = Trainer {
        name: &inputs.name,
        options,
        decoder: &decoder,
        data: &data,
        valid: valid.as_ref(),
        workers,
        micro_batch_tokens,
        checkpointing,
        total: count_steps(data.lengths(), options),
        gradients: Gradients::zeros(decoder.trained(), &inputs.device),
        optimiser,
        checkpoint: &checkpoint,
        saved: (progress.steps.len(), Instant::now(), Duration::ZERO),
        progress,
        verdict,
        waited: Duration::ZERO,
        read: (0, 0),
    };
    let (started, before) = (Instant::now(), trainer.progress.steps.len());
    let mut nothing = |_| Ok(());
    let nothing: &mut dyn FnMut(u64) -> Result<()> = &mut nothing;
    trainer.run(hooks.after_step.as_deref_mut().unwrap_or(nothing))?;

    let elapsed = started.elapsed().as_secs_f64();
    let waited = trainer.waited.as_secs_f64();
    let (read, padded) = trainer.read;
    if waited > elapsed / 20.0 && elapsed > 10.0 {
        progress::note(format!(
            "{}: waited for samples {:.0} % of the time; faster storage would help",
            inputs.name,
            100.0 * waited / elapsed
        ));
    }
    let (rows, total, verdict) = (trainer.progress.steps, trainer.total, trainer.verdict);
    let made = rows.len() as u64;
    if made < total {
        progress::note(format!(
            "{}: stopped after step {made} of {total}, validation no longer improves",
            inputs.name
        ));
    }
    let best = verdict.best.filter(|_| options.keeps_best());
    if let Some(best) = best.filter(|best| best.step != made) {
        checkpoint.load_best(decoder.trained(), best.step)?;
        progress::note(format!(
            "{}: keeps step {}, validation loss {:.4}",
            inputs.name, best.step, best.loss
        ));
    }
    let dtype = options.dtype.dtype();
    let what = match options.method {
        Method::Full => LoraSave::Merged,
        Method::Lora => options.lora.save,
    };
    decoder.publish(place, folder, dtype, what)?;
    let writer = Writer::create(&inputs.steps_out, provenance, Existing::Replace)?;
    let mut part = writer.part(PartInfo::ONLY)?;
    part.write(&steps::to_batch(&rows)?)?;
    part.finish()?;
    checkpoint.remove()?;

    let last = rows.last();
    let now: u64 = rows[before.min(rows.len())..]
        .iter()
        .map(|row| row.tokens)
        .sum();
    Ok(TrainSummary {
        steps: rows.len() as u64,
        tokens: rows.iter().map(|row| row.tokens).sum(),
        parameters: decoder
            .trained()
            .values()
            .map(|var| var.elem_count() as u64)
            .sum(),
        loss: last.map_or(f64::NAN, |row| row.loss),
        valid_loss: match best {
            Some(best) => Some(best.loss),
            None => last.and_then(|row| row.valid_loss),
        },
        best_step: best.map(|best| best.step).filter(|step| *step != made),
        stopped_early: made < total,
        resumed,
        waiting: if elapsed > 0.0 { waited / elapsed } else { 0.0 },
        padding: (padded - read) as f64 / padded.max(1) as f64,
        tokens_per_second: now as f64 / elapsed.max(1e-9),
    })
}

/// Adds the adapters, or freezes parameters.
fn choose_trained(decoder: Decoder, options: &TrainOptions) -> Result<Decoder> {
    match options.method {
        Method::Lora => {
            let lora = options.lora.of(decoder.config());
            let device = decoder.device().clone();
            let adapters = Adapters::random(decoder.config(), lora, options.seed, &device)?;
            decoder.adapt(adapters)
        }
        Method::Full if options.freeze.is_empty() => Ok(decoder),
        Method::Full => decoder.freeze(|name| is_frozen(options, name)),
    }
}

fn is_frozen(options: &TrainOptions, name: &str) -> bool {
    options.freeze.iter().any(|pattern| matches(pattern, name))
}

/// How many numbers will be trained.
///
/// # Errors
/// Patterns or targets that name nothing; nothing is left to train.
fn count_trained(config: &Config, options: &TrainOptions) -> Result<u64> {
    if options.method == Method::Lora {
        let lora = options.lora.of(config);
        let modules = lora::targeted(config, &lora.targets)?;
        let sizes = modules.iter().map(|module| module.rows + module.columns);
        return Ok(sizes.map(|size| size as u64 * lora.rank as u64).sum());
    }
    let specs = config.tensors();
    for pattern in &options.freeze {
        check_used("freeze", pattern, specs.iter().map(|spec| &spec.name))?;
    }
    let trained = specs.iter().filter(|spec| !is_frozen(options, &spec.name));
    match trained.filter_map(|spec| spec.elements()).sum() {
        0 => Err(Error::usage("`train.freeze` leaves nothing to train")),
        count => Ok(count),
    }
}

/// Fails, before any work, if something is in the way; with `overwrite`, removes a state of another
/// training.
fn prepare_outputs(
    inputs: &TrainInputs,
    checkpoint: &Checkpoint,
    provenance: &Provenance,
) -> Result<()> {
    if inputs.overwrite {
        if checkpoint.check_same().is_err() {
            progress::note(format!("{}: starting anew", inputs.name));
            checkpoint.remove()?;
        }
        return Ok(());
    }
    checkpoint.check_same()?;
    // A state beside the folder: the program was stopped after it wrote the model.
    if inputs.out.exists() && !checkpoint.exists() {
        return Err(Error::usage(format!("`{}` exists", inputs.out.display()))
            .remedy("choose another output folder, or replace it with `--force`"));
    }
    Writer::create(&inputs.steps_out, provenance.clone(), Existing::Refuse).map(drop)
}

/// Fails unless the tokens are those of the model's tokenizer.
fn check_vocabulary(folder: &Path, data: &DataSet) -> Result<()> {
    if data.tokens().provenance().vocabulary.is_none() {
        return Ok(());
    }
    let tokenizer = Tokenizer::load(folder)?;
    data.tokens()
        .check_vocabulary(&tokenizer.vocabulary().digest)
}

/// How many micro batches to compute side by side.
///
/// Workers are 1.2 to 1.4 times as fast as matrix products with several threads (models of 1 to 11 M
/// parameters, two cores), but only where candle does not split its element-wise operations over a
/// pool of its own, whose threads spin and compete with them: with `CANDLE_NUM_THREADS=1`, as our
/// binary sets it. Large models have matrices large enough, and gradients too large to wait.
fn worker_count(config: &Config, device: &Device) -> usize {
    let small = config.parameters() <= SIDE_BY_SIDE;
    let alone = candle_core::utils::barrier_pool().n_workers() == 0;
    match device {
        Device::Cpu if small && alone => rayon::current_num_threads(),
        _ => 1,
    }
}

/// Padded tokens of a micro batch, and whether its layers are computed again for their gradients.
/// `auto` must not depend on the number of threads: the rounding of a step depends on how it is
/// divided.
fn micro_batch_tokens(
    config: &Config,
    data: &DataSet,
    options: &TrainOptions,
    device: &Device,
) -> (usize, bool) {
    /// Activations for a micro batch, in bytes.
    const ON_CPU: usize = 256 << 20;
    const ON_GPU: usize = 8 << 30;
    /// On a CPU, more tokens than this at once only leave the caches.
    const ENOUGH_ON_CPU: usize = 1024;
    /// Checkpointing costs a quarter of the speed, so activations may first take so many times more.
    const RATHER_THAN_CHECKPOINTING: usize = 4;
    let longest = data.lengths().longest() as usize;
    let size = options.dtype.dtype().size_in_bytes();
    let layers = config.num_hidden_layers.max(1);
    let layer = size * (16 * config.hidden_size + 6 * config.intermediate_size);
    let border = size * config.hidden_size;
    let (bytes, enough) = match device {
        Device::Cpu => (ON_CPU, ENOUGH_ON_CPU),
        _ => (ON_GPU, usize::MAX),
    };
    let tokens = |checkpointing: bool| match (options.micro_batch_tokens, checkpointing) {
        (MicroBatchTokens::AtMost(n), _) => n,
        (MicroBatchTokens::Auto, false) => (bytes / (layer * layers)).clamp(1, enough).max(longest),
        (MicroBatchTokens::Auto, true) => {
            let token = layer + border * layers;
            (bytes / token).clamp(1, enough).max(longest)
        }
    };
    let checkpointing = match options.gradient_checkpointing {
        Checkpointing::On => true,
        Checkpointing::Off => false,
        Checkpointing::Auto => {
            let whole = tokens(false).max(longest).saturating_mul(layer * layers);
            whole / RATHER_THAN_CHECKPOINTING > bytes
        }
    };
    (tokens(checkpointing), checkpointing)
}
