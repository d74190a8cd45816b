//! What is checked and loaded before the first step.

use super::batching::{Batching, micro_batches, worker_count};
use super::checkpoint::{Checkpoint, Progress};
use super::data::{DataSet, Limits};
use super::groups::{check_used, groups, matches};
use super::memory::{Estimate, Plan};
use super::optim::{AdamW, Settings};
use super::stopping::Verdict;
use super::workers::Workers;
use super::{Init, Method, Train, TrainOptions};
use crate::artifact::{Existing, Kind, Provenance, Writer};
use crate::checkpoint::Target;
use crate::error::{Error, Result};
use crate::model::{Adapters, Config, Decoder, LoadOptions, Mode, free_memory, lora};
use crate::progress;
use crate::stage;
use crate::vocab::Tokenizer;

/// Everything that a training needs.
pub(super) struct Prepared<'a> {
    pub stage: &'a Train,
    pub provenance: Provenance,
    pub checkpoint: Checkpoint,
    /// Where the model goes.
    pub target: Target,
    pub data: DataSet,
    pub valid: Option<DataSet>,
    pub batching: Batching,
    pub workers: Workers,
    pub decoder: Decoder,
}

/// Where a training stands.
pub(super) struct State {
    pub optimiser: AdamW,
    pub progress: Progress,
}

impl<'a> Prepared<'a> {
    /// Checks options, inputs, outputs and memory, in this order; then loads the model.
    pub fn new(stage: &'a Train, existing: Existing, workers: Option<usize>) -> Result<Self> {
        let options = &stage.options;
        options.validate()?;
        if let (Some(option), None) = (options.needs_validation(), &stage.valid_tokens) {
            return Err(
                Error::usage(format!("`train.{option}` needs a validation set"))
                    .remedy("give `train.valid` in a recipe, or `--valid-tokens`"),
            );
        }
        let provenance = stage::provenance(stage, Kind::Steps)?;
        let checkpoint = Checkpoint::new(&stage.out, provenance.clone());
        check_outputs(stage, &checkpoint, &provenance, existing)?;
        let target = Target::look(&stage.out, existing == Existing::Replace)?;
        let config = config(stage)?;
        let limits = Limits {
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
        };
        let data = DataSet::open(&stage.tokens, stage.used_targets(), limits)?;
        let valid = stage.valid_tokens.as_deref();
        let valid = valid
            .map(|dir| DataSet::open(dir, None, limits))
            .transpose()?;
        for data in std::iter::once(&data).chain(&valid) {
            check_vocabulary(stage, data)?;
        }
        let (trained, longest) = (count_trained(&config, options)?, data.lengths().longest());
        let batching = Batching::new(&config, trained, longest as usize, options, &stage.device);
        let mut plan = Plan {
            trained,
            workers: 1,
            tokens: (batching.tokens as u64).max(u64::from(longest)),
            checkpointing: batching.checkpointing,
        };
        let count = micro_batches(&data, options, batching.tokens);
        let workers =
            workers.unwrap_or_else(|| worker_count(&config, options, plan, count, &stage.device));
        plan.workers = workers.max(1) as u64;
        check_memory(stage, &Estimate::of(&config, options, plan))?;
        Ok(Self {
            workers: Workers::new(workers)?,
            decoder: load(stage, config)?,
            stage,
            provenance,
            checkpoint,
            target,
            data,
            valid,
            batching,
        })
    }

    /// The saved state of the same training, or the beginning.
    pub fn restore(&self) -> Result<State> {
        let (trained, options) = (self.decoder.trained(), &self.stage.options);
        let settings = Settings {
            beta1: options.beta1,
            beta2: options.beta2,
            eps: options.eps,
            clip: options.clip,
        };
        let mut optimiser = AdamW::new(trained, groups(trained, options)?, settings)?;
        let progress = self.checkpoint.load(trained, &mut optimiser)?;
        if let Some(progress) = &progress {
            progress::note(format!(
                "{}: continuing after step {}",
                self.stage.name,
                progress.steps.len()
            ));
        }
        let progress = progress.unwrap_or_default();
        let best = Verdict::of(&progress.steps, options).best;
        if let Some(best) = best.filter(|_| options.keeps_best()) {
            self.checkpoint.check_best(best.step)?;
        }
        Ok(State {
            optimiser,
            progress,
        })
    }
}

/// Fails, before any work, if something is in the way; where it is to be replaced, removes a state
/// of another training.
fn check_outputs(
    stage: &Train,
    checkpoint: &Checkpoint,
    provenance: &Provenance,
    existing: Existing,
) -> Result<()> {
    if existing == Existing::Replace {
        if checkpoint.check_same().is_err() {
            progress::note(format!("{}: starting anew", stage.name));
            checkpoint.remove()?;
        }
        return Ok(());
    }
    checkpoint.check_same()?;
    // A state beside the folder: the program was stopped after it wrote the model.
    if stage.out.exists() && !checkpoint.exists() {
        return Err(Error::usage(format!("`{}` exists", stage.out.display()))
            .remedy("choose another output folder, or replace it with `--force`"));
    }
    Writer::create(&stage.steps_out, provenance.clone(), existing).map(drop)
}

fn config(stage: &Train) -> Result<Config> {
    match &stage.pivot {
        Init::Model(dir) => Config::load(dir),
        Init::Random { config, tokenizer } => {
            Config::from_json(config.clone(), &tokenizer.join("config.json"))
        }
    }
}

/// Says what the training will need, and fails if it is not there.
fn check_memory(stage: &Train, estimate: &Estimate) -> Result<()> {
    let described = estimate.describe(&stage.device);
    progress::note(format!("{}: {described}", stage.name));
    estimate.check(free_memory(&stage.device))
}

/// The model, with its adapters or frozen parameters.
fn load(stage: &Train, config: Config) -> Result<Decoder> {
    let options = &stage.options;
    let load = LoadOptions {
        device: stage.device.clone(),
        dtype: options.dtype.dtype(),
        mode: Mode::Training,
    };
    let decoder = match &stage.pivot {
        Init::Model(dir) => Decoder::load(dir, &load)?,
        Init::Random { .. } => Decoder::random(config, &load, options.seed)?,
    };
    choose_trained(decoder, options)
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

/// Fails unless the tokens are those of the model's tokenizer.
fn check_vocabulary(stage: &Train, data: &DataSet) -> Result<()> {
    if data.tokens().provenance().vocabulary.is_none() {
        return Ok(());
    }
    let tokenizer = Tokenizer::load(stage.folder())?;
    data.tokens()
        .check_vocabulary(&tokenizer.vocabulary().digest)
}
