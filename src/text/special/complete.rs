//! Completes a `tokenizer.json` with the tokens that other files add.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenFacts;
use super::declared::{ADDED, CONFIG, DECODER, Declared, Named};
use crate::error::{Error, Result};

/// Spellings of tokens that fill up a batch, which never stand in a text.
const PADS: [&str; 4] = ["<pad>", "[PAD]", "<|pad|>", "<|padding|>"];

impl TokenFacts {
    /// Adds what is declared to `spec`; whether that changed it.
    pub(super) fn add(
        &mut self,
        dir: &Path,
        declared: &Declared,
        spec: &mut Value,
    ) -> Result<bool> {
        let list = match spec.get_mut("added_tokens").map(Value::take) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list,
            // The library says what is wrong with it.
            Some(other) => {
                spec["added_tokens"] = other;
                return Ok(false);
            }
        };
        let normalizer = spec.get("normalizer").unwrap_or(&Value::Null);
        let mut added = Added {
            dir,
            file: match declared.overrides {
                true => CONFIG,
                false => ADDED,
            },
            raw: adds_prefix(normalizer),
            pieces: Pieces::of(spec.get("model").unwrap_or(&Value::Null)),
            ids: HashMap::with_capacity(list.len()),
            places: HashMap::with_capacity(list.len()),
            next: 0,
            list,
            new: Vec::new(),
            changed: false,
        };
        added.next = added.pieces.count;
        added.known();
        added.given(declared)?;
        added.named(declared)?;
        added.without_rows(declared.rows);
        let Added {
            ids,
            list,
            new,
            changed,
            pieces,
            ..
        } = added;

        let exists = |named: &&Named| {
            let text = &named.token.content;
            ids.contains_key(text) || pieces.id(text).is_some() || named.file.is_some()
        };
        self.named = { declared.named.iter().filter(exists) }
            .map(|named| (named.key.clone(), named.token.content.clone()))
            .collect();
        let special = |entry: &&Value| entry.get("special") == Some(&Value::Bool(true));
        let specials = list.iter().filter(special).filter_map(content);
        self.specials = specials.map(str::to_owned).collect();
        let changed = changed || !new.is_empty();
        self.completed = new.into_iter().map(|new| new.content).collect();
        self.ids = ids;
        if let Value::Object(spec) = spec
            && (changed || spec.contains_key("added_tokens"))
        {
            spec.insert("added_tokens".to_owned(), Value::Array(list));
        }
        Ok(changed)
    }
}

fn content(entry: &Value) -> Option<&str> {
    let content = entry.get("content")?.as_str()?;
    (!content.is_empty()).then_some(content)
}

/// Whether a normaliser puts something before every text: a token that is looked for in the
/// normalised text is then found at its start only.
fn adds_prefix(normalizer: &Value) -> bool {
    let parts = normalizer.get("normalizers").and_then(Value::as_array);
    normalizer.get("type").and_then(Value::as_str) == Some("Prepend")
        || parts.into_iter().flatten().any(adds_prefix)
}

/// The ids of a model's pieces.
struct Pieces<'a> {
    by_name: Option<&'a Map<String, Value>>,
    listed: HashMap<&'a str, u32>,
    /// How many there are.
    count: u32,
}

impl<'a> Pieces<'a> {
    fn of(model: &'a Value) -> Self {
        let vocabulary = model.get("vocab").unwrap_or(&Value::Null);
        let list = vocabulary.as_array().map(Vec::as_slice).unwrap_or_default();
        let listed: HashMap<&str, u32> = { (0u32..).zip(list) }
            .filter_map(|(id, piece)| Some((piece.get(0)?.as_str()?, id)))
            .collect();
        let by_name = vocabulary.as_object();
        let count = by_name.map_or(list.len(), Map::len);
        Self {
            by_name,
            listed,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }
    }

    fn id(&self, text: &str) -> Option<u32> {
        let named = self.by_name.and_then(|names| names.get(text)?.as_u64());
        named
            .and_then(|id| u32::try_from(id).ok())
            .or_else(|| self.listed.get(text).copied())
    }

    /// Some piece with an id, for errors.
    fn spelling(&self, id: u32) -> Option<&str> {
        let mut named = self.by_name.into_iter().flatten();
        let mut listed = self.listed.iter();
        named
            .find(|(_, other)| other.as_u64() == Some(u64::from(id)))
            .map(|(text, _)| text.as_str())
            .or_else(|| Some(*listed.find(|(_, other)| **other == id)?.0))
    }
}

/// A token that is not in the file.
struct New {
    content: String,
    id: u32,
    /// Whether texts do without it.
    spare: bool,
}

/// The added tokens while they are completed.
struct Added<'a> {
    dir: &'a Path,
    /// The file that gives ids, for errors.
    file: &'static str,
    /// Tokens are looked for in the text before it is normalised.
    raw: bool,
    pieces: Pieces<'a>,
    ids: HashMap<String, u32>,
    /// Where a token stands in the list.
    places: HashMap<String, usize>,
    /// The id of the next token that is no piece.
    next: u32,
    list: Vec<Value>,
    new: Vec<New>,
    changed: bool,
}

