//! The training loop.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::TrainOptions;
use super::checkpoint::{Checkpoint, Progress};
use super::data::{DataSet, StepBatch};
use super::gradient::{micro_gradient, micro_nll};
use super::gradients::Gradients;
use super::loss::{Sums, Weights, not_finite};
use super::optim::AdamW;
use super::order::count_steps;
use super::steps::StepRow;
use super::stopping::Verdict;
use super::workers::Workers;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::progress::{self, Bar};
use crate::units::Count;

/// Packed steps that wait for the trainer.
const STEPS_AHEAD: usize = 2;
/// Shortest time between two saved states, unless `checkpoint_every` says otherwise.
const SAVE_AFTER: Duration = Duration::from_secs(60);
/// Share of the time that saving states may take: one in so many.
const SAVE_SHARE: u32 = 20;
/// Shortest time between two notes at the ends of epochs.
const NOTE_AFTER: Duration = Duration::from_secs(2);

/// A training under way.
pub(super) struct Trainer<'a> {
    pub name: &'a str,
    pub options: &'a TrainOptions,
    pub decoder: &'a Decoder,
    pub data: &'a DataSet,
    pub valid: Option<&'a DataSet>,
    pub workers: Workers,
    pub micro_batch_tokens: usize,
    /// Whether layers are computed again for their gradients.
    pub checkpointing: bool,
    /// Steps of the whole training.
    pub total: u64,
    pub gradients: Gradients,
    pub optimiser: AdamW,
    pub checkpoint: &'a Checkpoint,
    pub progress: Progress,
    /// What the validations in `progress` say.
    pub verdict: Verdict,
    /// Steps in the last saved state, when it was saved, and how long that took.
    pub saved: (usize, Instant, Duration),
    /// Time spent waiting for samples.
    pub waited: Duration,
    /// Positions read, without padding and with it.
    pub read: (u64, u64),
}

impl Trainer<'_> {
    /// Makes the steps that are left. The state is saved as it is due, and when interrupted.
    pub fn run(&mut self, after_step: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let (data, options) = (self.data, self.options);
        let (tokens, start) = (self.micro_batch_tokens, self.progress.position);
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
            if self.verdict.stops(self.options) {
                break;
            }
            progress::check_interrupt()?;
            let started = Instant::now();
            let batch = batches.recv().map_err(|_| {
                Error::usage(format!("the samples ended before step {}", step + 1))
            })??;
            self.waited += started.elapsed();
            self.read.0 += batch.tokens;
            self.read.1 += batch.padded;
            let mut row = self.step(step, &batch)?;
            let last = step + 1 == self.total;
            let every = self.options.eval_steps;
            if batch.ends_epoch || last || every.is_some_and(|n| (step + 1).is_multiple_of(n)) {
                row.valid_loss = self.validate(step)?;
                let epoch = batch.position.epoch + 1;
                let valid = row
                    .valid_loss
                    .map_or(String::new(), |loss| format!(", validation loss {loss:.4}"));
                if last || noted.elapsed() >= NOTE_AFTER {
                    noted = Instant::now();
                    progress::note(format!(
                        "{}: epoch {epoch}, step {} of {}, loss {:.4}{valid}",
                        self.name, row.step, self.total, row.loss
                    ));
                }
            }
            row.wall_ms = started.elapsed().as_secs_f64() * 1e3;
            self.progress.steps.push(row);
            self.progress.position = batch.position;
            if self.verdict.add(&row, self.options) && self.options.keeps_best() {
                let params = self.decoder.trained();
                self.checkpoint
                    .save_best(params, &self.optimiser, row.step)?;
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
        let all = TrainOptions {
            max_steps: None,
            ..self.options.clone()
        };
        let tokens = self.data.lengths().tokens() * u64::from(self.options.epochs);
        let steps = count_steps(self.data.lengths(), &all).max(1);
        let left = self.total.saturating_sub(self.progress.steps.len() as u64);
        let left = u128::from(tokens) * u128::from(left) / u128::from(steps);
        if self.progress.steps.is_empty() {
            let lengths = self.data.lengths();
            progress::note(format!(
                "{}: {} samples, {} tokens, {} steps",
                self.name,
                Count(lengths.samples()),
                Count(lengths.tokens()),
                Count(self.total)
            ));
        }
        Bar::new(self.name, left as u64, "tokens")
    }

    /// Gradients of all micro batches, then one update.
    fn step(&mut self, step: u64, batch: &StepBatch) -> Result<StepRow> {
        let options = self.options;
        let lambda = if self.data.targets().is_some() {
            options.lambda
        } else {
            1.0
        };
        let weights = Weights::new(lambda, batch.supervised, batch.targets);
        let (decoder, gradients) = (self.decoder, &mut self.gradients);
        let checkpointing = self.checkpointing;
        gradients.clear();
        let mut sums = Sums::default();
        self.workers.in_order(
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
        let Some(valid) = self.valid else {
            return Ok(None);
        };
        let (mut nll, mut tokens) = (0.0, 0);
        valid.for_each_in_order(self.options, self.micro_batch_tokens, |group| {
            tokens += group.supervised;
            self.workers.in_order(
                group.micro.len(),
                |i| {
                    progress::check_interrupt()?;
                    micro_nll(self.decoder, &group.micro[i])
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
        let (steps, when, took) = self.saved;
        match self.options.checkpoint_every {
            Some(every) => (self.progress.steps.len() - steps) as u64 >= every,
            None => when.elapsed() >= SAVE_AFTER.max(took * SAVE_SHARE),
        }
    }

    fn save(&mut self) -> Result<()> {
        let steps = self.progress.steps.len();
        if steps == self.saved.0 {
            return Ok(());
        }
        let started = Instant::now();
        let params = self.decoder.trained();
        self.checkpoint
            .save(params, &self.optimiser, &self.progress)?;
        self.saved = (steps, Instant::now(), started.elapsed());
        if self.options.keeps_best() {
            self.remove_old_best()?;
        }
        Ok(())
    }

    /// Keeps the best weights that are known now, and those that the saved state knows.
    fn remove_old_best(&self) -> Result<()> {
        let saved = &self.progress.steps[..self.saved.0];
        let known = [self.verdict, Verdict::of(saved, self.options)];
        let keep: Vec<u64> = known
            .iter()
            .filter_map(|verdict| Some(verdict.best?.step))
            .collect();
        self.checkpoint.remove_best_except(&keep)
    }
}
