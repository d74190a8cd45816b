//! Carrying a plan out: tensor by tensor, each shared out over the threads.

mod report;
mod tensor;

use std::sync::Mutex;

use rayon::prelude::*;

pub use self::report::{MergeStat, MergeSummary};

use self::report::{stats, warnings};
use self::tensor::{merge_tensor, not_finite};
use super::arithmetic::Outcome;
use super::fingerprint::check_unchanged;
use super::inputs::Pages;
use super::journal::{Done, JOURNAL, Journal};
use super::output::write_companions;
use super::plan::{Plan, SMALL};
use crate::checkpoint::CheckpointWriter;
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt};

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
    let run = Run {
        plan,
        writer: CheckpointWriter::open(&workplace, plan.layout.clone())?,
        bar: Bar::new("merging", plan.bytes_in(), "bytes"),
        progress: Mutex::new(Progress {
            journal,
            done,
            observer,
        }),
    };
    run.merge_open()?;

    let Run {
        writer, progress, ..
    } = run;
    let Progress { journal, done, .. } = progress.into_inner().map_err(|_| poisoned())?;
    check_unchanged(&plan.models, &plan.written)?;
    let record = writer.record()?;
    writer.finish(&workplace)?;
    write_companions(plan, &workplace)?;
    record.write(&workplace, &[JOURNAL])?;
    drop(journal);
    place.publish(&workplace, &[JOURNAL])?;

    let done = done.into_iter().flatten();
    let outcomes: Vec<Outcome> = done.map(|done| done.outcome).collect();
    let mut warnings = warnings(plan, &outcomes);
    warnings.extend(plan.warnings.iter().cloned());
    Ok(MergeSummary {
        tensors: plan.tensors(),
        resumed,
        bytes_read: plan.bytes_read(),
        bytes_written: plan.bytes_written(),
        stats: stats(plan, &outcomes),
        warnings,
    })
}

/// A plan that is being carried out.
struct Run<'a> {
    plan: &'a Plan,
    writer: CheckpointWriter,
    bar: Bar,
    progress: Mutex<Progress<'a>>,
}

/// What the threads share.
struct Progress<'a> {
    journal: Journal,
    done: Vec<Option<Done>>,
    observer: &'a mut (dyn FnMut(usize, &str) -> Result<()> + Send),
}

fn poisoned() -> Error {
    Error::usage("another thread failed")
}

impl Run<'_> {
    /// Merges the tensors that are not finished.
    fn merge_open(&self) -> Result<()> {
        let tensors = &self.plan.matched.tensors;
        let open = self.restore()?;
        // Small tensors are shared out whole, so that no thread waits at the end of each; large
        // ones one at a time, block by block.
        let is_small =
            |place: &usize| tensors[open[*place]].shape.iter().product::<usize>() <= SMALL;
        let places: Vec<usize> = (0..open.len()).collect();
        for group in places.chunk_by(|a, b| is_small(a) && is_small(b)) {
            group.par_iter().with_max_len(1).try_for_each(|place| {
                check_interrupt()?;
                if let Some(next) = open.get(place + 1) {
                    self.plan.advise(&tensors[*next], Pages::Soon);
                }
                self.merge(open[*place])
            })?;
        }
        Ok(())
    }

    /// Takes over what an earlier run finished; the numbers of the other tensors.
    fn restore(&self) -> Result<Vec<usize>> {
        let progress = self.progress.lock().map_err(|_| poisoned())?;
        let mut open = Vec::new();
        for (at, known) in progress.done.iter().enumerate() {
            match known {
                Some(known) => {
                    self.writer.restore(at, known.digest);
                    self.advance(at);
                }
                None => open.push(at),
            }
        }
        Ok(open)
    }

    /// Merges one tensor.
    fn merge(&self, at: usize) -> Result<()> {
        let tensor = &self.plan.matched.tensors[at];
        let outcome = merge_tensor(self.plan, at, &self.writer)?;
        if !outcome.finite {
            return Err(not_finite(self.plan, tensor));
        }
        let digest = self.writer.complete(at)?;
        self.plan.advise(tensor, self.plan.pages);
        self.advance(at);
        let mut progress = self.progress.lock().map_err(|_| poisoned())?;
        let now = Done { digest, outcome };
        progress.journal.done(at, &now)?;
        progress.done[at] = Some(now);
        (progress.observer)(at, &tensor.name)
    }

    fn advance(&self, at: usize) {
        let tensor = &self.plan.matched.tensors[at];
        self.bar.advance(self.plan.tensor_bytes(tensor));
    }
}
