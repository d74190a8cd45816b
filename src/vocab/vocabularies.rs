//! The vocabularies of a source and a pivot.

use super::{Tokenizer, Vocabulary};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::units::TokenId;

/// How a tokenizer starts some bytes in mid-text ([`Tokenizer::first_token`]).
pub type FirstToken<'a> = dyn Fn(&[u8]) -> Option<TokenId> + Sync + 'a;

/// A source's vocabulary and the pivot's, with the pivot's way to start some bytes.
pub struct Vocabularies<'a> {
    /// The source's vocabulary.
    pub source: &'a Vocabulary,
    /// The pivot's vocabulary.
    pub pivot: &'a Vocabulary,
    /// The first token with which the pivot's tokenizer starts some bytes in mid-text.
    pub first_token: Box<FirstToken<'a>>,
}

impl<'a> Vocabularies<'a> {
    /// Those of two tokenizers.
    pub fn of(source: &'a Tokenizer, pivot: &'a Tokenizer) -> Self {
        Self {
            source: source.vocabulary(),
            pivot: pivot.vocabulary(),
            first_token: Box::new(|bytes| pivot.first_token(bytes)),
        }
    }

    /// Fails unless an alignment or map is between these two.
    ///
    /// # Errors
    /// It was made with another tokenizer.
    pub fn check(&self, artifact: &Artifact) -> Result<()> {
        artifact.check_vocabulary(&self.pivot.digest)?;
        let found = artifact.provenance().inputs.get("source_vocabulary");
        if found == Some(&self.source.digest) {
            return Ok(());
        }
        Err(Error::file(
            artifact.dir(),
            format!(
                "it belongs to the source vocabulary `{}`, expected `{}`",
                found.map_or("unknown", String::as_str),
                self.source.digest
            ),
        )
        .remedy("it was made with another tokenizer; run that stage again with this one"))
    }
}
