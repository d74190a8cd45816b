//! The tokens that a tokenizer gets in addition to its own.

use std::collections::HashSet;

use tokenizers::AddedToken;

use super::models::ModelTokens;
use super::tokens::Known;
use crate::error::{Error, Result, did_you_mean};
use crate::merge::config::{TokenConfig, TokenSource, TokenizerConfig, TokenizerSource};
use crate::merge::inputs::Model;

/// Fails where a token's source is none of the models.
pub(super) fn check_models(configured: &[(String, TokenConfig)], models: &[Model]) -> Result<()> {
    for (token, config) in configured {
        let Some(
            TokenSource::Model(model)
            | TokenSource::Token { model, .. }
            | TokenSource::Row { model, .. },
        ) = &config.source
        else {
            continue;
        };
        if !models.iter().any(|known| known.name == *model) {
            let error = Error::usage(format!(
                "`tokenizer.tokens.{token}`: `{model}` is none of the merged models"
            ));
            let names = models.iter().map(|model| model.name.as_str());
            return Err(match did_you_mean(model, names) {
                Some(remedy) => error.remedy(remedy),
                None => error.remedy("name a model as it is written where it is merged"),
            });
        }
    }
    Ok(())
}

/// What a tokenizer gets.
#[derive(Default)]
pub(super) struct Additions {
    /// New tokens, and tokens that it has as ordinary ones and that become added tokens.
    pub tokens: Vec<AddedToken>,
    /// How many new tokens come from where.
    pub counts: Vec<(String, usize)>,
    /// How many tokens are ordinary ones of their model.
    pub pieces: usize,
}

/// The tokens that the tokenizer `first` (of model `number`) gets: for a union those of the other
/// models, then those under `tokens:`.
///
/// # Errors
///
/// A token that no model has and that has no source.
pub(super) fn additions(
    settings: &TokenizerConfig,
    number: Option<usize>,
    first: &Known,
    models: &[ModelTokens<'_>],
) -> Result<Additions> {
    let mut additions = Additions::default();
    let mut seen: HashSet<&str> = HashSet::new();
    let others = (0..models.len()).filter(|at| Some(*at) != number);
    for at in others.filter(|_| settings.source == TokenizerSource::Union) {
        let ModelTokens { name, known, .. } = &models[at];
        // A piece that is an added token elsewhere becomes one, as in mergekit.
        let is_missing = |token: &str| match first.ids.contains_key(token) {
            true => known.added.contains_key(token) && !first.added.contains_key(token),
            false => !token.is_empty(),
        };
        let mut missing: Vec<(u32, &str)> = known
            .ids
            .iter()
            .map(|(token, id)| (*id, token.as_str()))
            .filter(|(_, token)| is_missing(token))
            .collect();
        missing.sort_unstable();
        let mut count = 0;
        for (_, token) in missing {
            if seen.insert(token) {
                additions.push(token, models);
                count += usize::from(!first.ids.contains_key(token));
            }
        }
        if count > 0 {
            additions.counts.push((format!("`{name}`"), count));
        }
    }
    let mut count = 0;
    for (token, config) in &settings.tokens {
        let nowhere = !models
            .iter()
            .any(|model| model.known.ids.contains_key(token));
        if nowhere && config.source.is_none() {
            return Err(Error::usage(format!(
                "`tokenizer.tokens.{token}`: no model has this token"
            ))
            .remedy("write it as tokenizer.json does, or give its embedding under `source`"));
        }
        if !first.ids.contains_key(token) && seen.insert(token) {
            additions.push(token, models);
            count += 1;
        }
    }
    if count > 0 {
        additions.counts.push(("`tokens`".to_owned(), count));
    }
    Ok(additions)
}

impl Additions {
    /// Adds a token with the settings of the first of `models` that has it as an added token.
    fn push(&mut self, token: &str, models: &[ModelTokens<'_>]) {
        let found = models.iter().find_map(|model| model.known.added.get(token));
        let is_piece = models
            .iter()
            .any(|model| model.known.ids.contains_key(token));
        self.pieces += usize::from(found.is_none() && is_piece);
        self.tokens.push(
            found
                .cloned()
                .unwrap_or_else(|| AddedToken::from(token, false)),
        );
    }
}
