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
//! | `target_nll`, `source_nll`, `owed` | negative log-likelihoods in 1/1024 nat; 2^32 − 1: infinite | `x / 1024` |
//! | `unknown`, `short` | shares of the probability in 1/255; null where there is none | `x / 255.0` |
//! | `draws` | 0; in rows of random samples how many were drawn, and levels are counts | probability `level / draws` |
//!
//! *Why gaps.* Ids of one list have no order of their own, so the sorted list says as much in
//! log2(k!) fewer bits. *Why fourth roots.* Rounding a probability p by a relative error e
//! costs p e²/2 nats of KL divergence: the less probable a token, the coarser it may be. Steps
//! of p^(1/4)/432 cost 1e-5 to 2e-5 nats over the lists from k = 10 to 64, resolve the likely
//! tokens to 0.5 % and still tell 1e-9 from 1e-8. *Why a base.* Most listed tokens are near the
//! least probable one, so differences from it are small numbers.
//!
//! In memory, rows have the columns of [`Kind::schema`]: floats, by falling probability. A level
//! above 432 stands for what is no probability and is read as NaN.

mod decode;
mod encode;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::record_batch::RecordBatch;

use super::Kind;
use super::kind::list_element;

pub(super) use decode::Decoder;
pub(crate) use decode::{LOGPROBS, PROBS};
pub(super) use encode::encode;

/// Level of probability one.
pub const LEVELS: u16 = 432;
/// Steps of a stored negative log-likelihood in a nat.
pub const NLL_STEPS: f32 = 1024.0;
/// Steps of a stored share.
pub const SHARES: f32 = 255.0;
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

fn list_array(offsets: OffsetBuffer<i32>, values: ArrayRef) -> ArrayRef {
    let element = list_element(values.data_type().clone());
    Arc::new(ListArray::new(element, offsets, values, None))
}

fn column(batch: &RecordBatch, name: &str) -> ArrayRef {
    let schema = batch.schema();
    let index = schema.index_of(name).unwrap_or_default();
    batch.column(index).clone()
}

fn bad_row(sample: &[u64], pos: &[u32], row: usize, what: String) -> Problem {
    Problem::Row(BadRow {
        sample: sample[row],
        pos: pos[row],
        what,
    })
}
