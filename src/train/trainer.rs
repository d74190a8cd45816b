//! The training loop.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::checkpoint::Progress;
use super::data::StepBatch;
use super::gradient::{micro_gradient, micro_nll};
use super::gradients::Gradients;
use super::loss::{Sums, Weights, not_finite};
use super::optim::AdamW;
use super::order::count_steps;
use super::prepare::Prepared;
use super::steps::StepRow;
use super::stopping::Verdict;
use super::{TrainOptions, TrainSummary};
use crate::error::{Error, Result};
use crate::progress::{self, Bar};
use crate::units::Count;

/// Packed steps that wait for the trainer.
const STEPS_AHEAD: usize = 2;
/// Shortest time between two saved states, unless `checkpoint_every` says otherwise.
const SAVE_AFTER: Duration = Duration::from_secs(60);
/// Share of the time that saving states may take: one in so many.
const SAVE_SHARE: u32 = 20;
/// Shortest time between two notes, but for the ends of the first epochs.
const NOTE_AFTER: Duration = Duration::from_secs(2);
/// Epochs whose ends are noted however soon they come.
const NOTED_EPOCHS: u32 = 50;

/// A training under way.
pub(super) struct Trainer<'a> {
    prepared: &'a Prepared<'a>,
    /// Steps of the whole training.
    total: u64,
    gradients: Gradients,
    optimiser: AdamW,
    progress: Progress,
    /// What the validations in `progress` say.
    verdict: Verdict,
    saved: LastSaved,
    waited: Duration,
    read: Read,
}

/// The last saved state.
#[derive(Clone, Copy)]
struct LastSaved {
    steps: usize,
    when: Instant,
    took: Duration,
}

/// Positions read.
#[derive(Clone, Copy, Default)]
struct Read {
    tokens: u64,
    padded: u64,
}

impl<'a> Trainer<'a> {
    /// Goes on from `progress`.
    pub fn new(prepared: &'a Prepared<'a>, optimiser: AdamW, progress: Progress) -> Self {
        let (stage, decoder) = (prepared.stage, &prepared.decoder);
        Self {
            prepared,
            total: count_steps(prepared.data.lengths(), &stage.options),
            gradients: Gradients::zeros(decoder.trained(), &stage.device),
            optimiser,
            verdict: Verdict::of(&progress.steps, &stage.options),
            saved: LastSaved {
                steps: progress.steps.len(),
                when: Instant::now(),
                took: Duration::ZERO,
            },
            progress,
            waited: Duration::ZERO,
            read: Read::default(),
        }
    }

