//! The vocabulary of the output, and embeddings placed by token.
//!
//! Without `tokenizer_source` and `tokenizer`, tensors are merged row by row and the base model's
//! tokenizer is copied. With one of them, tensors with a row for each token (embeddings and heads)
//! are rearranged before they are merged, so that row i of every model stands for token i of the
//! output:
//!
//! ```text
//! tokenizer.json of each model ──► output's tokens ──► place() ──► Placement ──► Gathered
//! ```
//!
//! **Tokens.** `base`: those of the base model (of the first model where there is none). A
//! model's path: those of that model, which need not be among the merged ones. `union`: those of
//! the base with their ids, then for each other model, in the order of the configuration, its
//! tokens that are still missing, by id. Tokens under `tokens:` that are still missing come last.
//! Tokens whose ids are beyond the rows of their model's embedding are left out (of the tokenizer,
//! too). Rows of an embedding beyond its tokens (padding) are not taken over.
//!
//! **Rows.** A model that has a token keeps its row for it. For one that lacks it, the first of
//! these that holds:
//!
//! 1. the `source` under `tokens:` (the same token of a model, another token or row, zeros);
//! 2. the base model's row, if it takes part in the tensor and has the token;
//! 3. the row of the only model that has the token;
//! 4. the mean of the rows of all models that have it;
//! 5. zeros: no model that takes part has the token.
//!
//! With `force: true` this holds for models that have the token, too. The output has one row for
//! each id; the number of rows is rounded up to `pad_to_multiple_of`. Rows without a token hold,
//! model by model, the mean of the rows with one.
//!
//! **Files.** `tokenizer.json` is that of the base (or the model named) with the new tokens as
//! added tokens, with the settings of the first model that has them as such. Added tokens are
//! looked for before all others: ordinary pieces of another tokenizer, added to this one, change
//! how text is split. `vocab_size` follows; if the tokenizer is not the base's, the ids of special
//! tokens in `config.json` and `generation_config.json` are those of its model.
//!
//! This is what mergekit 0.1.5 does, but for these:
//!
//! * It goes through models and new tokens in an arbitrary order: ids of a union differ from run to
//!   run, as does the base where none is configured.
//! * It stops with a `KeyError` where another model than the base has tokens beyond its rows, and
//!   with an index error where ids are missing between tokens.
//! * With `base`, it takes rows of the base's padding for those of tokens that `tokens:` adds.
//! * It takes a model without a tokenizer for one with the base's; here that is an error.
//! * A token under `tokens:` that is an added token of some model is added with that model's
//!   settings (special tokens stay special), and `source` may be left out.
//! * It keeps the base's ids of special tokens in `config.json` with any tokenizer.

mod additions;
mod differences;
mod files;
mod gather;
mod names;
mod place;
mod settings;
mod tokens;

pub(super) use differences::differences;
pub(super) use files::{Files, copy_tokenizer};
pub(super) use gather::Gathered;
pub(super) use names::{is_by_token, may_be_by_token};
pub(super) use place::Placement;
pub use settings::{TokenConfig, TokenSource, TokenizerConfig, TokenizerSource};

use self::additions::{additions, check_models};
use self::place::{Fill, Row, Tokens, place};
use self::tokens::{Known, Output, build, read};
use super::config::MergeConfig;
use super::inputs::Model;
use crate::error::{Error, Result};
use crate::units::Count;

/// The output's tokens and those of all models.
pub(super) struct Vocabulary<'a> {
    configured: &'a [(String, TokenConfig)],
    output: Vec<(u32, String)>,
    /// Rows of the output's embeddings.
    pub rows: usize,
    models: Vec<ModelTokens<'a>>,
}

/// A model's tokens.
struct ModelTokens<'a> {
    /// As written in the configuration.
    name: &'a str,
    known: Known,
    /// The rows of its embeddings.
    rows: usize,
}

