//! The stage: prepare, train, publish.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::prepare::{Prepared, State};
use super::steps;
use super::trainer::{Trained, Trainer};
use super::{Init, Method, Train, TrainSummary};
use crate::artifact::{Existing, Kind, PartInfo, Writer, Writing};
use crate::error::Result;
use crate::files::digest;
use crate::memory::keep_freed;
use crate::model::LoraSave;
use crate::progress;
use crate::stage::{Item, Reads, Size, Source, Stage};
use crate::units::Count;

/// Longer than a micro batch takes, whose memory the next one asks for.
const KEEP_FREED: Duration = Duration::from_secs(30);

/// What tests change of a training.
#[derive(Default)]
pub(super) struct Hooks<'a> {
    /// Called after each step; its error stops the training like any other.
    pub after_step: Option<&'a mut dyn FnMut(u64) -> Result<()>>,
    /// Number of workers.
    pub workers: Option<usize>,
}

impl Train {
    /// Trains the pivot and writes the model folder and the log.
    ///
    /// An unfinished training of the same inputs and options is continued from its last saved state.
    ///
    /// # Errors
    /// Options out of range; an `out` that exists, or the state of another training, unless
    /// `existing` lets them be replaced; tokens of another vocabulary, or the errors of
    /// [`DataSet::open`](super::data::DataSet::open); a model that cannot be loaded; a loss or
    /// gradient that is infinite or NaN, naming step and samples; [`Error::Interrupted`](crate::error::Error::Interrupted), after the
    /// state was saved.
    pub fn perform(&self, existing: Existing) -> Result<TrainSummary> {
        self.perform_with(existing, Hooks::default())
    }

    /// [`Train::perform`] with hooks.
    pub(super) fn perform_with(
        &self,
        existing: Existing,
        hooks: Hooks<'_>,
    ) -> Result<TrainSummary> {
        let _kept = keep_freed(KEEP_FREED);
        let prepared = Prepared::new(self, existing, hooks.workers)?;
        let State {
            optimiser,
            progress,
        } = prepared.restore()?;
        let before = progress.steps.len();
        let started = Instant::now();
        let mut trainer = Trainer::new(&prepared, optimiser, progress);
        let mut nothing = |_| Ok(());
        trainer.run(hooks.after_step.unwrap_or(&mut nothing))?;
        let trained = trainer.finish();
        trained.say(&self.name, started.elapsed());
        let best = self.publish(&prepared, &trained)?;
        Ok(trained.summary(&prepared, before, best, started.elapsed()))
    }

    /// The targets, if they are learnt from.
    pub(super) fn used_targets(&self) -> Option<&Path> {
        let targets = self.targets.as_deref();
        targets.filter(|_| self.options.learns_from_targets(true))
    }

    /// The folder whose tokenizer and settings the trained model takes over.
    pub(super) fn folder(&self) -> &Path {
        match &self.pivot {
            Init::Model(dir) => dir,
            Init::Random { tokenizer, .. } => tokenizer,
        }
    }

    /// What is written of the trained model.
    fn saved(&self) -> LoraSave {
        match self.options.method {
            Method::Full => LoraSave::Merged,
            Method::Lora => self.options.lora.save,
        }
    }

    /// Writes model and log, and removes the state. Returns the step that was written, with its
    /// validation loss, if the best are kept.
    fn publish(&self, prepared: &Prepared<'_>, trained: &Trained) -> Result<Option<(u64, f64)>> {
        let (decoder, options) = (&prepared.decoder, &self.options);
        let made = trained.rows().len() as u64;
        let best = trained.best().filter(|_| options.keeps_best());
        if let Some((step, loss)) = best.filter(|(step, _)| *step != made) {
            prepared.checkpoint.load_best(decoder.trained(), step)?;
            progress::note(format!(
                "{}: keeps step {step}, validation loss {loss:.4}",
                self.name
            ));
        }
        let dtype = options.dtype.dtype();
        let place = prepared.target.begin("train")?;
        decoder.publish(place, self.folder(), dtype, self.saved())?;
        let provenance = prepared.provenance.clone();
        let writer = Writer::create(&self.steps_out, provenance, Existing::Replace)?;
        let mut part = writer.part(PartInfo::ONLY)?;
        part.write(&steps::to_batch(trained.rows())?)?;
        part.finish()?;
        prepared.checkpoint.remove()?;
        Ok(best)
    }
}

impl Stage for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn reads(&self) -> Result<Reads> {
        let pivot = match &self.pivot {
            Init::Model(dir) => Source::Whole(Item::model(dir)),
            Init::Random { config, .. } => {
                let config = Value::Object(config.clone());
                Source::Known(digest::text(&format!("random {config}")))
            }
        };
        let valid = self.valid_tokens.as_ref();
        Ok(Reads::new()
            .fact("pivot", pivot)
            .also(Item::Companions(self.folder().to_path_buf()))
            .input("tokens", Item::artifact(Kind::Tokens, &self.tokens))
            .maybe(
                "targets",
                self.used_targets()
                    .map(|dir| Item::artifact(Kind::Targets, dir)),
            )
            .maybe("valid", valid.map(|dir| Item::artifact(Kind::Tokens, dir))))
    }

    fn writes(&self) -> Vec<Item> {
        vec![
            Item::model(&self.out),
            Item::artifact(Kind::Steps, &self.steps_out),
        ]
    }

    fn changing(&self, _: Kind) -> Value {
        self.options.changing(self.targets.is_some())
    }

    fn size(&self) -> Size {
        match &self.pivot {
            Init::Model(dir) if self.saved() != LoraSave::Adapter => Size::Like(Item::model(dir)),
            _ => Size::Small,
        }
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let summary = self.perform(existing)?;
        let valid = summary
            .valid_loss
            .map_or(String::new(), |loss| format!(", validation loss {loss:.4}"));
        Ok(format!(
            "{} steps of {} parameters, loss {:.4}{valid}, {:.0} tokens/s, {:.1} % waiting, {:.1} % padding{}",
            Count(summary.steps),
            Count(summary.parameters),
            summary.loss,
            summary.tokens_per_second,
            100.0 * summary.waiting,
            100.0 * summary.padding,
            if summary.resumed { ", continued" } else { "" }
        ))
    }
}
