//! From a stored list to a distribution: what the file does not say is filled in, and what cannot
//! be is an error.

use super::ImportSummary;
use super::found::{FoundRow, Values};
use crate::units::TokenId;

/// A list may hold this much more than all probability before it is scaled to one.
const SLACK: f64 = 1e-3;
/// Where it holds more than this, it is no distribution: the limit of `check`.
const MOST: f64 = 1.02;
/// The same for a list whose lower entries are approximations.
const MOST_APPROXIMATE: f64 = 1.1;
/// The largest log-probability that is taken for a rounded 0.
const ROUNDED_ZERO: f64 = 0.01;
/// What servers write for minus infinity.
const NOTHING: f32 = -9999.0;
/// Half a step of half floats, in which logits and cross-entropies are stored.
const HALF_STEP: f64 = 1.0 / 2048.0;

/// Which ids there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens of the vocabulary.
    pub(super) vocabulary: usize,
    /// Rows that the model's head may have, at least as many: rows beyond the vocabulary fill it up.
    pub(super) head: usize,
}

/// A distribution that is complete.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) ids: Vec<TokenId>,
    pub(super) logprobs: Vec<f32>,
    pub(super) tail_logprob: f32,
    pub(super) target_logprob: f32,
}

/// A list of log-probabilities, checked.
struct List {
    ids: Vec<TokenId>,
    logprobs: Vec<f32>,
    /// What the program says of the true token.
    target: Option<f32>,
    /// Whether the list holds all probability but that of an unlisted true token.
    everything: bool,
    most: f64,
}

/// The distribution in a stored row about the token `target`.
pub(super) fn complete(
    row: FoundRow,
    target: TokenId,
    limits: Limits,
    summary: &mut ImportSummary,
) -> Result<Row, String> {
    let mut list = checked(row, target)?;
    check_ids(&list.ids, limits.head)?;
    let place = list.ids.iter().position(|id| *id == target);
    let unlisted = list.target.filter(|_| place.is_none());
    let mass: f64 = list.logprobs.iter().map(|x| prob(*x)).sum();
    let all = mass + unlisted.map_or(0.0, prob);
    if all > list.most {
        return Err(match unlisted {
            None => format!("its list holds {all:.3} of all probability"),
            Some(x) => format!(
                "its list and the true token {target} (log-probability {x}) hold {all:.3} of all probability"
            ),
        });
    }
    let outside = match (list.everything, unlisted) {
        (true, Some(own)) => prob(own),
        (true, None) => 0.0,
        (false, _) => (1.0 - mass).max(0.0),
    };
    if mass > 1.0 + SLACK {
        summary.scaled += 1;
        let log = mass.ln() as f32;
        list.logprobs.iter_mut().for_each(|x| *x -= log);
        // A listed token is scaled with the others.
        list.target = unlisted;
    }
    let own = place.map(|at| list.logprobs[at]);
    let padded = drop_padded(&mut list, limits.vocabulary);
    summary.padded += u64::from(padded > 0.0);
    let tail = (outside + padded).ln() as f32;
    let target_logprob = list.target.or(own).unwrap_or_else(|| {
        summary.bounded += 1;
        let least = list.logprobs.iter().copied().fold(0.0, f32::min);
        match tail > f32::NEG_INFINITY {
            true => tail.min(least),
            false => least,
        }
    });
    Ok(Row {
        ids: list.ids,
        logprobs: list.logprobs,
        tail_logprob: tail,
        target_logprob: target_logprob.min(0.0),
    })
}

fn prob(logprob: f32) -> f64 {
    f64::from(logprob).exp()
}

/// Log-probabilities that can be some, without places that were not filled.
fn checked(mut row: FoundRow, target: TokenId) -> Result<List, String> {
    if row.ids.len() != row.values.len() {
        let (ids, values) = (row.ids.len(), row.values.len());
        return Err(format!("{ids} ids for {values} values"));
    }
    let infinite = |x: &&f32| x.is_nan() || **x == f32::INFINITY;
    if let Some(bad) = row.values.iter().find(infinite) {
        return Err(format!("{bad} is no {}", row.are.name()));
    }
    if let Values::Approximate(exact) = row.are {
        let exact = row.values.iter().take(exact as usize);
        let exact: f64 = exact.map(|x| prob(*x)).sum();
        if exact > MOST {
            return Err(format!(
                "the exact part of its list holds {exact:.3} of all probability"
            ));
        }
    }
    let nothing = match row.are {
        Values::Logits(_) => f32::NEG_INFINITY,
        Values::Logprobs(_) | Values::Approximate(_) => NOTHING,
    };
    let mut filled = row.values.iter().map(|x| *x > nothing);
    row.ids.retain(|_| filled.next().unwrap_or(false));
    row.values.retain(|x| *x > nothing);
    match row.are {
        Values::Logprobs(own) => of_logprobs(row, target, own),
        Values::Approximate(_) => Ok(List {
            ids: row.ids,
            logprobs: row.values,
            target: None,
            everything: false,
            most: MOST_APPROXIMATE,
        }),
        Values::Logits(nll) => of_logits(row, target, nll),
    }
}

