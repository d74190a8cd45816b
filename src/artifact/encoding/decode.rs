//! From stored columns to floats.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, Float32Array, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::super::Kind;
use super::super::rows::{Lists, numbers};
use super::{INFINITE, LEVELS, NLL_STEPS, Problem, SHARES, bad_row, column, list_array};
use crate::error::Context;
use crate::units::TokenId;

/// Logarithm of the probability of each level.
pub(crate) static LOGPROBS: LazyLock<Vec<f32>> = LazyLock::new(|| {
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
pub(crate) static PROBS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..=LEVELS)
        .map(|level| (f64::from(level) / f64::from(LEVELS)).powi(4) as f32)
        .collect()
});

fn prob_of_level(level: u16) -> f32 {
    PROBS.get(usize::from(level)).copied().unwrap_or(f32::NAN)
}

fn nll_from_stored(stored: u32) -> f32 {
    match stored {
        INFINITE => f32::INFINITY,
        _ => (f64::from(stored) / f64::from(NLL_STEPS)) as f32,
    }
}

fn share_from_stored(stored: u8) -> f32 {
    f32::from(stored) / SHARES
}

/// Sees the gaps of each row; fails with what is wrong with it.
type See<'a> = &'a mut dyn FnMut(usize, &[u32]) -> std::result::Result<(), &'static str>;

/// Decodes the batches of one part, in order.
#[derive(Debug)]
pub(in crate::artifact) struct Decoder {
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
    pub(in crate::artifact) fn new(kind: Kind) -> Self {
        Self {
            kind,
            before: None,
            row: Vec::new(),
        }
    }

    /// Rows in memory of stored columns.
    pub(in crate::artifact) fn decode(
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
            let owed = numbers::<UInt32Type>(batch, "owed")?;
            let owed = owed.iter().map(|x| x.map(nll_from_stored));
            columns.push(Arc::new(owed.collect::<Float32Array>()));
            for name in ["unknown", "short"] {
                let share = numbers::<UInt8Type>(batch, name)?;
                let share = share.iter().map(|x| x.map(share_from_stored));
                columns.push(Arc::new(share.collect::<Float32Array>()));
            }
            columns.push(column(batch, "named"));
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
        each: See<'_>,
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
