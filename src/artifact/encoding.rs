//! How distributions are stored: the compact columns of `topk`, `projected` and `targets`.
//!
//! The choice was made by size and KL divergence on real and synthetic distributions; `cargo
//! bench --bench store` measures it. All columns are plain integers, and a reader without this
//! program undoes them with one expression each:
//!
//! | column | is | expression |
//! |---|---|---|
//! | `id_gaps` | the listed ids in rising order, each but the first less the one before | running sum |
//! | `base_level`, `levels` | probabilities in the order of the ids: `level = base_level + levels[i]` | `(level / 432)^4`; logarithm `4 ln(level / 432)` |
//! | `tail_level` | probability outside the list | the same |
//! | `target_place` | where the true token is in `id_gaps`, from 1; 0: it is not listed | id: sum of the gaps up to there |
//! | `target_other` | the true token where it is not listed | |
//! | `target_nll`, `source_nll` | negative log-likelihoods in 1/1024 nat; 2^32 − 1: infinite | `x / 1024` |
//! | `draws` | 0; in rows of random samples how many were drawn, and levels are counts | probability `level / draws` |
//!
//! *Why gaps.* Ids of one list have no order of their own, so the sorted list says as much in
//! log2(k!) fewer bits, and gaps with their bytes apart (`BYTE_STREAM_SPLIT`, then zstd) come
//! within 3 % of their entropy. *Why fourth roots.* Rounding a probability p by a relative error e
//! costs p e²/2 nats of KL divergence: the less probable a token, the coarser it may be. Steps
//! of p^(1/4)/432 cost 1e-5 to 2e-5 nats over the lists from k = 10 to 64, resolve the likely
//! tokens to 0.5 % and still tell 1e-9 from 1e-8. *Why a base.* Most listed tokens are near the
//! least probable one, so differences from it are small numbers.
//!
//! In memory, rows have the columns of [`Kind::schema`]: floats, by falling probability. A level
//! above 432 stands for what is no probability and is read as NaN.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, Float32Array, ListArray, UInt16Array, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Float32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::Kind;
use super::kind::list_element;
use super::rows::{Lists, numbers};
use crate::error::Context;
use crate::units::TokenId;

/// Level of probability one.
pub const LEVELS: u16 = 432;
/// Steps of a stored negative log-likelihood in a nat.
pub const NLL_STEPS: f32 = 1024.0;
/// Level that stands for what is no number.
const NO_NUMBER: u16 = u16::MAX;
/// Stored negative log-likelihood that stands for infinity.
const INFINITE: u32 = u32::MAX;

/// What is wrong with a row, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) sample: u64,
    pub(super) pos: u32,
    pub(super) what: String,
}

/// Why a batch could not be converted.
#[derive(Debug)]
pub(super) enum Problem {
    Row(BadRow),
    Batch(crate::error::Error),
}

impl From<crate::error::Error> for Problem {
    fn from(error: crate::error::Error) -> Self {
        Problem::Batch(error)
    }
}

/// Whether rows of this kind are stored in columns of their own.
pub(super) const fn is_encoded(kind: Kind) -> bool {
    matches!(kind, Kind::Topk | Kind::Projected | Kind::Targets)
}

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
    (root * f64::from(LEVELS))
        .round()
        .clamp(least, LEVELS.into()) as u16
}

/// Logarithm of the probability of each level.
static LOGPROBS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..=LEVELS)
        .map(|level| (4.0 * (f64::from(level) / f64::from(LEVELS)).ln()) as f32)
        .collect()
});

fn logprob_of_level(level: u16) -> f32 {
    LOGPROBS
        .get(usize::from(level))
        .copied()
        .unwrap_or(f32::NAN)
}

/// The probability of each level.
static PROBS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..=LEVELS)
        .map(|level| (f64::from(level) / f64::from(LEVELS)).powi(4) as f32)
        .collect()
});

fn prob_of_level(level: u16) -> f32 {
    PROBS.get(usize::from(level)).copied().unwrap_or(f32::NAN)
}

fn nll_to_stored(nll: f32) -> u32 {
    if nll.is_nan() || nll == f32::INFINITY {
        return INFINITE;
    }
    // Saturates at both ends.
    ((f64::from(nll) * f64::from(NLL_STEPS)).round() as u32).min(INFINITE - 1)
}