fn of_logprobs(row: FoundRow, target: TokenId, own: Option<f32>) -> Result<List, String> {
    let above = |x: &&f32| f64::from(**x) > ROUNDED_ZERO;
    let mut all = row.values.iter().chain(&own);
    if let Some(bad) = all.find(|x| x.is_nan() || above(x)) {
        return Err(format!("{bad} is no log-probability"));
    }
    if let Some(own) = own {
        if own <= NOTHING {
            return Err(format!(
                "the true token {target} has the log-probability {own}, which stands for none at all"
            ));
        }
        check_unlisted(&row.ids, &row.values, target, own, ROUNDED_ZERO)?;
    }
    Ok(List {
        ids: row.ids,
        logprobs: row.values,
        target: own,
        everything: false,
        most: MOST,
    })
}

/// Log-probabilities of logits, whose normaliser is not stored. The true token's negative
/// log-likelihood gives it away where the token is listed; else the list gets all probability but
/// that token's, and without it simply all.
fn of_logits(row: FoundRow, target: TokenId, nll: Option<f32>) -> Result<List, String> {
    let logits = &row.values;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return Err("its list is empty".to_owned());
    }
    if let Some(nll) = nll.filter(|nll| !nll.is_finite() || f64::from(*nll) < -ROUNDED_ZERO) {
        return Err(format!("{nll} is no cross-entropy"));
    }
    let nll = nll.map(|nll| f64::from(nll.max(0.0)));
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let all = f64::from(largest) + sum.ln();
    let place = row.ids.iter().position(|id| *id == target);
    let own = place.map(|at| f64::from(logits[at]));
    let rounding = own.unwrap_or(0.0).abs() + f64::from(largest).abs() + nll.unwrap_or(0.0);
    let rounding = rounding * HALF_STEP;
    let normaliser = match (nll, own) {
        (Some(nll), Some(own)) => {
            let mass = (all - own - nll).exp();
            if mass > MOST * rounding.exp() {
                return Err(format!(
                    "its list holds {mass:.3} of all probability, by the cross-entropy {nll} of the true token {target}"
                ));
            }
            // Below the list's own sum it is so due to rounding.
            (own + nll).max(all)
        }
        (Some(nll), None) => all - (-(-nll).exp()).ln_1p(),
        (None, _) => all,
    };
    let logprobs: Vec<f32> = logits
        .iter()
        .map(|x| (f64::from(*x) - normaliser) as f32)
        .collect();
    let target_logprob = nll.map(|nll| -nll as f32);
    if let Some(own) = target_logprob {
        check_unlisted(&row.ids, &logprobs, target, own, rounding + ROUNDED_ZERO)?;
    }
    Ok(List {
        everything: nll.is_none() || own.is_none(),
        ids: row.ids,
        logprobs,
        target: target_logprob,
        most: MOST,
    })
}

/// A token that is not among the most probable ones is no more probable than the least of them.
fn check_unlisted(
    ids: &[TokenId],
    logprobs: &[f32],
    target: TokenId,
    own: f32,
    rounding: f64,
) -> Result<(), String> {
    let Some(least) = logprobs.iter().copied().reduce(f32::min) else {
        return Ok(());
    };
    if ids.contains(&target) || f64::from(own) <= f64::from(least) + rounding {
        return Ok(());
    }
    Err(format!(
        "the true token {target} is not listed, but its log-probability {own} is above the least of the list, {least}"
    ))
}

fn check_ids(ids: &[TokenId], head: usize) -> Result<(), String> {
    if let Some(id) = ids.iter().find(|id| **id as usize >= head) {
        return Err(format!(
            "id {id} is beyond the {head} rows that the model may have by its tokenizer and `config.json`"
        ));
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("id {} is listed twice", pair[0])),
        None => Ok(()),
    }
}

/// Takes ids without a token out of the list; returns their probability.
fn drop_padded(list: &mut List, vocabulary: usize) -> f64 {
    let is_token = |id: &TokenId| (*id as usize) < vocabulary;
    if list.ids.iter().all(is_token) {
        return 0.0;
    }
    let pairs = std::mem::take(&mut list.ids)
        .into_iter()
        .zip(std::mem::take(&mut list.logprobs));
    let (kept, padded): (Vec<_>, Vec<_>) = pairs.partition(|(id, _)| is_token(id));
    (list.ids, list.logprobs) = kept.into_iter().unzip();
    padded.iter().map(|(_, x)| prob(*x)).sum()
}

impl Values {
    fn name(self) -> &'static str {
        match self {
            Values::Logits(_) => "logit",
            Values::Logprobs(_) | Values::Approximate(_) => "log-probability",
        }
    }
}
