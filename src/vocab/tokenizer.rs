//! The tokenizer of a model folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::{Decoder, Model};

use super::first::MidText;
use super::gguf::check_tokens;
use super::literal::Literal;
use super::normal::{self, Stretch};
use super::pieces::{Growth, Scheme};
use super::trace::{Trace, Tracer};
use super::{Kind, Role, Vocabulary, spans};
use crate::checkpoint::tokenizer_dir;
use crate::contain::contained;
use crate::error::{Context, Error, Result};
use crate::text::ChatTemplate;

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens, without any that are added around a text (no BOS).
    pub ids: Vec<u32>,
    /// The byte of the text at which each token ends: never decreasing, the last is the text's
    /// length. A token of zero width stands for nothing in the text (an added prefix), or for a
    /// part of what the normaliser changed, which a later token completes.
    pub byte_end: Vec<u32>,
}

/// A tokenizer with the bytes of its tokens.
///
/// Memory: the tokenizer's own tables, one [`super::Token`] for each id, and the text of
/// `tokenizer.json`.
pub struct Tokenizer {
    /// Its `tokenizer.json`, for errors.
    pub(super) path: PathBuf,
    /// The completed `tokenizer.json`.
    pub(super) spec: Arc<str>,
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) vocabulary: Vocabulary,
    pub(super) template: Option<ChatTemplate>,
    pub(super) scheme: Scheme,
    pub(super) mid_text: MidText,
    pub(super) growth: Growth,
    /// Whether pieces of the model share an id.
    pub(super) shares_ids: bool,
    /// Whether an id is an added token that is taken out of the text before normalisation.
    pub(super) separates: Vec<bool>,
    /// The id for what is not known: the model's, or what the configuration names.
    pub(super) unknown: Option<u32>,
    /// The model's own.
    pub(super) unknown_piece: Option<u32>,
    /// Added tokens that are not special, the longest first.
    pub(super) added_text: Vec<(String, u32)>,
    pub(super) by_bytes: HashMap<Vec<u8>, u32>,
    /// How the token that begins every sequence is spelled, where a text after it can have other
    /// tokens than the text alone.
    pub(super) opener: Option<String>,
    pub(super) literal: Literal,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.vocabulary.len())
            .field("digest", &self.vocabulary.digest)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a model: of a model folder, or beside a GGUF file.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`]; tokens that are not those of the GGUF file.
    pub fn of_model(model: &Path) -> Result<Self> {
        let tokenizer = Self::load(&tokenizer_dir(model, None)?)?;
        check_tokens(model, &tokenizer.vocabulary)?;
        Ok(tokenizer)
    }

    /// Its `tokenizer.json`, for errors.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The tokens, their bytes and roles.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The completed `tokenizer.json`: with the tokens that the files beside it add.
    pub fn spec(&self) -> &Arc<str> {
        &self.spec
    }

    /// The model folder's chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The ordinary token with exactly these bytes: a piece before an added token, a
    /// byte-fallback token last; never a special token.
    pub fn id_with_bytes(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.get(bytes).copied()
    }

    /// The token that begins every sequence: BOS, or EOS where there is none.
    ///
    /// # Errors
    /// The tokenizer has neither.
    pub fn first_id(&self) -> Result<u32> {
        self.vocabulary
            .id_with_role(Role::Bos)
            .or_else(|| self.vocabulary.id_with_role(Role::Eos))
            .ok_or_else(|| {
                Error::input("tokenizer", "it has neither a BOS nor an EOS token")
                    .remedy("name one as `bos_token` or `eos_token` in `tokenizer_config.json`")
            })
    }

    /// Tokenises a text, without adding special tokens around it. Special tokens that the text
    /// spells out become those tokens.
    ///
    /// # Errors
    /// A text of 4 GiB or more; a failure of the tokenizer; a tokenizer that does not tell which
    /// bytes of the text its tokens stand for; the user's wish to stop.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::input("text", "4 GiB or more in one sample")
                .remedy("split it into several samples"));
        }
        contained(|| self.encode_whole(text)).map_err(|said| gave_up(&self.path, &said))?
    }

    fn encode_whole(&self, text: &str) -> Result<Encoded> {
        let ids = self
            .inner
            .encode_fast(text, false)
            .during(|| "tokenising a text".to_owned())?
            .get_ids()
            .to_vec();
        let byte_end = match spans::walk(text, &self.pieces(&ids), self.scheme.prefix) {
            Some(ends) => ends,
            None => self.ends_by_steps(text, &ids)?,
        };
        Ok(Encoded { ids, byte_end })
    }

    /// Tokenises a text as it stands after the token that begins every sequence
    /// ([`Tokenizer::first_id`]), which is no part of the result: a prefix that is added at the
    /// start of a text only is not added, and blanks that this token takes to itself belong to
    /// the next one.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_after_bos(&self, text: &str) -> Result<Encoded> {
        let Some(opener) = &self.opener else {
            return self.encode(text);
        };
        let whole = self.encode(&format!("{opener}{text}"))?;
        // With what follows, its spelling can be that of another token.
        let [first, ids @ ..] = whole.ids.as_slice() else {
            return self.encode(text);
        };
        if *first != self.first_id()? {
            return self.encode(text);
        }
        let ends = whole.byte_end.iter().skip(1);
        Ok(Encoded {
            ids: ids.to_vec(),
            byte_end: ends
                .map(|end| end.saturating_sub(opener.len() as u32))
                .collect(),
        })
    }

    fn pieces<'a>(&'a self, ids: &[u32]) -> Vec<spans::Piece<'a>> {
        ids.iter()
            .map(|id| spans::Piece {
                bytes: self.vocabulary.bytes(*id),
                separates: self.separates.get(*id as usize) == Some(&true),
            })
            .collect()
    }

    /// Whether a text has no more tokens than bytes, an added prefix aside.
    pub(super) fn has_bytes_for_all(&self, text: &str) -> bool {
        match self.growth {
            Growth::None => true,
            Growth::BeyondAscii => text.is_ascii(),
            Growth::Any => false,
        }
    }

    /// The ends of tokens whose bytes are not simply the text.
    fn ends_by_steps(&self, text: &str, ids: &[u32]) -> Result<Vec<u32>> {
        let tracer = Tracer {
            path: &self.path,
            inner: &self.inner,
            vocabulary: &self.vocabulary,
            scheme: &self.scheme,
            separates: &self.separates,
            unknown: self.unknown_piece,
            shares_ids: self.shares_ids,
        };
        let trace = tracer.trace(text)?;
        if !trace
            .tokens
            .iter()
            .map(|token| token.id)
            .eq(ids.iter().copied())
        {
            return Err(self.not_local("pre-tokenizer"));
        }
        let stretches = self.stretches(text, &trace)?;
        Ok(spans::ends(text.len(), &trace.tokens, &stretches))
    }

    /// The stretches of a text with their normal forms.
    fn stretches(&self, text: &str, trace: &Trace) -> Result<Vec<Stretch>> {
        let blank = |char: char| char.is_whitespace() || self.scheme.is_space(char);
        let mut all = Vec::new();
        for fragment in &trace.fragments {
            let part = text.get(fragment.text.clone()).unwrap_or_default();
            let made = trace
                .normal
                .get(fragment.normal.clone())
                .unwrap_or_default();
            if fragment.added || part == made {
                let whole = Stretch {
                    text_end: fragment.text.end,
                    normal_end: fragment.normal.end,
                    same: part == made,
                };
                normal::push(&mut all, whole);
                continue;
            }
            let normalize = |part: &str| self.mid_text.normalize(part);
            let found = normal::fragment(part, made, &normalize, &blank)?
                .ok_or_else(|| self.not_local("normaliser"))?;
            for stretch in found {
                let moved = Stretch {
                    text_end: stretch.text_end + fragment.text.start,
                    normal_end: stretch.normal_end + fragment.normal.start,
                    same: stretch.same,
                };
                normal::push(&mut all, moved);
            }
        }
        Ok(all)
    }

    fn not_local(&self, step: &str) -> Error {
        let problem = format!(
            "its {step} does not say which bytes of a text a token stands for: it makes something \
             else of a part of the text than of all of it"
        );
        Error::file(&self.path, problem)
            .remedy("leave this model out, or convert its tokenizer to one without such a step")
    }

    /// The text of `ids`, special tokens left out; broken UTF-8 is replaced.
    pub fn decode(&self, ids: &[u32]) -> String {
        let added = self.inner.get_added_vocabulary();
        let model = self.inner.get_model();
        // The library's own way, but that of several pieces with one id it takes any.
        let spelling = |id: &u32| {
            added
                .simple_id_to_token(*id)
                .or_else(|| Some(self.vocabulary.token(*id)?.display.clone()))
                .or_else(|| model.id_to_token(*id))
                .filter(|token| !added.is_special_token(token))
        };
        let tokens: Vec<String> = ids.iter().filter_map(spelling).collect();
        let Some(decoder) = self.inner.get_decoder() else {
            return tokens.join(" ");
        };
        let decoded = contained(|| decoder.decode(tokens).ok());
        decoded.ok().flatten().unwrap_or_else(|| {
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| self.vocabulary.bytes(*id).iter().copied())
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    /// Checks that a model has a row for each token.
    ///
    /// # Errors
    /// An id at or beyond `rows` (the model's `vocab_size`).
    pub fn fits(&self, name: &str, rows: usize) -> Result<()> {
        let Some(beyond) = self.vocabulary.tokens.get(rows..).and_then(|tokens| {
            (rows..)
                .zip(tokens)
                .find(|(_, token)| token.kind != Kind::Hole)
        }) else {
            return Ok(());
        };
        Err(Error::input(
            format!("model `{name}`"),
            format!(
                "its tokenizer has ids up to {}, the model has {rows} rows (the first id without one is {}, `{}`)",
                self.vocabulary.len().saturating_sub(1),
                beyond.0,
                beyond.1.display
            ),
        )
        .remedy("use the tokenizer that belongs to the model, or resize the model's embeddings"))
    }
}

/// The error of a tokenizer on which the library panicked, and said this.
pub(super) fn gave_up(path: &Path, said: &str) -> Error {
    Error::file(path, format!("the tokenizer's library gave up: {said}"))
        .remedy("get the model's own tokenizer again; its regular expressions and tables must suit any text")
}