fn nll_from_stored(stored: u32) -> f32 {
    match stored {
        INFINITE => f32::INFINITY,
        _ => (f64::from(stored) / f64::from(NLL_STEPS)) as f32,
    }
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

fn list_array(offsets: OffsetBuffer<i32>, values: ArrayRef) -> ArrayRef {
    let element = list_element(values.data_type().clone());
    Arc::new(ListArray::new(element, offsets, values, None))
}

/// The stored columns of rows in memory.
pub(super) fn encode(kind: Kind, batch: &RecordBatch) -> std::result::Result<RecordBatch, Problem> {
    let columns = match kind {
        Kind::Topk | Kind::Projected => encode_distributions(kind, batch)?,
        Kind::Targets => encode_targets(batch)?,
        _ => return Ok(batch.clone()),
    };
    let stored = RecordBatch::try_new(kind.stored_schema(), columns);
    Ok(stored.during(|| format!("encoding `{kind}` rows"))?)
}

fn column(batch: &RecordBatch, name: &str) -> ArrayRef {
    let schema = batch.schema();
    let index = schema.index_of(name).unwrap_or_default();
    batch.column(index).clone()
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

fn bad_row(sample: &[u64], pos: &[u32], row: usize, what: String) -> Problem {
    Problem::Row(BadRow {
        sample: sample[row],
        pos: pos[row],
        what,
    })
}

/// Decodes the batches of one part, in order.
#[derive(Debug)]
pub(super) struct Decoder {
    kind: Kind,
    /// Sample and position of the row before.
    before: Option<(u64, u32)>,
    /// Level and id of the row in work, in one number that sorts by falling level, then id.
    row: Vec<u64>,
}

/// Decoded lists.
struct ListsIn {
    ends: Vec<i32>,
    ids: Vec<TokenId>,
    values: Vec<f32>,
}

impl Decoder {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            before: None,
            row: Vec::new(),
        }
    }

    /// Rows in memory of stored columns.
    pub(super) fn decode(
        &mut self,
        batch: &RecordBatch,
    ) -> std::result::Result<RecordBatch, Problem> {
        let columns = match self.kind {
            Kind::Topk | Kind::Projected => self.distributions(batch)?,
            Kind::Targets => self.targets(batch)?,
            _ => return Ok(batch.clone()),
        };
        let rows = RecordBatch::try_new(self.kind.schema(), columns);
        Ok(rows.during(|| format!("decoding `{}` rows", self.kind))?)
    }

    fn distributions(
        &mut self,
        batch: &RecordBatch,
    ) -> std::result::Result<Vec<ArrayRef>, Problem> {
        let place = numbers::<UInt16Type>(batch, "target_place")?.values();
        let other = numbers::<UInt32Type>(batch, "target_other")?;
        let nll = numbers::<UInt32Type>(batch, "target_nll")?.values();
        let tail = numbers::<UInt16Type>(batch, "tail_level")?.values();
        let mut target_id: Vec<TokenId> = Vec::with_capacity(batch.num_rows());
        let lists = self.lists(batch, &LOGPROBS, f32::ln, &mut |row, gaps| {
            let at = usize::from(place[row]);
            let id = match gaps.get(..at) {
                Some([]) if !other.is_null(row) => Some(other.value(row)),
                // Their sum is a listed id, which was found to fit.
                Some(gaps) if at > 0 => Some(gaps.iter().sum()),
                _ => None,
            };
            target_id.push(id.ok_or("`target_place` names no listed token, nor `target_other`")?);
            Ok(())
        })?;
        let offsets = OffsetBuffer::new(lists.ends.into());
        let target_logprob = nll.iter().map(|x| -nll_from_stored(*x));
        let tail = tail.iter().map(|x| logprob_of_level(*x));
        let mut columns: Vec<ArrayRef> = vec![
            column(batch, "sample_id"),
            column(batch, "pos"),
            Arc::new(UInt32Array::from(target_id)),
            Arc::new(Float32Array::from_iter_values(target_logprob)),
            Arc::new(Float32Array::from_iter_values(tail)),
            list_array(offsets.clone(), Arc::new(UInt32Array::from(lists.ids))),
            list_array(offsets, Arc::new(Float32Array::from(lists.values))),
            column(batch, "draws"),
        ];
        if self.kind == Kind::Projected {
            let nll = numbers::<UInt32Type>(batch, "source_nll")?;
            let nll = nll.iter().map(|x| x.map(nll_from_stored));
            columns.push(column(batch, "projection"));
            columns.push(Arc::new(nll.collect::<Float32Array>()));
        }
        Ok(columns)
    }

    fn targets(&mut self, batch: &RecordBatch) -> std::result::Result<Vec<ArrayRef>, Problem> {
        let tail = numbers::<UInt16Type>(batch, "tail_level")?.values();
        let lists = self.lists(batch, &PROBS, |share| share, &mut |_, _| Ok(()))?;
        let offsets = OffsetBuffer::new(lists.ends.into());
        let tail = tail.iter().map(|x| prob_of_level(*x));
        Ok(vec![
            column(batch, "sample_id"),
            column(batch, "pos"),
            list_array(offsets.clone(), Arc::new(UInt32Array::from(lists.ids))),
            list_array(offsets, Arc::new(Float32Array::from(lists.values))),
            Arc::new(Float32Array::from_iter_values(tail)),
            column(batch, "draws"),
            column(batch, "winner"),
        ])
    }

    /// The lists by falling probability. `of_level` has the value of each level, `of_share` makes
    /// one of a share of draws; `each` sees the gaps of each row.
    fn lists(
        &mut self,
        batch: &RecordBatch,
        of_level: &[f32],
        of_share: impl Fn(f32) -> f32,
        each: &mut dyn FnMut(usize, &[u32]) -> std::result::Result<(), &'static str>,
    ) -> std::result::Result<ListsIn, Problem> {
        let sample = numbers::<UInt64Type>(batch, "sample_id")?.values();
        let pos = numbers::<UInt32Type>(batch, "pos")?.values();
        let base = numbers::<UInt16Type>(batch, "base_level")?.values();
        let draws = numbers::<UInt16Type>(batch, "draws")?.values();
        let gaps = Lists::<UInt32Type>::new(batch, "id_gaps")?;
        let levels = Lists::<UInt16Type>::new(batch, "levels")?;
        let mut out = ListsIn {
            ends: Vec::with_capacity(batch.num_rows() + 1),
            ids: Vec::with_capacity(gaps.total()),
            values: Vec::with_capacity(gaps.total()),
        };
        out.ends.push(0);
        for row in 0..batch.num_rows() {
            let wrong = |what: &str| bad_row(sample, pos, row, what.to_owned());
            let here = (sample[row], pos[row]);
            if self.before.is_some_and(|before| before >= here) {
                return Err(wrong(
                    "rows are not sorted by sample_id and pos, or come twice",
                ));
            }
            self.before = Some(here);
            self.read_row(gaps.row(row), levels.row(row), base[row])
                .map_err(wrong)?;
            each(row, gaps.row(row)).map_err(wrong)?;
            self.row.sort_unstable();
            out.ids.extend(self.row.iter().map(|entry| *entry as u32));
            let level = |entry: &u64| !((entry >> 32) as u16);
            let entries = self.row.iter();
            if draws[row] == 0 {
                out.values.extend(entries.map(|entry| {
                    let value = of_level.get(usize::from(level(entry)));
                    value.copied().unwrap_or(f32::NAN)
                }));
            } else {
                let drawn: u32 = entries.clone().map(|entry| u32::from(level(entry))).sum();
                if drawn != u32::from(draws[row]) {
                    return Err(wrong("the counts do not sum to `draws`"));
                }
                let draws = f32::from(draws[row]);
                out.values
                    .extend(entries.map(|entry| of_share(f32::from(level(entry)) / draws)));
            }
            out.ends.push(out.ids.len() as i32);
        }
        Ok(out)
    }

    /// Reads one list into `row`.
    fn read_row(
        &mut self,
        gaps: &[u32],
        levels: &[u16],
        base: u16,
    ) -> std::result::Result<(), &'static str> {
        if gaps.len() != levels.len() {
            return Err("`id_gaps` and `levels` differ in length");
        }
        self.row.clear();
        let mut id = 0u64;
        let mut sane = true;
        for (at, (gap, level)) in gaps.iter().zip(levels).enumerate() {
            sane &= *gap > 0 || at == 0;
            id += u64::from(*gap);
            let level = level.saturating_add(base);
            self.row.push(u64::from(!level) << 32 | id);
        }
        match sane && id <= u64::from(TokenId::MAX) {
            true => Ok(()),
            false => Err("an id is listed twice, or is no id"),
        }
    }
}
