//! SCE: select, calculate, erase (FuseChat, arXiv:2408.07990, section 3.2).

use super::super::blocks::{Tiles, squares};
use super::super::vector::{add_to, agree, subtract, subtract_above};
use super::affine::uniform_or_share;
use super::variance::{Selection, Survey, survey};
use super::{Job, Outcome, Output, Remark, Result, Share, rounded};

/// What SCE gave for a tensor: coefficients, selected positions, then for each model the entries
/// that were kept and the squared norm of its update.
pub(super) struct Shares<'a> {
    pub coefficients: &'a [f64],
    pub selected: f64,
    pub kept: &'a [f64],
    pub squares: &'a [f64],
}

impl Shares<'_> {
    pub fn of(&self, len: usize) -> Vec<Share> {
        let len = len.max(1) as f64;
        (0..self.coefficients.len())
            .map(|j| Share {
                coefficient: self.coefficients[j],
                selected_fraction: self.selected / len,
                kept_fraction: self.kept[j] / len,
                delta_norm: self.squares[j].sqrt(),
            })
            .collect()
    }
}

/// Merges by SCE.
pub(super) fn merge(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let n = job.count();
    let len = job.walk.len;
    let share = job.values.number("select_topk");
    let compat = job.values.word("compat");
    if compat == "mergekit" {
        return rounded::merge(job, share, output);
    }
    let normalize = job.values.flag("normalize");
    let one = n == 1 && share < 1.0;
    let survey = if share < 1.0 && !one {
        survey(&job.walk, &job.inputs, share)?
    } else {
        let all = squares(&job.walk, &job.inputs)?;
        Survey {
            selection: Selection::ALL,
            selected: len as u64,
            squares: all.clone(),
            all,
        }
    };
    let coefficients = uniform_or_share(survey.squares);
    let eta: Vec<f32> = coefficients.iter().map(|c| *c as f32).collect();
    // The fork moves all positions.
    let selection = match compat {
        "fusechat" => Selection::ALL,
        _ => survey.selection,
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
            agree(models, &eta, true, normalize, merged, &mut used);
            add_to(merged, 1.0, base);
            for (kept, used) in kept.iter_mut().zip(used) {
                *kept += f64::from(used);
            }
        })?;
    let shares = Shares {
        coefficients: &coefficients,
        selected: survey.selected as f64,
        kept: &sums,
        squares: &survey.all,
    };
    let remark = one.then_some(Remark::OneTarget);
    Ok(Outcome::new(shares.of(len), sums.last()).with(remark))
}
