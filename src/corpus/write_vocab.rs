//! A tokenizer's vocabulary as an artifact.

use std::path::PathBuf;

use serde_json::Value;

use crate::artifact::{Kind, Writing};
use crate::error::Result;
use crate::stage::{Item, Reads, Source, Stage};
use crate::units::Count;
use crate::vocab::Vocabulary;

/// A part of the stage: the artifact `vocab`.
#[derive(Clone, Debug)]
pub struct WriteVocab<'a> {
    /// The vocabulary.
    pub vocabulary: &'a Vocabulary,
    /// Folder to write.
    pub out: PathBuf,
}

impl Stage for WriteVocab<'_> {
    fn name(&self) -> &'static str {
        "corpus"
    }

    fn reads(&self) -> Result<Reads> {
        let digest = self.vocabulary.digest.clone();
        Ok(Reads::new().vocabulary(Source::Known(digest)))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Vocab, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        self.vocabulary.options()
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        self.vocabulary.write(&self.out, existing)?;
        Ok(format!("{} ids", Count(self.vocabulary.len() as u64)))
    }
}
