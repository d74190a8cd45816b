//! The method as published.

use super::selection::{Selection, Survey, shares};
use super::survey::survey;
use crate::error::Result;
use crate::merge::arithmetic::vector::{add_to, agree, subtract, subtract_above};
use crate::merge::arithmetic::{Job, Outcome, Output, Remark, Tiles, shares_of_sum, squares};
use crate::merge::methods::method::Kernel;

/// SCE in `f32`.
#[derive(Debug)]
pub struct Exact {
    /// The share of the positions that vary which is selected.
    pub share: f64,
    /// Whether sums are divided by the coefficients that survive.
    pub normalize: bool,
    /// Whether positions that are not selected move, too, as in FuseChat's fork.
    pub all_move: bool,
}

impl Exact {
    fn survey(&self, job: &Job<'_>) -> Result<Survey> {
        if self.share < 1.0 && job.count() > 1 {
            return survey(&job.walk, &job.inputs, self.share);
        }
        let all = squares(&job.walk, &job.inputs)?;
        Ok(Survey {
            selection: Selection::ALL,
            selected: job.walk.len as u64,
            squares: all.clone(),
            all,
        })
    }
}

impl Kernel for Exact {
    fn selects(&self) -> bool {
        true
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let n = job.count();
        let survey = self.survey(job)?;
        let coefficients = shares_of_sum(&survey.squares);
        let eta: Vec<f32> = coefficients.iter().map(|c| *c as f32).collect();
        let selection = match self.all_move {
            true => Selection::ALL,
            false => survey.selection,
        };
        let sums = job
            .walk
            .produce(&job.inputs, output, n, |range, tiles, kept| {
                tiles.read(&job.inputs, range);
                if selection != Selection::ALL {
                    selection.measure(range, tiles);
                }
                let Tiles {
                    base,
                    models,
                    merged,
                    measures,
                    ..
                } = tiles;
                for model in models.iter_mut() {
                    match selection == Selection::ALL {
                        true => subtract(model, base),
                        false => subtract_above(model, base, measures, selection.high),
                    }
                }
                let mut used = vec![0; n];
                agree(models, &eta, true, self.normalize, merged, &mut used);
                add_to(merged, 1.0, base);
                for (kept, used) in kept.iter_mut().zip(used) {
                    *kept += f64::from(used);
                }
            })?;
        let (selected, len) = (survey.selected as f64, job.walk.len);
        let shares = shares(&coefficients, selected, &sums, &survey.all, len);
        let remark = (n == 1 && self.share < 1.0).then_some(Remark::OneTarget);
        Ok(Outcome::new(shares, sums.last()).with(remark))
    }
}
