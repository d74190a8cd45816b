//! What a stage reads, and what of it counts.

use super::Item;
use crate::artifact::Provenance;
use crate::error::{Error, Result};

/// Where a fact about an input comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The whole of it.
    Whole(Item),
    /// Of an artifact, the vocabulary that its ids belong to; the rows do not count.
    VocabularyOf(Item),
    /// Of distributions, the model whose they are; nothing where they do not say.
    ModelOf(Item),
    /// A digest that is known.
    Known(String),
}

/// Under which name a fact stands in the provenance.
#[derive(Clone, Debug)]
enum Place {
    Vocabulary,
    Model,
    Input(String),
    /// Not at all: what it changes stands there by another name.
    Nowhere,
}

/// What a stage reads, in order.
#[derive(Clone, Debug, Default)]
pub struct Reads(Vec<(Place, Source)>);

impl Reads {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, place: Place, source: Source) -> Self {
        self.0.push((place, source));
        self
    }

    /// An input by its name.
    #[must_use]
    pub fn input(self, name: impl Into<String>, item: Item) -> Self {
        self.with(Place::Input(name.into()), Source::Whole(item))
    }

    /// An input that need not be there, by its name.
    #[must_use]
    pub fn maybe(self, name: &str, item: Option<Item>) -> Self {
        match item {
            Some(item) => self.input(name, item),
            None => self,
        }
    }

    /// A fact by its name.
    #[must_use]
    pub fn fact(self, name: impl Into<String>, source: Source) -> Self {
        self.with(Place::Input(name.into()), source)
    }

    /// The vocabulary that the ids of the result belong to.
    #[must_use]
    pub fn vocabulary(self, source: Source) -> Self {
        self.with(Place::Vocabulary, source)
    }

    /// The model whose figures the result holds.
    #[must_use]
    pub fn model(self, source: Source) -> Self {
        self.with(Place::Model, source)
    }

    /// What changes the result, but stands in the provenance by what it says.
    #[must_use]
    pub fn also(self, item: Item) -> Self {
        self.with(Place::Nowhere, Source::Whole(item))
    }

    /// The inputs that are files or folders.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.0.iter().filter_map(|(_, source)| match source {
            Source::Whole(item) | Source::VocabularyOf(item) | Source::ModelOf(item) => Some(item),
            Source::Known(_) => None,
        })
    }

    /// Writes down what has a name.
    pub(super) fn add_to(&self, mut made: Provenance) -> Result<Provenance> {
        for (place, source) in &self.0 {
            made = match (place, source.digest()?) {
                (Place::Nowhere, _) | (_, None) => made,
                (Place::Vocabulary, Some(digest)) => made.vocabulary(digest),
                (Place::Model, Some(digest)) => made.model(digest),
                (Place::Input(name), Some(digest)) => made.input(name, digest),
            };
        }
        Ok(made)
    }

    /// Names and digests of all, in order; `None` while one is missing.
    pub(super) fn identities(
        &self,
        identity: &dyn Fn(&Item) -> Result<Option<String>>,
    ) -> Result<Option<Vec<(&str, String)>>> {
        let found = self.0.iter().map(|(place, source)| {
            let digest = match source {
                Source::Known(digest) => Some(digest.clone()),
                Source::Whole(item) | Source::VocabularyOf(item) | Source::ModelOf(item) => {
                    identity(item)?
                }
            };
            let name = match place {
                Place::Vocabulary => "vocabulary",
                Place::Model => "model",
                Place::Input(name) => name,
                Place::Nowhere => "",
            };
            Ok(digest.map(|digest| (name, digest)))
        });
        found.collect()
    }
}

impl Source {
    fn digest(&self) -> Result<Option<String>> {
        match self {
            Source::Known(digest) => Ok(Some(digest.clone())),
            Source::Whole(item) => item.digest().map(Some),
            Source::ModelOf(item) => Ok(item.open()?.provenance().model.clone()),
            Source::VocabularyOf(item) => {
                let digest = item.open()?.provenance().vocabulary.clone();
                let unnamed = || {
                    Error::file(item.path(), "its footer names no vocabulary")
                        .remedy("run the stage again that makes it")
                };
                digest.ok_or_else(unnamed).map(Some)
            }
        }
    }
}