impl Added<'_> {
    /// The id that the library gives to a token, whatever the file says.
    fn assign(&mut self, text: &str) -> u32 {
        let known = self.ids.get(text).copied().or_else(|| self.pieces.id(text));
        let id = known.unwrap_or_else(|| {
            let id = self.next;
            self.next = id.saturating_add(1);
            id
        });
        self.ids.insert(text.to_owned(), id);
        id
    }

    /// The tokens of the file.
    fn known(&mut self) {
        let list = std::mem::take(&mut self.list);
        for (place, entry) in list.iter().enumerate() {
            if let Some(text) = content(entry) {
                self.assign(text);
                self.places.insert(text.to_owned(), place);
            }
        }
        self.list = list;
    }

    /// Adds a token at the end.
    fn push(&mut self, token: &AddedToken, spare: bool) {
        let id = self.assign(&token.content);
        self.places.insert(token.content.clone(), self.list.len());
        self.list.push(self.entry(token, Value::from(id)));
        self.new.push(New {
            content: token.content.clone(),
            id,
            spare,
        });
    }

    fn entry(&self, token: &AddedToken, id: Value) -> Value {
        serde_json::json!({
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized && !self.raw,
            "special": token.special,
        })
    }

    /// Tokens with an id.
    fn given(&mut self, declared: &Declared) -> Result<()> {
        for given in &declared.given {
            let (text, id) = (given.token.content.as_str(), given.id);
            if text.is_empty() {
                continue;
            }
            let known = self.ids.get(text).copied().or_else(|| self.pieces.id(text));
            if known.unwrap_or(self.next) != id {
                return Err(self.contradiction(text, id, known));
            }
            let Some(place) = self.places.get(text).copied() else {
                self.push(&given.token, PADS.contains(&text));
                continue;
            };
            let Some(old) = self.list.get(place).filter(|_| declared.overrides) else {
                continue;
            };
            let stated = old.get("id").cloned().unwrap_or(Value::from(id));
            let own = self.entry(&given.token, stated);
            if own != *old {
                self.list[place] = own;
                self.changed = true;
            }
        }
        Ok(())
    }

    fn contradiction(&self, text: &str, id: u32, known: Option<u32>) -> Error {
        let tokenizer = self.dir.join("tokenizer.json");
        let tokenizer = tokenizer.display();
        let mut others = self.ids.iter();
        let other = others
            .find(|(_, other)| **other == id)
            .map(|(text, _)| text.as_str())
            .or_else(|| self.pieces.spelling(id));
        let problem = match (known, other) {
            (_, Some(other)) => format!("it is `{other}` in {tokenizer}"),
            (Some(known), None) => format!("{tokenizer} has {known} for it"),
            (None, None) => format!("{} is the next id that is free in {tokenizer}", self.next),
        };
        let field = match self.file {
            CONFIG => DECODER,
            _ => text,
        };
        Error::file(
            &self.dir.join(self.file),
            format!("`{field}`: `{text}` has the id {id} there, but {problem}"),
        )
        .remedy(format!(
            "the two files are not of one tokenizer: take both from the same place, or correct \
             the id in `{}`",
            self.file
        ))
    }

    /// Tokens with a name, and special ones without an id.
    fn named(&mut self, declared: &Declared) -> Result<()> {
        let extra = declared.extra.iter();
        let extra: HashSet<&str> = extra.map(|token| token.content.as_str()).collect();
        for named in &declared.named {
            let text = named.token.content.as_str();
            if self.ids.contains_key(text) {
                continue;
            }
            if self.pieces.id(text).is_none() {
                match named.file {
                    None => continue,
                    // It is added below.
                    Some(_) if extra.contains(text) => continue,
                    Some(file) if named.is_border() => return Err(self.no_token(file, named)),
                    Some(_) => {}
                }
            }
            self.push(&named.token, true);
        }
        for token in &declared.extra {
            if !self.ids.contains_key(&token.content) {
                self.push(token, PADS.contains(&token.content.as_str()));
            }
        }
        Ok(())
    }

    fn no_token(&self, file: &str, named: &Named) -> Error {
        let tokenizer = self.dir.join("tokenizer.json");
        Error::file(
            &self.dir.join(file),
            format!(
                "`{}` is `{}`, which is no token of {}",
                named.key,
                named.token.content,
                tokenizer.display()
            ),
        )
        .remedy(format!(
            "name a token that the tokenizer has, or say its id in `{DECODER}` of `{CONFIG}` if \
             the model was trained with it"
        ))
    }

    /// Leaves out the last tokens that no text needs and for which the model has no row:
    /// transformers adds them, and fails only where they are used.
    fn without_rows(&mut self, rows: Option<u64>) {
        let beyond = |id: u32| rows.is_none_or(|rows| u64::from(id) >= rows);
        while let Some(last) = self.new.last() {
            let piece = self.pieces.id(&last.content).is_some();
            if !last.spare || piece || !beyond(last.id) {
                return;
            }
            self.ids.remove(&last.content);
            self.places.remove(&last.content);
            self.list.pop();
            self.new.pop();
        }
    }
}