/// Reads the tokenizers of all models and makes the output's, where one is configured.
/// `reference` is the model that the output's config comes from. Also returns warnings.
///
/// Memory: all models' tokens with their ids, one tokenizer at a time.
///
/// # Errors
///
/// Missing or damaged tokenizers, models without an embedding that is known, tokens under
/// `tokens:` that no model has.
pub(super) fn prepare<'a>(
    config: &'a MergeConfig,
    models: &'a [Model],
    reference: usize,
) -> Result<Option<(Vocabulary<'a>, Files, Vec<String>)>> {
    let Some(settings) = &config.tokenizer else {
        return Ok(None);
    };
    let (known, mut warnings) = read_all(models)?;
    check_models(&settings.tokens, models)?;

    let (source, number) = match &settings.source {
        TokenizerSource::Model(name) => match models.iter().position(|m| m.name == *name) {
            Some(number) => (models[number].dir.clone(), Some(number)),
            None => (config.resolve(name), None),
        },
        _ => {
            let base = config.base_model.as_deref();
            let base = models
                .iter()
                .position(|model| Some(model.name.as_str()) == base);
            let base = base.unwrap_or(0);
            (models[base].dir.clone(), Some(base))
        }
    };
    let foreign_tokens;
    let first = match number {
        Some(number) => &known[number].known,
        None => {
            foreign_tokens = read(&source, None)?;
            &foreign_tokens
        }
    };
    let more = additions(settings, number, first, &known)?;
    if more.pieces > 0 {
        warnings.push(format!(
            "{} new tokens are ordinary pieces of another tokenizer: as added tokens they are \
             found before the tokenizer's own and change how text is split",
            Count(more.pieces as u64)
        ));
    }
    let limit = number.map(|number| known[number].rows);
    let Output {
        tokens,
        added,
        json,
    } = build(&source, limit, more.tokens)?;
    for (token, token_config) in &settings.tokens {
        let everywhere = known
            .iter()
            .all(|model| model.known.ids.contains_key(token));
        if everywhere && !token_config.force {
            warnings.push(format!(
                "`tokenizer.tokens.{token}` has no effect: every model has the token; add \
                 `force: true` to replace its rows"
            ));
        }
    }
    let foreign = number != Some(reference);
    if foreign && !source.join("config.json").is_file() {
        warnings.push(format!(
            "`{}` has no config.json: the output's has no ids of special tokens",
            source.display()
        ));
    }

    let last = tokens.last().map_or(0, |(id, _)| *id as usize + 1);
    // Holes between ids take rows; those of a merged model have bounds, those of a file have none.
    if last > 2 * tokens.len() + 65_536 {
        return Err(Error::file(
            &source.join("tokenizer.json"),
            format!("an id of {} for {} tokens", last - 1, tokens.len()),
        )
        .remedy("use a tokenizer whose tokens are numbered without large gaps"));
    }
    let rows = last.next_multiple_of(settings.pad_to_multiple_of.unwrap_or(1));
    let name = number.map_or_else(
        || source.display().to_string(),
        |n| known[n].name.to_owned(),
    );
    let new: usize = more.counts.iter().map(|(_, count)| count).sum();
    let first = format!("{} of `{name}`", Count((tokens.len() - new) as u64));
    let others = more.counts.iter();
    let others = others.map(|(name, count)| format!("{} more of {name}", Count(*count as u64)));
    let parts: Vec<String> = std::iter::once(first).chain(others).collect();
    let summary = vec![format!(
        "{} tokens in {} rows: {}",
        Count(tokens.len() as u64),
        Count(rows as u64),
        parts.join(", ")
    )];
    let files = Files {
        source,
        json,
        added,
        rows,
        foreign,
        summary,
    };
    let vocabulary = Vocabulary {
        configured: &settings.tokens,
        output: tokens,
        rows,
        models: known,
    };
    Ok(Some((vocabulary, files, warnings)))
}

/// Reads the tokens of all models, and says which have no row.
fn read_all(models: &[Model]) -> Result<(Vec<ModelTokens<'_>>, Vec<String>)> {
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
    ///
    /// # Errors
    ///
    /// A token whose source does not take part, or does not have it.
    pub fn place(&self, models: &[usize], base: Option<usize>) -> Result<Placement> {
        let model = |number: &usize| {
            let model = &self.models[*number];
            Tokens {
                name: model.name,
                ids: &model.known.ids,
                rows: model.rows,
            }
        };
        let tokens: Vec<Tokens<'_>> = models.iter().map(model).collect();
        let base = base.and_then(|base| models.iter().position(|model| *model == base));
        place(&self.output, self.rows, &tokens, base, self.configured)
    }
}

/// Where the rows of each model come from, one line for each.
pub(super) fn describe(placement: &Placement, names: &[&str]) -> Vec<String> {
    let line = |(at, rows): (usize, &Vec<Row>)| {
        let mut others = vec![0; names.len()];
        let (mut own, mut mean, mut zero, mut padding) = (0, 0, 0, 0);
        for row in rows {
            match row {
                Row::Own(_) => own += 1,
                Row::Padding => padding += 1,
                Row::Fill(fill) => match &placement.fills[*fill as usize] {
                    Fill::Zero => zero += 1,
                    Fill::One(model, _) => others[*model] += 1,
                    Fill::Mean(_) => mean += 1,
                },
            }
        }
        let others = names.iter().zip(&others);
        let others = others.map(|(name, count)| (*count, format!("of `{name}`")));
        let rest = [
            (mean, "the mean of several models".to_owned()),
            (zero, "zero".to_owned()),
            (padding, "without a token".to_owned()),
        ];
        let parts: Vec<String> = others
            .chain(rest)
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", Count(count as u64)))
            .collect();
        let own = format!("`{}`: {} of its own rows", names[at], Count(own as u64));
        std::iter::once(own)
            .chain(parts)
            .collect::<Vec<_>>()
            .join(", ")
    };
    placement.rows.iter().enumerate().map(line).collect()
}
