//! `tokenizer_source` and `tokenizer` of a merge configuration.

use serde_json::{Map, Value};

use super::json::{flag, given, known, object, whole};
use super::reader::Reader;
use crate::error::{Error, Result};

/// Whose tokens the output has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The base model's (the first model's without one).
    Base,
    /// The base model's, then those of the other models that it lacks.
    Union,
    /// Those of a model folder, as written.
    Model(String),
}

/// Where the embedding of a token comes from in models that lack it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The same token of this model.
    Model(String),
    /// Another token of a model.
    Token {
        /// The model as written.
        model: String,
        /// The token's text in its vocabulary.
        token: String,
    },
    /// A row of a model's embedding.
    Row {
        /// The model as written.
        model: String,
        /// The row.
        id: usize,
    },
    /// Zeros.
    Zero,
}

/// What is configured for one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// Where its embedding comes from; the default rule where absent.
    pub source: Option<TokenSource>,
    /// Whether models that have the token get this embedding, too.
    pub force: bool,
}

/// The vocabulary of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Whose tokens it has.
    pub source: TokenizerSource,
    /// Tokens with rules of their own, in the order given; those that the vocabulary lacks are
    /// added to it.
    pub tokens: Vec<(String, TokenConfig)>,
    /// Rows of embeddings are a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_source` or `tokenizer`; none where neither is given.
    ///
    /// # Errors
    ///
    /// Both keys, unknown keys, values of the wrong kind.
    pub(super) fn read(map: &Map<String, Value>, reader: &mut Reader) -> Result<Option<Self>> {
        match (given(map, "tokenizer_source"), given(map, "tokenizer")) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Error::usage(
                "`tokenizer_source` and `tokenizer` exclude each other",
            )),
            (Some(value), None) => Ok(Some(Self {
                source: source(value, "tokenizer_source", reader)?,
                tokens: Vec::new(),
                pad_to_multiple_of: None,
            })),
            (None, Some(value)) => {
                Self::from_mapping(object(value, "`tokenizer`")?, reader).map(Some)
            }
        }
    }

    fn from_mapping(map: &Map<String, Value>, reader: &mut Reader) -> Result<Self> {
        known(
            map,
            &["source", "tokens", "pad_to_multiple_of"],
            "`tokenizer`",
        )?;
        let tokens = match given(map, "tokens") {
            None => Vec::new(),
            Some(tokens) => object(tokens, "`tokenizer.tokens`")?
                .iter()
                .map(|(text, value)| Ok((text.clone(), token(text, value, reader)?)))
                .collect::<Result<_>>()?,
        };
        let multiple = given(map, "pad_to_multiple_of").map(|value| {
            let number = whole(value).filter(|n| (1..=1 << 20).contains(n));
            number.map(|n| n as usize).ok_or_else(|| {
                Error::usage(format!(
                    "`tokenizer.pad_to_multiple_of`: expected a whole number from 1 to 1,048,576, \
                     found {value}"
                ))
            })
        });
        Ok(Self {
            source: match given(map, "source") {
                // As mergekit has it.
                None => TokenizerSource::Union,
                Some(value) => source(value, "tokenizer.source", reader)?,
            },
            tokens,
            pad_to_multiple_of: multiple.transpose()?,
        })
    }
}

fn source(value: &Value, key: &str, reader: &mut Reader) -> Result<TokenizerSource> {
    Ok(match reader.model(value, key)?.as_str() {
        "base" => TokenizerSource::Base,
        "union" => TokenizerSource::Union,
        model => TokenizerSource::Model(model.to_owned()),
    })
}

fn token(text: &str, value: &Value, reader: &mut Reader) -> Result<TokenConfig> {
    let place = format!("`tokenizer.tokens.{text}`");
    if text.is_empty() {
        return Err(Error::usage("`tokenizer.tokens` has an empty token"));
    }
    let map = object(value, &place)?;
    known(map, &["source", "force"], &place)?;
    let force = match given(map, "force") {
        None => false,
        Some(value) => flag(value).ok_or_else(|| {
            Error::usage(format!(
                "{place}: expected true or false for `force`, found {value}"
            ))
        })?,
    };
    let source = match given(map, "source") {
        None => None,
        Some(Value::Object(map)) if !map.contains_key("model") || map.contains_key("kind") => {
            Some(embedding(map, &place, reader)?)
        }
        Some(model) => {
            let model = reader.model(model, &format!("source` of {place}"))?;
            Some(TokenSource::Model(model))
        }
    };
    Ok(TokenConfig { source, force })
}

