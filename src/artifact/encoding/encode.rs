//! From floats to stored columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt8Array, UInt16Array, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Float32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::super::Kind;
use super::super::rows::{Lists, numbers};
use super::{INFINITE, LEVELS, NLL_STEPS, NO_NUMBER, Problem, SHARES, bad_row, column, list_array};
use crate::error::Context;
use crate::units::TokenId;

/// The level of a probability given as its logarithm.
fn level_of_logprob(logprob: f32) -> u16 {
    level(f64::from((logprob * 0.25).exp()))
}

/// The level of a probability.
fn level_of_prob(prob: f32) -> u16 {
    level(f64::from(prob).sqrt().sqrt())
}

fn level(root: f64) -> u16 {
    if root.is_nan() {
        return NO_NUMBER;
    }
    let least = if root > 0.0 { 1.0 } else { 0.0 };
    // Half up, as these are not negative.
    (root * f64::from(LEVELS) + 0.5).clamp(least, LEVELS.into()) as u16
}

fn nll_to_stored(nll: f32) -> u32 {
    if nll.is_nan() || nll == f32::INFINITY {
        return INFINITE;
    }
    // Saturates at both ends.
    ((f64::from(nll) * f64::from(NLL_STEPS)).round() as u32).min(INFINITE - 1)
}

fn share_to_stored(share: f32) -> u8 {
    // Saturates at both ends.
    (share * SHARES).round() as u8
}

/// Lists being encoded.
#[derive(Default)]
struct ListsOut {
    ends: Vec<i32>,
    gaps: Vec<u32>,
    bases: Vec<u16>,
    levels: Vec<u16>,
    /// Id and level of the row in work, in one number that sorts by id.
    row: Vec<u64>,
}

impl ListsOut {
    fn with_capacity(rows: usize, entries: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self {
            ends,
            gaps: Vec::with_capacity(entries),
            bases: Vec::with_capacity(rows),
            levels: Vec::with_capacity(entries),
            row: Vec::new(),
        }
    }

    fn push(
        &mut self,
        ids: &[TokenId],
        levels: impl ExactSizeIterator<Item = u16>,
    ) -> std::result::Result<(), String> {
        if ids.len() != levels.len() {
            return Err(format!(
                "{} ids for {} probabilities",
                ids.len(),
                levels.len()
            ));
        }
        if ids.len() >= usize::from(u16::MAX) {
            return Err(format!("a list of {} ids is too long", ids.len()));
        }
        self.row.clear();
        let pairs = ids.iter().zip(levels);
        self.row
            .extend(pairs.map(|(id, level)| u64::from(*id) << 16 | u64::from(level)));
        self.row.sort_unstable();
        let base = self.row.iter().map(|entry| *entry as u16).min();
        let base = base.unwrap_or(0);
        let mut before = None;
        for entry in &self.row {
            let id = (entry >> 16) as u32;
            if before == Some(id) {
                return Err(format!("id {id} is listed twice"));
            }
            self.gaps.push(id - before.unwrap_or(0));
            self.levels.push(*entry as u16 - base);
            before = Some(id);
        }
        self.bases.push(base);
        self.ends.push(self.gaps.len() as i32);
        Ok(())
    }

    /// Where `id` is in the row pushed last, from 1; 0 if it is not listed.
    fn place(&self, id: TokenId) -> u16 {
        let found = self.row.binary_search_by_key(&id, |e| (e >> 16) as u32);
        found.map_or(0, |at| at as u16 + 1)
    }

    /// `id_gaps`, `base_level`, `levels`.
    fn finish(self) -> [ArrayRef; 3] {
        let offsets = OffsetBuffer::new(self.ends.into());
        [
            list_array(offsets.clone(), Arc::new(UInt32Array::from(self.gaps))),
            Arc::new(UInt16Array::from(self.bases)),
            list_array(offsets, Arc::new(UInt16Array::from(self.levels))),
        ]
    }
}

/// The stored columns of rows in memory.
pub(in crate::artifact) fn encode(
    kind: Kind,
    batch: &RecordBatch,
) -> std::result::Result<RecordBatch, Problem> {
    let columns = match kind {
        Kind::Topk | Kind::Projected => encode_distributions(kind, batch)?,
        Kind::Targets => encode_targets(batch)?,
        _ => return Ok(batch.clone()),
    };
    let stored = RecordBatch::try_new(kind.stored_schema(), columns);
    Ok(stored.during(|| format!("encoding `{kind}` rows"))?)
}

