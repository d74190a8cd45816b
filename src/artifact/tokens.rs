//! Rows of the `tokens` artifact.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanBuilder, ListBuilder, UInt32Builder, UInt64Array};
use arrow::datatypes::{DataType, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::kind::list_element;
use super::rows::{Lists, lists, numbers};
use super::{Kind, Part, seal};
use crate::error::{Context, Error, Result};
use crate::units::{SampleId, TokenId};

/// The tokens of one sample. `ids`, `byte_end` and `supervised` are parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleTokens {
    /// The sample.
    pub sample_id: SampleId,
    /// Token ids; position 0 is the zero-width BOS.
    pub ids: Vec<TokenId>,
    /// Where each token ends in the transcript, in bytes; never falls, the last is its length.
    pub byte_end: Vec<u32>,
    /// Whether the model is trained and measured on the token.
    pub supervised: Vec<bool>,
}

impl SampleTokens {
    /// Where token `pos` begins in the transcript, in bytes.
    pub fn byte_start(&self, pos: usize) -> u32 {
        if pos == 0 { 0 } else { self.byte_end[pos - 1] }
    }

    /// The rows `pos` that distributions are stored for: those whose next token is supervised.
    pub fn predicted(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.ids.len().saturating_sub(1)).filter(|&pos| self.supervised[pos + 1])
    }
}

/// Reads a whole part.
///
/// # Errors
/// If lists of a sample differ in length, ends fall, or samples are not in order.
///
/// # Memory
/// 9 bytes a token.
pub fn read_part(part: &Part) -> Result<Vec<SampleTokens>> {
    let damaged =
        |place: String, problem: String| Error::damaged_at(place, problem).remedy(seal::REMEDY);
    let mut samples = Vec::new();
    let mut expected = part.info().first_sample;
    for batch in part.batches()? {
        let batch = batch?;
        let sample_ids = numbers::<UInt64Type>(&batch, "sample_id")?;
        let ids = Lists::<UInt32Type>::new(&batch, "ids")?;
        let byte_end = Lists::<UInt32Type>::new(&batch, "byte_end")?;
        let supervised = lists(&batch, "supervised")?;
        for row in 0..batch.num_rows() {
            let sample = SampleTokens {
                sample_id: sample_ids.value(row),
                ids: ids.row(row).to_vec(),
                byte_end: byte_end.row(row).to_vec(),
                supervised: supervised.value(row).as_boolean().values().iter().collect(),
            };
            let place = || format!("{} sample {}", part.path().display(), sample.sample_id);
            if sample.sample_id != expected {
                return Err(damaged(place(), format!("expected sample {expected} here")));
            }
            expected += 1;
            if sample.ids.len() != sample.byte_end.len()
                || sample.ids.len() != sample.supervised.len()
            {
                let problem = "`ids`, `byte_end` and `supervised` differ in length";
                return Err(damaged(place(), problem.to_owned()));
            }
            if !sample.byte_end.is_sorted() {
                return Err(damaged(place(), "`byte_end` falls".to_owned()));
            }
            samples.push(sample);
        }
    }
    if samples.len() as u64 != part.info().samples {
        let (found, expected) = (samples.len(), part.info().samples);
        let problem = format!("holds {found} samples, its footer says {expected}");
        return Err(damaged(part.path().display().to_string(), problem));
    }
    Ok(samples)
}

/// Fails if a sample of `part` has an id that a vocabulary of `len` tokens lacks.
///
/// # Errors
/// The first such id, with its sample.
pub fn check_ids(part: &Part, samples: &[SampleTokens], len: usize) -> Result<()> {
    for sample in samples {
        if let Some(id) = sample.ids.iter().find(|id| **id as usize >= len) {
            return Err(Error::input(
                format!("{} sample {}", part.path().display(), sample.sample_id),
                format!("id {id} is beyond the vocabulary of {len} tokens"),
            )
            .remedy("remove the part and run `corpus` again"));
        }
    }
    Ok(())
}

/// The rows of `samples` as they are stored.
pub fn to_batch(samples: &[SampleTokens]) -> Result<RecordBatch> {
    let u32s = || ListBuilder::new(UInt32Builder::new()).with_field(list_element(DataType::UInt32));
    let (mut ids, mut byte_end) = (u32s(), u32s());
    let mut supervised =
        ListBuilder::new(BooleanBuilder::new()).with_field(list_element(DataType::Boolean));
    for sample in samples {
        ids.values().append_slice(&sample.ids);
        ids.append(true);
        byte_end.values().append_slice(&sample.byte_end);
        byte_end.append(true);
        supervised.values().append_slice(&sample.supervised);
        supervised.append(true);
    }
    let sample_ids = UInt64Array::from_iter_values(samples.iter().map(|s| s.sample_id));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(sample_ids),
        Arc::new(ids.finish()),
        Arc::new(byte_end.finish()),
        Arc::new(supervised.finish()),
    ];
    RecordBatch::try_new(Kind::Tokens.schema(), columns).during(|| "building `tokens` rows".into())
}
