//! The tokenizer in a GGUF file, as the files that a model folder has in its place.
//!
//! llama.cpp keeps the pieces with their kinds, and either merges (`gpt2`: byte-level) or scores
//! (`llama`: SentencePiece). What it does not keep is how words are divided: [`words`] knows that by
//! name. From scores merges are made in the order in which SentencePiece prefers the pieces.

mod words;

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use self::words::Words;
use super::Gguf;
use super::header::{self, Value};
use crate::error::{Error, Result};

/// What a tokenizer that cannot be made is to be replaced by.
const REMEDY: &str = "put the `tokenizer.json` of the model that the file was made from beside it, or name \
                      its folder (in a recipe, as `tokenizer`)";

/// Kinds of tokens (`tokenizer.ggml.token_type`).
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;
/// Ours: a run of blanks that a user defined.
const BLANKS: i32 = -1;

/// SentencePiece's mark of a blank.
const BLANK: &str = "\u{2581}";

/// Tokens that have names in `tokenizer_config.json`, and how the file calls their ids.
const NAMED: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// Tokens that end a text besides EOS.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The pieces of a tokenizer, by id.
struct Pieces<'a> {
    texts: Vec<Cow<'a, str>>,
    kinds: Vec<i32>,
}

impl Pieces<'_> {
    fn get(&self, id: u64) -> Option<&str> {
        let text = self.texts.get(usize::try_from(id).ok()?)?;
        Some(text.as_ref())
    }

    /// Lets runs of blanks that stand among the tokens a user defined (Gemma's) be made by merging
    /// SentencePiece's marks, as in the model's own `tokenizer.json`: marks in a text count as blanks.
    fn escape_blanks(&mut self) {
        for (text, kind) in self.texts.iter_mut().zip(&mut self.kinds) {
            if *kind == USER_DEFINED && text.bytes().all(|byte| byte == b' ') {
                (*text, *kind) = (BLANK.repeat(text.len()).into(), BLANKS);
            }
        }
    }

    /// The `vocab` of a `tokenizer.json`; of pieces that stand twice the last one counts.
    fn vocabulary(&self) -> Map<String, Json> {
        let ids = (0u64..).zip(&self.texts);
        ids.map(|(id, text)| (text.to_string(), json!(id)))
            .collect()
    }

    /// The `added_tokens` of a `tokenizer.json`: what is found in a text before anything else.
    fn added(&self, strips: bool) -> Vec<Json> {
        let pieces = (0u64..).zip(self.texts.iter().zip(&self.kinds));
        let added =
            pieces.filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
        added
            .map(|(id, (text, kind))| {
                let rstrip = strips && *kind == CONTROL && !matches!(text.as_ref(), "<s>" | "<|endoftext|>");
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": rstrip,
                    "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect()
    }
}

impl Gguf {
    /// The `tokenizer.json` that the file stands for.
    ///
    /// # Errors
    /// No tokenizer, one of a kind or with words that are not known, lists that do not fit each
    /// other.
    pub fn tokenizer(&self) -> Result<Json> {
        let metadata = self.metadata();
        let mut pieces = self.pieces()?;
        let kind = metadata.text("tokenizer.ggml.model")?;
        if kind == Some("llama") && !self.adds_blank()? {
            pieces.escape_blanks();
        }
        let (normalizer, pre_tokenizer, decoder, model) = match kind {
            Some("gpt2") => self.byte_level(&pieces)?,
            Some("llama") => self.sentence_piece(&pieces)?,
            _ => {
                let expected = "`gpt2` or `llama` (byte-level BPE or SentencePiece)";
                let wrong = metadata.wrong("tokenizer.ggml.model", expected);
                return Err(wrong.remedy(REMEDY));
            }
        };
        // Blanks after them belong to them (microsoft/Phi-3, whose file of llama.cpp lost that).
        let strips = self.family() == "phi3" && kind == Some("llama");
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": pieces.added(strips),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.borders(&pieces)?,
            "decoder": decoder,
            "model": model,
        }))
    }

    /// The `tokenizer_config.json` that the file stands for.
    ///
    /// # Errors
    /// No list of tokens, an id without a token.
    pub fn tokenizer_config(&self) -> Result<Json> {
        let pieces = self.pieces()?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "add_bos_token": self.adds("bos")?,
            "add_eos_token": self.adds("eos")?,
        });
        for (name, key) in NAMED {
            if let Some(id) = self.special(key)? {
                let piece = pieces.get(id).ok_or_else(|| {
                    self.wrong(key, &format!("an id below {}", pieces.texts.len()))
                })?;
                config[name] = piece.into();
            }
        }
        if let Some(context) = self
            .metadata()
            .size(&format!("{}.context_length", self.family()))?
        {
            config["model_max_length"] = context.into();
        }
        Ok(config)
    }

    /// The `generation_config.json` that the file stands for.
    ///
    /// # Errors
    /// An id that is no number.
    pub fn generation_config(&self) -> Result<Json> {
        let metadata = self.metadata();
        let mut ends = Vec::new();
        ends.extend(self.special("tokenizer.ggml.eos_token_id")?);
        for key in ENDS {
            ends.extend(metadata.size(key)?);
        }
        ends.dedup();
        let mut config = json!({ "eos_token_id": ends });
        if let Some(bos) = self.special("tokenizer.ggml.bos_token_id")? {
            config["bos_token_id"] = bos.into();
        }
        Ok(config)
    }

    /// The chat template, or the one for a purpose (`tool_use`).
    ///
    /// # Errors
    /// It is no text.
    pub fn chat_template(&self, purpose: Option<&str>) -> Result<Option<String>> {
        let key = match purpose {
            Some(purpose) => format!("tokenizer.chat_template.{purpose}"),
            None => "tokenizer.chat_template".to_owned(),
        };
        Ok(self.metadata().text(&key)?.map(str::to_owned))
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        self.metadata().wrong(key, expected)
    }

    /// The id of a special token; those that SentencePiece gives where the file is silent.
    fn special(&self, key: &str) -> Result<Option<u64>> {
        let metadata = self.metadata();
        if let Some(id) = metadata.size(key)? {
            return Ok(Some(id));
        }
        let default = match key {
            "tokenizer.ggml.unknown_token_id" => 0,
            "tokenizer.ggml.bos_token_id" => 1,
            "tokenizer.ggml.eos_token_id" => 2,
            _ => return Ok(None),
        };
        let is_sentence_piece = metadata.text("tokenizer.ggml.model")? == Some("llama");
        Ok(is_sentence_piece.then_some(default))
    }

    /// Whether texts get a BOS or EOS (`which`).
    fn adds(&self, which: &str) -> Result<bool> {
        let metadata = self.metadata();
        if let Some(adds) = metadata.flag(&format!("tokenizer.ggml.add_{which}_token"))? {
            return Ok(adds);
        }
        Ok(which == "bos"
            && match metadata.text("tokenizer.ggml.pre")?.and_then(Words::named) {
                Some(words) => words.add_bos,
                None => metadata.text("tokenizer.ggml.model")? == Some("llama"),
            })
    }

    /// Whether texts of SentencePiece get a blank before them.
    fn adds_blank(&self) -> Result<bool> {
        let stated = self.metadata().flag("tokenizer.ggml.add_space_prefix")?;
        Ok(stated.unwrap_or(true))
    }

    fn pieces(&self) -> Result<Pieces<'_>> {
        let key = "tokenizer.ggml.tokens";
        let (count, listed) = self.tokens()?.ok_or_else(|| {
            let problem = format!("has no tokenizer (metadata `{key}`)");
            Error::file(self.path(), problem).remedy(REMEDY)
        })?;
        let texts = listed.map(|text| std::str::from_utf8(text).ok().map(Cow::from));
        let texts: Option<Vec<Cow<'_, str>>> = texts.collect();
        let texts = texts.ok_or_else(|| {
            Error::file(self.path(), format!("metadata `{key}`: a token is no text"))
        })?;
        let kinds: Vec<i32> = match self.numbers("tokenizer.ggml.token_type", count)? {
            Some(kinds) => kinds.map(i32::from_le_bytes).collect(),
            None => vec![NORMAL; texts.len()],
        };
        Ok(Pieces { texts, kinds })
    }

    /// A list of 4-byte numbers, one for each of `count` tokens.
    fn numbers(&self, key: &str, count: u64) -> Result<Option<impl Iterator<Item = [u8; 4]>>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            // Unsigned, signed and floating numbers of 4 bytes.
            Some(Value::Array {
                kind: 4..=6,
                count: found,
                begin,
            }) if *found == count => Ok(Some(header::quads(&self.files[0].map, *begin, count))),
            Some(_) => Err(self.wrong(key, &format!("a list of {count} numbers"))),
        }
    }

    /// Normaliser, pre-tokenizer, decoder and model of a byte-level tokenizer.
    fn byte_level(&self, pieces: &Pieces<'_>) -> Result<(Json, Json, Json, Json)> {
        let key = "tokenizer.ggml.pre";
        let pre = self.metadata().text(key)?;
        let words = pre.and_then(Words::named).ok_or_else(|| {
            let expected = format!(
                "the name of a known way to divide words ({})",
                Words::known()
            );
            self.wrong(key, &expected).remedy(REMEDY)
        })?;
        let merges = match self.header.metadata.get("tokenizer.ggml.merges") {
            Some(Value::Array {
                kind: 8,
                count,
                begin,
            }) => header::texts(&self.files[0].map, *begin, *count),
            _ => return Err(self.wrong("tokenizer.ggml.merges", "a list of texts")),
        };
        let merges: Vec<Json> = merges
            .map(|merge| String::from_utf8_lossy(merge).into())
            .collect();
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": words.ignore_merges,
            "vocab": pieces.vocabulary(),
            "merges": merges,
        });
        let decoder = json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        });
        Ok((words.normalizer(), words.pre_tokenizer(), decoder, model))
    }

    /// The same of SentencePiece's, as transformers converts them.
    fn sentence_piece(&self, pieces: &Pieces<'_>) -> Result<(Json, Json, Json, Json)> {
        let metadata = self.metadata();
        let extra = "tokenizer.ggml.remove_extra_whitespaces";
        if metadata.flag(extra)? == Some(true) {
            return Err(self.wrong(extra, "`false`").remedy(REMEDY));
        }
        let key = "tokenizer.ggml.scores";
        let scores = self.numbers(key, pieces.texts.len() as u64)?;
        let scores = scores.ok_or_else(|| self.wrong(key, "a list of numbers").remedy(REMEDY))?;
        let scores: Vec<f32> = scores.map(f32::from_le_bytes).collect();
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            let problem = format!("metadata `{key}`: the score of token {id} is not a number");
            return Err(Error::file(self.path(), problem));
        }
        let prefix = self.adds_blank()?;
        let blank = json!({ "type": "Replace", "pattern": { "String": " " }, "content": BLANK });
        let normalizer = match prefix {
            true => json!({
                "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": BLANK }, blank],
            }),
            false => blank,
        };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": BLANK }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = self.special("tokenizer.ggml.unknown_token_id")?;
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.and_then(|id| pieces.get(id)),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": pieces.kinds.contains(&BYTE),
            "ignore_merges": false,
            "vocab": pieces.vocabulary(),
            "merges": merges(pieces, &scores),
        });
        Ok((
            normalizer,
            Json::Null,
            json!({ "type": "Sequence", "decoders": decoders }),
            model,
        ))
    }

    /// The `post_processor`: what stands before and after every text.
    fn borders(&self, pieces: &Pieces<'_>) -> Result<Json> {
        let border = |which: &str| -> Result<Option<(u64, &str)>> {
            let id = match self.adds(which)? {
                true => self.special(&format!("tokenizer.ggml.{which}_token_id"))?,
                false => None,
            };
            Ok(id.and_then(|id| Some((id, pieces.get(id)?))))
        };
        let (first, last) = (border("bos")?, border("eos")?);
        let template = |sequence: &str, kind: u8| -> Vec<Json> {
            let special = |border: Option<(u64, &str)>| {
                border.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": kind } }))
            };
            let text = json!({ "Sequence": { "id": sequence, "type_id": kind } });
            special(first)
                .into_iter()
                .chain([text])
                .chain(special(last))
                .collect()
        };
        let tokens: Map<String, Json> = [first, last]
            .into_iter()
            .flatten()
            .map(|(id, text)| {
                (
                    text.to_owned(),
                    json!({ "id": text, "ids": [id], "tokens": [text] }),
                )
            })
            .collect();
        let pair: Vec<Json> = template("A", 0)
            .into_iter()
            .chain(template("B", 1))
            .collect();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": template("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}

/// The merges that make the pieces in the order of their scores: SentencePiece joins the two
/// neighbours that make the best piece, whatever they are.
fn merges(pieces: &Pieces<'_>, scores: &[f32]) -> Vec<Json> {
    let made = |id: &usize| matches!(pieces.kinds.get(*id), Some(&(NORMAL | BLANKS)));
    let known: HashMap<&str, usize> = (0..pieces.texts.len())
        .filter(made)
        .map(|id| (pieces.texts[id].as_ref(), id))
        .collect();
    let mut order: Vec<usize> = (0..pieces.texts.len()).filter(made).collect();
    order.sort_by(|a, b| {
        // Whatever their scores, what a user defined comes first.
        let others = |id: &usize| pieces.kinds[*id] != BLANKS;
        others(a)
            .cmp(&others(b))
            .then(scores[*b].total_cmp(&scores[*a]))
    });
    let mut merges = Vec::new();
    for id in order {
        let text = pieces.texts[id].as_ref();
        // The longer left part first, as transformers does.
        for (at, _) in text
            .char_indices()
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let (left, right) = text.split_at(at);
            if known.contains_key(left) && known.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    merges
}
