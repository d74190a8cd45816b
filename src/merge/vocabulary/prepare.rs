//! The output's tokens and tokenizer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::additions::{additions, check_models};
use super::files::Files;
use super::models::{ModelTokens, Vocabulary, read_all};
use super::tokens::{FILE, Known, Output, build, read};
use crate::error::{Error, Result};
use crate::merge::config::{MergeConfig, TokenizerConfig, TokenizerSource};
use crate::merge::inputs::Model;
use crate::units::Count;

/// Reads the tokenizers of all models and makes the output's, where one is configured.
/// `reference` is the model that the output's config comes from. Also returns warnings.
///
/// Memory: all models' tokens with their ids, one tokenizer at a time.
///
/// # Errors
///
/// Missing or damaged tokenizers, models without an embedding that is known, tokens under
/// `tokens:` that no model has.
pub(in crate::merge) fn prepare<'a>(
    config: &'a MergeConfig,
    models: &'a [Model],
    reference: usize,
) -> Result<Option<(Vocabulary<'a>, Files, Vec<String>)>> {
    let Some(settings) = &config.tokenizer else {
        return Ok(None);
    };
    let (known, mut warnings) = read_all(models)?;
    check_models(&settings.tokens, models)?;

    let (source, number) = source(config, settings, models);
    let foreign_tokens;
    let first = match number {
        Some(number) => &known[number].known,
        None => {
            foreign_tokens = read(&source, None)?;
            &foreign_tokens
        }
    };
    let more = additions(settings, number, first, &known)?;
    let foreign = number != Some(reference);
    let limit = number.map(|number| known[number].rows);
    let output = build(&source, limit, more.tokens)?;
    warnings.extend(pieces_warning(more.pieces));
    warnings.extend(without_effect(settings, &known));
    if foreign && !source.join("config.json").is_file() {
        warnings.push(format!(
            "`{}` has no config.json: the output's special tokens are those that `{}` has",
            source.display(),
            models[reference].name
        ));
    }
    let rows = rows(settings, &source, &output)?;
    let name = number.map_or_else(
        || source.display().to_string(),
        |n| known[n].name.to_owned(),
    );
    let Output {
        tokens,
        added,
        json,
    } = output;
    let files = Files {
        source,
        json,
        added,
        rows,
        per_layer: false,
        foreign: foreign.then(|| renumbered(&known[reference].known, &tokens)),
        summary: vec![summary(&name, tokens.len(), rows, &more.counts)],
    };
    let vocabulary = Vocabulary {
        configured: &settings.tokens,
        output: tokens,
        rows,
        models: known,
    };
    Ok(Some((vocabulary, files, warnings)))
}

/// The output's id of each id of `known`, for tokens that the output has.
fn renumbered(known: &Known, output: &[(u32, String)]) -> HashMap<u64, u32> {
    let output = output.iter().map(|(id, token)| (token.as_str(), *id));
    let output: HashMap<&str, u32> = output.collect();
    let ids = known.ids.iter();
    ids.filter_map(|(token, id)| Some((u64::from(*id), *output.get(token.as_str())?)))
        .collect()
}

/// The folder whose tokenizer the output's is made from, and the number of its model, if it is
/// merged.
fn source(
    config: &MergeConfig,
    settings: &TokenizerConfig,
    models: &[Model],
) -> (PathBuf, Option<usize>) {
    let number_of = |name: &str| models.iter().position(|model| model.name == name);
    match &settings.source {
        TokenizerSource::Model(name) => match number_of(name) {
            Some(number) => (models[number].dir.clone(), Some(number)),
            None => (config.resolve(name), None),
        },
        TokenizerSource::Base | TokenizerSource::Union => {
            let base = config.base_model.as_deref().and_then(number_of);
            let base = base.unwrap_or(0);
            (models[base].dir.clone(), Some(base))
        }
    }
}

fn pieces_warning(pieces: usize) -> Option<String> {
    (pieces > 0).then(|| {
        format!(
            "{} new tokens are ordinary pieces of another tokenizer: as added tokens they are \
             found before the tokenizer's own and change how text is split",
            Count(pieces as u64)
        )
    })
}

/// Warnings of tokens whose settings change nothing.
fn without_effect(settings: &TokenizerConfig, known: &[ModelTokens<'_>]) -> Vec<String> {
    let everywhere = |token: &str| known.iter().all(|m| m.known.ids.contains_key(token));
    let tokens = settings.tokens.iter();
    tokens
        .filter(|(token, config)| !config.force && everywhere(token))
        .map(|(token, _)| {
            format!(
                "`tokenizer.tokens.{token}` has no effect: every model has the token; add \
                 `force: true` to replace its rows"
            )
        })
        .collect()
}

/// The rows of the output's embeddings.
fn rows(settings: &TokenizerConfig, source: &Path, output: &Output) -> Result<usize> {
    let tokens = &output.tokens;
    let last = tokens.last().map_or(0, |(id, _)| *id as usize + 1);
    // Holes between ids take rows; those of a merged model have bounds, those of a file have none.
    if last > 2 * tokens.len() + 65_536 {
        return Err(Error::file(
            &source.join(FILE),
            format!("an id of {} for {} tokens", last - 1, tokens.len()),
        )
        .remedy("use a tokenizer whose tokens are numbered without large gaps"));
    }
    Ok(last.next_multiple_of(settings.pad_to_multiple_of.unwrap_or(1)))
}

/// What the vocabulary is made of: tokens of the model `name`, then `counts` more.
fn summary(name: &str, tokens: usize, rows: usize, counts: &[(String, usize)]) -> String {
    let new: usize = counts.iter().map(|(_, count)| count).sum();
    let first = format!("{} of `{name}`", Count((tokens - new) as u64));
    let others = counts.iter();
    let others = others.map(|(name, count)| format!("{} more of {name}", Count(*count as u64)));
    let parts: Vec<String> = std::iter::once(first).chain(others).collect();
    format!(
        "{} tokens in {} rows: {}",
        Count(tokens as u64),
        Count(rows as u64),
        parts.join(", ")
    )
}
