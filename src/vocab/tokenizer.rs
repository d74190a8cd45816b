//! The tokenizer of a model folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{Decoder, Model};

use super::first::MidText;
use super::literal::Literal;
use super::normal::{self, Stretch};
use super::pieces::{self, Growth, Prefix, Scheme};
use super::trace::{Trace, Tracer};
use super::{Kind, Role, Vocabulary, merges, roles, spans};
use crate::error::{Context, Error, Result};
use crate::model::{check_tokens, tokenizer_dir};
use crate::text::{ChatTemplate, TokenFacts};

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
    path: PathBuf,
    /// The completed `tokenizer.json`.
    spec: Arc<str>,
    pub(super) inner: tokenizers::Tokenizer,
    vocabulary: Vocabulary,
    template: Option<ChatTemplate>,
    pub(super) scheme: Scheme,
    pub(super) mid_text: MidText,
    growth: Growth,
    /// Whether an id is an added token that is taken out of the text before normalisation.
    separates: Vec<bool>,
    /// The id for what is not known: the model's, or what the configuration names.
    pub(super) unknown: Option<u32>,
    /// The model's own.
    unknown_piece: Option<u32>,
    /// Added tokens that are not special, the longest first.
    pub(super) added_text: Vec<(String, u32)>,
    by_bytes: HashMap<Vec<u8>, u32>,
    /// How the token that begins every sequence is spelled, where a text after it can have other
    /// tokens than the text alone.
    opener: Option<String>,
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

    /// Reads `tokenizer.json`, the files beside it that have special and added tokens
    /// (`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`), and the chat
    /// template of a model folder.
    ///
    /// # Errors
    /// A missing or damaged file, a vocabulary without tokens; files that contradict each other; a
    /// BOS or EOS that a file names and the tokenizer lacks.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound && dir.is_dir() {
                Error::file(dir, "no `tokenizer.json` in this folder")
                    .remedy("convert the model's tokenizer to a fast one (`AutoTokenizer.from_pretrained(..).save_pretrained(..)`)")
            } else {
                Error::io(&path, source)
            }
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
        let inner = tokenizers::Tokenizer::from_bytes(text.as_bytes());
        let mut inner =
            inner.map_err(|error| Error::file(path, format!("no tokenizer: {error}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).at(path)?;
        let scheme = Scheme::of(spec);
        let vocabulary = pieces::vocabulary(spec, &inner, &scheme, roles);
        if vocabulary.is_empty() {
            return Err(Error::file(path, "the vocabulary has no tokens"));
        }
        let mut tokenizer = Self::assemble(path, inner, vocabulary, scheme, spec)?;
        tokenizer.spec = text.into();
        tokenizer.template = template;
        Ok(tokenizer)
    }

    fn assemble(
        path: &Path,
        inner: tokenizers::Tokenizer,
        vocabulary: Vocabulary,
        scheme: Scheme,
        spec: &Value,
    ) -> Result<Self> {
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
            separates,
            added_text,
            by_bytes,
        })
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
        decoder.decode(tokens).unwrap_or_else(|_| {
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| self.vocabulary.bytes(*id).iter().copied())
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
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
