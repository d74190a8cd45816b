//! How a tokenizer is made from a model folder's files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::Model;

use super::first::MidText;
use super::listing::{self, Listed};
use super::literal::Literal;
use super::pieces::{Growth, Prefix, Scheme};
use super::tokenizer::gave_up;
use super::{Kind, Role, Tokenizer, Vocabulary, limits, merges, roles};
use crate::checkpoint::{TOKENIZER, companion_text, is_gguf};
use crate::contain::contained;
use crate::error::{Context, Error, Result};
use crate::text::{ChatTemplate, TokenFacts};

impl Tokenizer {
    /// Reads the tokenizer of a model: of a GGUF file its metadata, of a folder `tokenizer.json`, the files beside it that have special and added tokens
    /// (`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`), and the chat
    /// template of a model folder.
    ///
    /// # Errors
    /// A missing or damaged file, a vocabulary without tokens; files that contradict each other; a
    /// BOS or EOS that a file names and the tokenizer lacks.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = match is_gguf(dir) {
            true => dir.to_owned(),
            false => dir.join(TOKENIZER),
        };
        let text = companion_text(dir, TOKENIZER)?.ok_or_else(|| {
            Error::file(dir, "no `tokenizer.json` in this folder")
                .remedy("convert the model's tokenizer to a fast one (`AutoTokenizer.from_pretrained(..).save_pretrained(..)`)")
        })?;
        let mut spec: Value = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("no valid JSON: {error}")))?;
        merges::check(&path, &spec)?;
        // Dropout makes tokenisation random; it is of use to its trainers only.
        let dropout = spec
            .get_mut("model")
            .and_then(|model| model.get_mut("dropout"))
            .filter(|dropout| !dropout.is_null())
            .map(Value::take);
        let (facts, completed) = TokenFacts::complete(dir, &mut spec)?;
        let text = match completed || dropout.is_some() {
            true => spec.to_string(),
            false => text,
        };
        let template = ChatTemplate::load_with(dir, &facts)?;
        let roles = roles::read(&spec, &facts, template.as_ref());
        let tokenizer = Self::build(&path, (text, &spec), template, &roles)?;
        for (token, id) in facts.completed() {
            tokenizer.check_id(token, id)?;
        }
        Ok(tokenizer)
    }

    /// A tokenizer from a completed `tokenizer.json`, in which all special tokens are. `path` is
    /// for errors.
    ///
    /// # Errors
    /// No tokenizer, a vocabulary without tokens.
    pub fn from_spec(
        path: &Path,
        spec: &Value,
        template: Option<ChatTemplate>,
        roles: &HashMap<Role, u32>,
    ) -> Result<Self> {
        merges::check(path, spec)?;
        Self::build(path, (spec.to_string(), spec), template, roles)
    }

    /// A tokenizer from a text and what it says as JSON.
    fn build(
        path: &Path,
        (text, spec): (String, &Value),
        template: Option<ChatTemplate>,
        roles: &HashMap<Role, u32>,
    ) -> Result<Self> {
        limits::check(path, spec)?;
        let made = contained(|| Self::made(path, &text, spec, roles));
        let mut tokenizer = made.map_err(|said| gave_up(path, &said))??;
        tokenizer.spec = text.into();
        tokenizer.template = template;
        Ok(tokenizer)
    }

    fn made(path: &Path, text: &str, spec: &Value, roles: &HashMap<Role, u32>) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(text.as_bytes());
        let mut inner =
            inner.map_err(|error| Error::file(path, format!("no tokenizer: {error}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).at(path)?;
        let scheme = Scheme::of(spec);
        let listed = listing::vocabulary(spec, &inner, &scheme, roles);
        if listed.vocabulary.is_empty() {
            return Err(Error::file(path, "the vocabulary has no tokens"));
        }
        Self::assemble(path, inner, listed, scheme, spec)
    }

    fn assemble(
        path: &Path,
        inner: tokenizers::Tokenizer,
        listed: Listed,
        scheme: Scheme,
        spec: &Value,
    ) -> Result<Self> {
        let Listed {
            vocabulary,
            shares_ids,
        } = listed;
        let growth = Growth::of(spec, &|piece| {
            inner.get_model().token_to_id(piece).is_some()
        });

        let mut separates = vec![false; vocabulary.len()];
        let mut added_text = Vec::new();
        for (id, token) in inner.get_added_tokens_decoder() {
            if let Some(slot) = separates.get_mut(id as usize) {
                *slot = !token.normalized || inner.get_normalizer().is_none();
            }
            if !token.special && !token.content.is_empty() {
                added_text.push((token.content, id));
            }
        }
        added_text.sort_by_key(|(text, id)| (std::cmp::Reverse(text.len()), *id));

        let mut by_bytes: HashMap<Vec<u8>, u32> = HashMap::with_capacity(vocabulary.len());
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            if token.special || token.bytes.is_empty() || token.kind == Kind::Hole {
                continue;
            }
            by_bytes
                .entry(token.bytes.clone())
                .and_modify(|old| {
                    let older = vocabulary.tokens.get(*old as usize).map(|token| token.kind);
                    if older.is_some_and(|older| token.kind < older) {
                        *old = id;
                    }
                })
                .or_insert(id);
        }
        Ok(Self {
            path: path.to_owned(),
            spec: Arc::default(),
            literal: Literal::default(),
            template: None,
            opener: opener(&inner, &vocabulary, &scheme),
            unknown_piece: unknown_piece(spec, &inner),
            unknown: vocabulary.id_with_role(Role::Unk),
            inner,
            vocabulary,
            scheme,
            mid_text: MidText::of(spec).at(path)?,
            growth,
            shares_ids,
            separates,
            added_text,
            by_bytes,
        })
    }

    /// Checks that a token got the id that the files say.
    fn check_id(&self, token: &str, id: u32) -> Result<()> {
        let found = self.inner.token_to_id(token);
        if found == Some(id) {
            return Ok(());
        }
        let found = found.map_or("none".to_owned(), |id| id.to_string());
        Err(Error::file(
            &self.path,
            format!(
                "`{token}`, which a file beside it adds, would have the id {id}, and gets {found}"
            ),
        )
        .remedy("its ids have gaps; add the token to `added_tokens` there"))
    }
}

/// The id that the model gives to what it does not know.
fn unknown_piece(spec: &Value, inner: &tokenizers::Tokenizer) -> Option<u32> {
    let model = spec.get("model")?;
    let by_name = model.get("unk_token").and_then(Value::as_str);
    by_name
        .and_then(|name| inner.get_model().token_to_id(name))
        .or_else(|| u32::try_from(model.get("unk_id")?.as_u64()?).ok())
}

/// The spelling of the token that begins every sequence, where a text after it can have other
/// tokens than the text alone: a prefix at the start, blanks that the token takes.
fn opener(
    inner: &tokenizers::Tokenizer,
    vocabulary: &Vocabulary,
    scheme: &Scheme,
) -> Option<String> {
    let id = { vocabulary.id_with_role(Role::Bos) }.or(vocabulary.id_with_role(Role::Eos))?;
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let token = added.get(&id)?;
    (scheme.prefix == Prefix::First || token.rstrip).then(|| token.content.clone())
}