fn embedding(map: &Map<String, Value>, place: &str, reader: &mut Reader) -> Result<TokenSource> {
    let place = format!("`source` of {place}");
    let kind = map.get("kind").and_then(Value::as_str);
    match kind {
        Some("zero") => {
            known(map, &["kind"], &place)?;
            Ok(TokenSource::Zero)
        }
        Some("model_token") => {
            known(map, &["kind", "model", "token", "token_id"], &place)?;
            let model = given(map, "model")
                .ok_or_else(|| Error::usage(format!("{place} lacks `model`")))?;
            let model = reader.model(model, "model")?;
            match (given(map, "token"), given(map, "token_id")) {
                (Some(Value::String(token)), None) => Ok(TokenSource::Token {
                    model,
                    token: token.clone(),
                }),
                (None, Some(id)) => match whole(id).filter(|id| *id < 1 << 32) {
                    Some(id) => Ok(TokenSource::Row {
                        model,
                        id: id as usize,
                    }),
                    None => Err(Error::usage(format!(
                        "{place}: expected a token's id for `token_id`, found {id}"
                    ))),
                },
                _ => Err(Error::usage(format!(
                    "{place}: expected either `token`, a token's text, or `token_id`"
                ))),
            }
        }
        _ => Err(Error::usage(format!(
            "{place}: expected a model, or `kind: model_token` or `kind: zero`, found {}",
            Value::Object(map.clone())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::merge::methods::METHODS;

    fn read(yaml: &str) -> Result<Option<TokenizerConfig>> {
        let value: Value = serde_saphyr::from_str(yaml).unwrap();
        let mut reader = Reader::new(&METHODS[0], Path::new(""));
        TokenizerConfig::read(value.as_object().unwrap(), &mut reader)
    }

    #[test]
    fn both_spellings_are_read() {
        assert_eq!(read("dtype: float32").unwrap(), None);
        assert_eq!(read("tokenizer_source: null").unwrap(), None);
        let short = |source: TokenizerSource| {
            Some(TokenizerConfig {
                source,
                tokens: vec![],
                pad_to_multiple_of: None,
            })
        };
        let read_ok = |yaml: &str| read(yaml).unwrap();
        assert_eq!(
            read_ok("tokenizer_source: base"),
            short(TokenizerSource::Base)
        );
        assert_eq!(read_ok("tokenizer: {}"), short(TokenizerSource::Union));
        assert_eq!(
            read_ok("tokenizer: {source: a/b}"),
            short(TokenizerSource::Model("a/b".into()))
        );
        let all = read_ok(
            "tokenizer:\n  source: union\n  pad_to_multiple_of: 64\n  tokens:\n    <|im_start|>: {source: m, force: true}\n    a: {source: {kind: zero}}\n    b: {source: {kind: model_token, model: m, token: x}}\n    c: {source: {kind: model_token, model: m, token_id: 7}}\n    d: {}\n",
        )
        .unwrap();
        assert_eq!(all.pad_to_multiple_of, Some(64));
        let model = || "m".to_owned();
        let expected = [
            ("<|im_start|>", Some(TokenSource::Model(model())), true),
            ("a", Some(TokenSource::Zero), false),
            (
                "b",
                Some(TokenSource::Token {
                    model: model(),
                    token: "x".into(),
                }),
                false,
            ),
            (
                "c",
                Some(TokenSource::Row {
                    model: model(),
                    id: 7,
                }),
                false,
            ),
            ("d", None, false),
        ];
        for ((text, found), (name, source, force)) in all.tokens.iter().zip(expected) {
            assert_eq!(
                (text.as_str(), found),
                (name, &TokenConfig { source, force })
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (yaml, part) in [
            (
                "tokenizer_source: base\ntokenizer: {source: base}",
                "exclude each other",
            ),
            ("tokenizer_source: [a]", "expected text"),
            ("tokenizer: union", "expected a mapping"),
            ("tokenizer: {sources: base}", "did you mean `source`?"),
            ("tokenizer: {pad_to_multiple_of: 0}", "from 1 to"),
            ("tokenizer: {pad_to_multiple_of: 1.5}", "from 1 to"),
            ("tokenizer: {tokens: [a]}", "expected a mapping"),
            ("tokenizer: {tokens: {a: m}}", "`tokenizer.tokens.a`"),
            ("tokenizer: {tokens: {'': {}}}", "empty token"),
            (
                "tokenizer: {tokens: {a: {forced: true}}}",
                "did you mean `force`?",
            ),
            ("tokenizer: {tokens: {a: {force: 2}}}", "true or false"),
            ("tokenizer: {tokens: {a: {source: 3}}}", "expected text"),
            (
                "tokenizer: {tokens: {a: {source: {kind: one}}}}",
                "`kind: zero`",
            ),
            (
                "tokenizer: {tokens: {a: {source: {kind: model_token, token: b}}}}",
                "lacks `model`",
            ),
            (
                "tokenizer: {tokens: {a: {source: {kind: model_token, model: m}}}}",
                "either `token`",
            ),
            (
                "tokenizer: {tokens: {a: {source: {kind: model_token, model: m, token: b, token_id: 1}}}}",
                "either `token`",
            ),
            (
                "tokenizer: {tokens: {a: {source: {kind: model_token, model: m, token_id: -1}}}}",
                "a token's id",
            ),
        ] {
            let error = read(yaml).unwrap_err().to_string();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }
}
