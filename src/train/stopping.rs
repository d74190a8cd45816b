//! What the validations so far say: which step was best, and whether to go on.
//!
//! Both follow from the log alone, so that a training that continues decides as one that was
//! never interrupted. The rules are those of `EarlyStoppingCallback` in `transformers`.

use super::TrainOptions;
use super::steps::StepRow;

/// The step with the lowest validation loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The step, from 1.
    pub step: u64,
    /// Its validation loss, nats per token.
    pub loss: f64,
}

/// What follows from the validations so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The first of the best steps.
    pub best: Option<Best>,
    /// Validations in a row that were no better, by more than the threshold, than the best
    /// before them.
    pub stale: u32,
}

impl Verdict {
    /// The verdict after `rows`.
    pub fn of(rows: &[StepRow], options: &TrainOptions) -> Self {
        let mut verdict = Self::default();
        for row in rows {
            verdict.add(row, options);
        }
        verdict
    }

    /// Takes in the next step; whether it is the best so far.
    pub fn add(&mut self, row: &StepRow, options: &TrainOptions) -> bool {
        let Some(loss) = row.valid_loss else {
            return false;
        };
        let gain = self.best.map_or(f64::INFINITY, |best| best.loss - loss);
        match gain > 0.0 && gain > options.early_stopping_threshold {
            true => self.stale = 0,
            false => self.stale += 1,
        }
        if gain > 0.0 {
            self.best = Some(Best {
                step: row.step,
                loss,
            });
        }
        gain > 0.0
    }

    /// Whether to stop early.
    pub fn stops(&self, options: &TrainOptions) -> bool {
        let patience = options.early_stopping_patience;
        patience.is_some_and(|patience| self.stale >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_by_hand() {
        let options = TrainOptions {
            early_stopping_patience: Some(2),
            early_stopping_threshold: 0.1,
            ..TrainOptions::default()
        };
        let losses = [
            None,
            Some(3.0),
            Some(2.95),
            None,
            Some(2.8),
            Some(2.8),
            Some(2.75),
        ];
        let rows: Vec<StepRow> = (1..)
            .zip(losses)
            .map(|(step, valid_loss)| {
                let mut numbers = [0.0; StepRow::WIDTH];
                numbers[0] = f64::from(step);
                StepRow {
                    valid_loss,
                    ..StepRow::from_numbers(numbers)
                }
            })
            .collect();
        let mut verdict = Verdict::default();
        let found: Vec<(bool, u32, bool)> = rows
            .iter()
            .map(|row| {
                let best = verdict.add(row, &options);
                (best, verdict.stale, verdict.stops(&options))
            })
            .collect();
        // 2.95 is the best, but not by more than 0.1; 2.8 is, of 2.95.
        let expected = [
            (false, 0, false),
            (true, 0, false),
            (true, 1, false),
            (false, 1, false),
            (true, 0, false),
            (false, 1, false),
            (true, 2, true),
        ];
        assert_eq!(found, expected);
        let best = Best {
            step: 7,
            loss: 2.75,
        };
        assert_eq!(verdict.best, Some(best));
        assert_eq!(verdict, Verdict::of(&rows, &options));
    }
}