    fn options(&self) -> &'a TrainOptions {
        &self.prepared.stage.options
    }

    /// What was done.
    pub fn finish(self) -> Trained {
        Trained {
            total: self.total,
            rows: self.progress.steps,
            verdict: self.verdict,
            waited: self.waited,
            read: self.read,
        }
    }

    /// Makes the steps that are left. The state is saved as it is due, and when interrupted.
    pub fn run(&mut self, after_step: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let (data, options) = (&self.prepared.data, self.options());
        let (tokens, start) = (self.prepared.batching.tokens, self.progress.position);
        let _kept = progress::keep_until_dropped("saving the state after this micro batch");
        let (sender, receiver) = sync_channel(STEPS_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || data.send_steps(options, tokens, start, &sender));
            // The receiver is dropped at the end of `steps`, which ends the reading thread.
            let result = self.steps(receiver, after_step);
            if matches!(result, Err(Error::Interrupted)) {
                self.save()?;
            }
            result
        })
    }

    fn steps(
        &mut self,
        batches: Receiver<Result<StepBatch>>,
        after_step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let bar = self.bar();
        let mut noted = Instant::now();
        for step in self.progress.steps.len() as u64..self.total {
            if self.verdict.stops(self.options()) {
                break;
            }
            progress::check_interrupt()?;
            let started = Instant::now();
            let batch = batches.recv().map_err(|_| {
                Error::internal(format!("the samples ended before step {}", step + 1))
            })??;
            self.waited += started.elapsed();
            self.read.tokens += batch.tokens;
            self.read.padded += batch.padded;
            let mut row = self.step(step, &batch)?;
            let last = step + 1 == self.total;
            let every = self.options().eval_steps;
            if batch.ends_epoch || last || every.is_some_and(|n| (step + 1).is_multiple_of(n)) {
                row.valid_loss = self.validate(step)?;
                let epoch = batch.position.epoch + 1;
                let valid = row
                    .valid_loss
                    .map_or(String::new(), |loss| format!(", validation loss {loss:.4}"));
                let counts = batch.ends_epoch && epoch <= NOTED_EPOCHS;
                if last || counts || noted.elapsed() >= NOTE_AFTER {
                    noted = Instant::now();
                    progress::note(format!(
                        "{}: epoch {epoch}, step {} of {}, loss {:.4}{valid}",
                        self.prepared.stage.name, row.step, self.total, row.loss
                    ));
                }
            }
            row.wall_ms = started.elapsed().as_secs_f64() * 1e3;
            self.progress.steps.push(row);
            self.progress.position = batch.position;
            if self.verdict.add(&row, self.options()) && self.options().keeps_best() {
                let params = self.prepared.decoder.trained();
                let checkpoint = &self.prepared.checkpoint;
                checkpoint.save_best(params, &self.optimiser, row.step)?;
                self.remove_old_best()?;
            }
            bar.advance(batch.tokens);
            bar.message(format!("loss {:.4}", row.loss));
            if !last && self.is_due() {
                self.save()?;
            }
            after_step(step + 1)?;
        }
        Ok(())
    }

    fn bar(&self) -> Bar {
        let epoch = TrainOptions {
            epochs: 1,
            max_steps: None,
            ..self.options().clone()
        };
        let tokens = self.prepared.data.lengths().tokens();
        let steps = count_steps(self.prepared.data.lengths(), &epoch).max(1);
        let left = self.total.saturating_sub(self.progress.steps.len() as u64);
        let left = u128::from(tokens) * u128::from(left) / u128::from(steps);
        if self.progress.steps.is_empty() {
            let lengths = self.prepared.data.lengths();
            progress::note(format!(
                "{}: {} samples, {} tokens, {} steps",
                self.prepared.stage.name,
                Count(lengths.samples()),
                Count(lengths.tokens()),
                Count(self.total)
            ));
        }
        Bar::new(&self.prepared.stage.name, left as u64, "tokens")
    }

    /// Gradients of all micro batches, then one update.
    fn step(&mut self, step: u64, batch: &StepBatch) -> Result<StepRow> {
        let (prepared, options) = (self.prepared, self.options());
        let lambda = if prepared.data.targets().is_some() {
            options.lambda
        } else {
            1.0
        };
        let weights = Weights::new(lambda, batch.supervised, batch.targets);
        let (decoder, gradients) = (&prepared.decoder, &mut self.gradients);
        let checkpointing = prepared.batching.checkpointing;
        gradients.clear();
        let mut sums = Sums::default();
        prepared.workers.in_order(
            batch.micro.len(),
            |i| {
                progress::check_interrupt()?;
                micro_gradient(decoder, &batch.micro[i], weights, step, checkpointing)
            },
            |_, micro| {
                sums.add(&micro.sums);
                gradients.add(&micro.params)
            },
        )?;
        let lr = options
            .schedule
            .rate(options.lr, step, self.total, options.warmup_ratio);
        let grad_norm = self
            .optimiser
            .step(decoder.trained(), &self.gradients, lr)?;
        if !grad_norm.is_finite() {
            return Err(not_finite("gradient", step, &batch.samples()));
        }
        let mean = |sum: f64| (batch.targets > 0).then(|| sum / batch.targets as f64);
        Ok(StepRow {
            step: step + 1,
            lr,
            loss: weights.clm * sums.clm + weights.fusion * sums.fusion,
            loss_clm: sums.clm / batch.supervised.max(1) as f64,
            loss_fusion: mean(sums.fusion),
            kl: mean(sums.fusion - sums.entropy),
            grad_norm,
            tokens: batch.tokens,
            valid_loss: None,
            wall_ms: 0.0,
        })
    }

    /// Nats per supervised token of the validation set, if there is one.
    fn validate(&self, step: u64) -> Result<Option<f64>> {
        let prepared = self.prepared;
        let Some(valid) = &prepared.valid else {
            return Ok(None);
        };
        let (mut nll, mut tokens) = (0.0, 0);
        valid.for_each_in_order(self.options(), prepared.batching.tokens, |group| {
            tokens += group.supervised;
            prepared.workers.in_order(
                group.micro.len(),
                |i| {
                    progress::check_interrupt()?;
                    micro_nll(&prepared.decoder, &group.micro[i])
                },
                |i, sum| {
                    if !sum.is_finite() {
                        let samples = &group.micro[i].samples;
                        return Err(not_finite("validation loss", step, samples));
                    }
                    nll += sum;
                    Ok(())
                },
            )
        })?;
        Ok(Some(nll / tokens.max(1) as f64))
    }

    fn is_due(&self) -> bool {
        let LastSaved { steps, when, took } = self.saved;
        match self.options().checkpoint_every {
            Some(every) => (self.progress.steps.len() - steps) as u64 >= every,
            None => when.elapsed() >= SAVE_AFTER.max(took * SAVE_SHARE),
        }
    }

    fn save(&mut self) -> Result<()> {
        let steps = self.progress.steps.len();
        if steps == self.saved.steps {
            return Ok(());
        }
        let started = Instant::now();
        let params = self.prepared.decoder.trained();
        let checkpoint = &self.prepared.checkpoint;
        checkpoint.save(params, &self.optimiser, &self.progress)?;
        self.saved = LastSaved {
            steps,
            when: Instant::now(),
            took: started.elapsed(),
        };
        if self.options().keeps_best() {
            self.remove_old_best()?;
        }
        Ok(())
    }

    /// Keeps the best weights that are known now, and those that the saved state knows.
    fn remove_old_best(&self) -> Result<()> {
        let saved = &self.progress.steps[..self.saved.steps];
        let known = [self.verdict, Verdict::of(saved, self.options())];
        let keep: Vec<u64> = known
            .iter()
            .filter_map(|verdict| Some(verdict.best?.step))
            .collect();
        self.prepared.checkpoint.remove_best_except(&keep)
    }
}