fn encode_distributions(
    kind: Kind,
    batch: &RecordBatch,
) -> std::result::Result<Vec<ArrayRef>, Problem> {
    let rows = batch.num_rows();
    let sample = numbers::<UInt64Type>(batch, "sample_id")?.values();
    let pos = numbers::<UInt32Type>(batch, "pos")?.values();
    let target_id = numbers::<UInt32Type>(batch, "target_id")?.values();
    let target_logprob = numbers::<Float32Type>(batch, "target_logprob")?.values();
    let tail = numbers::<Float32Type>(batch, "tail_logprob")?.values();
    let draws = numbers::<UInt16Type>(batch, "draws")?.values();
    let ids = Lists::<UInt32Type>::new(batch, "ids")?;
    let logprobs = Lists::<Float32Type>::new(batch, "logprobs")?;
    let mut lists = ListsOut::with_capacity(rows, ids.total());
    let mut place = Vec::with_capacity(rows);
    let mut other = Vec::with_capacity(rows);
    for row in 0..rows {
        let values = logprobs.row(row).iter();
        let done = match draws[row] {
            0 => lists.push(ids.row(row), values.map(|x| level_of_logprob(*x))),
            n => lists.push(ids.row(row), values.map(|x| count(x.exp(), n))),
        };
        done.map_err(|what| bad_row(sample, pos, row, what))?;
        let at = lists.place(target_id[row]);
        place.push(at);
        other.push((at == 0).then_some(target_id[row]));
    }
    let [gaps, base, levels] = lists.finish();
    let nll = target_logprob.iter().map(|x| nll_to_stored(-x));
    let tail = tail.iter().map(|x| level_of_logprob(*x));
    let mut columns: Vec<ArrayRef> = vec![
        column(batch, "sample_id"),
        column(batch, "pos"),
        Arc::new(UInt16Array::from(place)),
        Arc::new(UInt32Array::from(other)),
        Arc::new(UInt32Array::from_iter_values(nll)),
        Arc::new(UInt16Array::from_iter_values(tail)),
        gaps,
        base,
        levels,
        column(batch, "draws"),
    ];
    if kind == Kind::Projected {
        let nll = numbers::<Float32Type>(batch, "source_nll")?;
        let nll = nll.iter().map(|x| x.map(nll_to_stored));
        columns.push(column(batch, "projection"));
        columns.push(Arc::new(nll.collect::<UInt32Array>()));
        let owed = numbers::<Float32Type>(batch, "owed")?;
        let owed = owed.iter().map(|x| x.map(nll_to_stored).filter(|x| *x > 0));
        columns.push(Arc::new(owed.collect::<UInt32Array>()));
        for name in ["unknown", "short"] {
            let share = numbers::<Float32Type>(batch, name)?;
            let share = share
                .iter()
                .map(|x| x.map(share_to_stored).filter(|x| *x > 0));
            columns.push(Arc::new(share.collect::<UInt8Array>()));
        }
        columns.push(column(batch, "named"));
    }
    Ok(columns)
}

fn encode_targets(batch: &RecordBatch) -> std::result::Result<Vec<ArrayRef>, Problem> {
    let rows = batch.num_rows();
    let sample = numbers::<UInt64Type>(batch, "sample_id")?.values();
    let pos = numbers::<UInt32Type>(batch, "pos")?.values();
    let tail = numbers::<Float32Type>(batch, "tail")?.values();
    let draws = numbers::<UInt16Type>(batch, "draws")?.values();
    let ids = Lists::<UInt32Type>::new(batch, "ids")?;
    let probs = Lists::<Float32Type>::new(batch, "probs")?;
    let mut lists = ListsOut::with_capacity(rows, ids.total());
    for row in 0..rows {
        let values = probs.row(row).iter();
        let done = match draws[row] {
            0 => lists.push(ids.row(row), values.map(|x| level_of_prob(*x))),
            n => lists.push(ids.row(row), values.map(|x| count(*x, n))),
        };
        done.map_err(|what| bad_row(sample, pos, row, what))?;
    }
    let [gaps, base, levels] = lists.finish();
    let tail = tail.iter().map(|x| level_of_prob(*x));
    Ok(vec![
        column(batch, "sample_id"),
        column(batch, "pos"),
        gaps,
        base,
        levels,
        Arc::new(UInt16Array::from_iter_values(tail)),
        column(batch, "draws"),
        column(batch, "winner"),
    ])
}

/// How often a token was drawn.
fn count(share: f32, draws: u16) -> u16 {
    (share * f32::from(draws)).round() as u16
}
