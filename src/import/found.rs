//! What the readers of the formats hand over.

use std::path::PathBuf;

use crate::error::Result;
use crate::units::TokenId;

/// An opened import.
pub(super) struct Opened {
    /// Everything that is read, for the provenance.
    pub(super) files: Vec<PathBuf>,
    /// The samples, in the order of the files.
    pub(super) samples: Samples,
    /// Rows of the model's head, where the files say so.
    pub(super) head: Option<usize>,
}

pub(super) type Samples = Box<dyn Iterator<Item = Result<Found>>>;

/// One sample as the other program stored it.
#[derive(Debug)]
pub(super) struct Found {
    /// File and row, for messages.
    pub(super) place: String,
    pub(super) ids: Vec<TokenId>,
    /// By rising `next`.
    pub(super) rows: Vec<FoundRow>,
    /// Mean negative log-likelihood of its tokens, where it is stored instead of theirs.
    pub(super) ce: Option<f64>,
    /// Whether the same answer gives the same tokens before: one prompt, completed several times.
    pub(super) repeated: bool,
}

/// One distribution.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundRow {
    /// Index of the token that it is about.
    pub(super) next: usize,
    pub(super) ids: Vec<TokenId>,
    /// As [`FoundRow::are`] says.
    pub(super) values: Vec<f32>,
    pub(super) are: Values,
}

/// What the values of a row are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Values {
    /// Log-probabilities, and the true token's own, where the program says so.
    Logprobs(Option<f32>),
    /// Log-probabilities, of which only so many at the beginning are exact; the others may even
    /// be above 0.
    Approximate(u32),
    /// Logits, and the true token's negative log-likelihood, where the program says so.
    Logits(Option<f32>),
}