/// A training that has ended.
pub(super) struct Trained {
    total: u64,
    rows: Vec<StepRow>,
    verdict: Verdict,
    waited: Duration,
    read: Read,
}

impl Trained {
    /// The log: one row for each step made.
    pub fn rows(&self) -> &[StepRow] {
        &self.rows
    }

    /// The step with the lowest validation loss, and that loss.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.verdict.best.map(|best| (best.step, best.loss))
    }

    /// Says what was not as expected in the `elapsed` time of this process.
    pub fn say(&self, name: &str, elapsed: Duration) {
        let (elapsed, waited) = (elapsed.as_secs_f64(), self.waited.as_secs_f64());
        if waited > elapsed / 20.0 && elapsed > 10.0 {
            progress::note(format!(
                "{name}: waited for samples {:.0} % of the time; faster storage would help",
                100.0 * waited / elapsed
            ));
        }
        let made = self.rows.len() as u64;
        if made < self.total {
            progress::note(format!(
                "{name}: stopped after step {made} of {}, validation no longer improves",
                self.total
            ));
        }
    }

    /// The summary of a training that went on after step `before` and kept `best`.
    pub fn summary(
        &self,
        prepared: &Prepared<'_>,
        before: usize,
        best: Option<(u64, f64)>,
        elapsed: Duration,
    ) -> TrainSummary {
        let (rows, last) = (&self.rows, self.rows.last());
        let made = rows.len() as u64;
        let now = rows[before.min(rows.len())..].iter();
        let now: u64 = now.map(|row| row.tokens).sum();
        let parameters = prepared.decoder.trained().values();
        let elapsed = elapsed.as_secs_f64().max(1e-9);
        let Read { tokens, padded } = self.read;
        TrainSummary {
            steps: made,
            tokens: rows.iter().map(|row| row.tokens).sum(),
            parameters: parameters.map(|var| var.elem_count() as u64).sum(),
            loss: last.map_or(f64::NAN, |row| row.loss),
            valid_loss: match best {
                Some((_, loss)) => Some(loss),
                None => last.and_then(|row| row.valid_loss),
            },
            best_step: best.map(|(step, _)| step).filter(|step| *step != made),
            stopped_early: made < self.total,
            resumed: before > 0,
            waiting: self.waited.as_secs_f64() / elapsed,
            padding: (padded - tokens) as f64 / padded.max(1) as f64,
            tokens_per_second: now as f64 / elapsed,
        }
    }
}
