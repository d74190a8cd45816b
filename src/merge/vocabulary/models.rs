//! The tokens of the output and of all models.

use super::names;
use super::place::{Placement, Tokens, place};
use super::tokens::{Known, read};
use crate::error::{Error, Result};
use crate::merge::config::TokenConfig;
use crate::merge::inputs::Model;
use crate::units::Count;

/// The output's tokens and those of all models.
pub(in crate::merge) struct Vocabulary<'a> {
    /// Tokens with rules of their own.
    pub(super) configured: &'a [(String, TokenConfig)],
    /// The output's tokens in the order of their ids.
    pub(super) output: Vec<(u32, String)>,
    /// Rows of the output's embeddings.
    pub rows: usize,
    /// The models' tokens.
    pub(super) models: Vec<ModelTokens<'a>>,
}

/// A model's tokens.
pub(super) struct ModelTokens<'a> {
    /// As written in the configuration.
    pub name: &'a str,
    /// Its tokens.
    pub known: Known,
    /// The rows of its embeddings.
    pub rows: usize,
}

/// Reads the tokens of all models, and says which have no row.
///
/// # Errors
///
/// Missing or damaged tokenizers, models without an embedding that is known.
pub(super) fn read_all(models: &[Model]) -> Result<(Vec<ModelTokens<'_>>, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut known = Vec::new();
    for model in models {
        let rows = names::rows(model).ok_or_else(|| {
            Error::input(
                model.dir.display(),
                "no tensor is known to be the token embedding",
            )
            .remedy("remove `tokenizer_source`; rows are then merged as they are")
        })?;
        let tokens = read(&model.dir, Some(rows))?;
        if tokens.left_out > 0 {
            warnings.push(format!(
                "{} tokens of `{}` have no row in its embedding of {} rows: they are left out",
                Count(tokens.left_out as u64),
                model.name,
                Count(rows as u64)
            ));
        }
        known.push(ModelTokens {
            name: &model.name,
            known: tokens,
            rows,
        });
    }
    Ok((known, warnings))
}

impl Vocabulary<'_> {
    /// The rows that a model's embeddings have.
    pub fn rows_of(&self, model: usize) -> usize {
        self.models[model].rows
    }

    /// Places the rows of the models with these numbers; `base` is the number of the base model.
    /// `short` has each model's rows of a tensor in which row 0 stands for the tokens beyond.
    ///
    /// # Errors
    ///
    /// A token whose source does not take part, or does not have it.
    pub fn place(
        &self,
        models: &[usize],
        base: Option<usize>,
        short: Option<&[usize]>,
    ) -> Result<Placement> {
        let model = |(at, number): (usize, &usize)| {
            let model = &self.models[*number];
            Tokens {
                name: model.name,
                ids: &model.known.ids,
                rows: short.map_or(model.rows, |rows| rows[at]),
            }
        };
        let tokens: Vec<Tokens<'_>> = models.iter().enumerate().map(model).collect();
        let base = base.and_then(|base| models.iter().position(|model| *model == base));
        place(&self.output, self.rows, &tokens, base, self.configured)
    }
}
