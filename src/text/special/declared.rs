//! What the files beside `tokenizer.json` say about tokens.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::classes::{Defaults, defaults};
use crate::error::{Error, Result};

use crate::checkpoint::companion_json;
pub(super) use crate::checkpoint::{
    ADDED_TOKENS as ADDED, SPECIAL_TOKENS_MAP as MAP, TOKENIZER_CONFIG as CONFIG,
};

/// The field of [`CONFIG`] that has tokens by id.
pub(super) const DECODER: &str = "added_tokens_decoder";

/// Names of special tokens, in the order in which transformers adds what is new.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Lists of special tokens without a name; the latter can be an object, with names.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What the files say.
pub(super) struct Declared {
    /// Tokens with an id, by id.
    pub(super) given: Vec<Given>,
    /// Whether their settings win over those in `tokenizer.json`.
    pub(super) overrides: bool,
    /// Tokens with a name, in the order in which they are added.
    pub(super) named: Vec<Named>,
    /// Special tokens without one.
    pub(super) extra: Vec<AddedToken>,
    /// Whether there is a configuration at all.
    pub(super) configured: bool,
    /// How many ids the model has.
    pub(super) rows: Option<u64>,
}

/// A token with an id.
pub(super) struct Given {
    pub(super) id: u32,
    pub(super) token: AddedToken,
}

/// A token with a name.
pub(super) struct Named {
    pub(super) key: String,
    pub(super) token: AddedToken,
    /// The file that names it; none if it is the class's default.
    pub(super) file: Option<&'static str>,
}

impl Named {
    /// Whether texts begin or end with it.
    pub(super) fn is_border(&self) -> bool {
        matches!(self.key.as_str(), "bos_token" | "eos_token")
    }
}

impl Declared {
    /// Reads the files of a model folder.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let config = object(dir, CONFIG)?;
        let map = object(dir, MAP)?;
        let configured = config.is_some() || map.is_some();
        let config = Value::Object(config.unwrap_or_default());
        let model = companion_json(dir, "config.json")?.unwrap_or(Value::Null);
        let decoder = config.get(DECODER).filter(|decoder| !decoder.is_null());
        // Where there is a decoder, transformers looks at no older file.
        let map = map.filter(|_| decoder.is_none()).unwrap_or_default();
        let Special { named, extra, .. } =
            Special::read(dir, &config, &Value::Object(map), defaults(&config, &model))?;
        let mut given = match decoder {
            Some(decoder) => by_id(dir, decoder)?,
            None => by_spelling(dir, object(dir, ADDED)?.unwrap_or_default())?,
        };
        let tokens = named.iter().map(|named| &named.token).chain(&extra);
        let special: HashSet<&str> = tokens.map(|token| token.content.as_str()).collect();
        for given in &mut given {
            // What only a name makes special is found in the text as it is.
            if special.contains(given.token.content.as_str()) && !given.token.special {
                given.token.special = true;
                given.token.normalized &= decoder.is_some();
            }
        }
        given.sort_by_key(|given| given.id);
        let text_model = model.get("text_config").unwrap_or(&Value::Null);
        let rows =
            [&model, text_model].map(|model| model.get("vocab_size").and_then(Value::as_u64));
        Ok(Self {
            given,
            overrides: decoder.is_some(),
            named,
            extra,
            configured,
            rows: rows.into_iter().flatten().next(),
        })
    }
}

/// A file with a JSON object, if it is there.
fn object(dir: &Path, name: &str) -> Result<Option<Map<String, Value>>> {
    match companion_json(dir, name)? {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(Error::file(
            &dir.join(name),
            format!("a JSON object was expected, and {} found", shown(&other)),
        )),
    }
}

/// The special tokens with a name, and those without.
#[derive(Default)]
struct Special {
    named: Vec<Named>,
    /// Where a name stands among them.
    places: HashMap<String, usize>,
    extra: Vec<AddedToken>,
    /// The spellings of the latter.
    seen: HashSet<String>,
}

impl Special {
    fn read(dir: &Path, config: &Value, map: &Value, defaults: &Defaults) -> Result<Self> {
        let files = [(MAP, map), (CONFIG, config)];
        let mut all = Self::default();
        for key in NAMES {
            let said = { files.iter() }.find_map(|(file, object)| Some((*file, object.get(key)?)));
            match said {
                // An explicit null is no token, and no default either.
                Some((_, Value::Null)) => {}
                Some((file, value)) => all.name(key, token(dir, file, key, value)?, Some(file)),
                None => {
                    if let Some(text) = defaults.of(key) {
                        all.name(key, AddedToken::from(text, true), None);
                    }
                }
            }
        }
        // Of names that both files have, those of the map win.
        for (file, object) in files.into_iter().rev() {
            all.add(dir, file, object)?;
        }
        all.named.retain(|named| !named.token.content.is_empty());
        all.extra.retain(|token| !token.content.is_empty());
        Ok(all)
    }

    /// Adds the names that are a model's own, and the lists.
    fn add(&mut self, dir: &Path, file: &'static str, object: &Value) -> Result<()> {
        for (key, value) in object.as_object().into_iter().flatten() {
            // Switches (`add_bos_token`) have such names too.
            let names = value.is_string() || value.get("content").is_some_and(Value::is_string);
            if names && key.ends_with("_token") && !NAMES.contains(&key.as_str()) {
                self.name(key, token(dir, file, key, value)?, Some(file));
            }
        }
        for key in LISTS {
            match object.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) => {
                    for value in list {
                        let token = token(dir, file, key, value)?;
                        if self.seen.insert(token.content.clone()) {
                            self.extra.push(token);
                        }
                    }
                }
                Some(Value::Object(names)) => {
                    for (name, value) in names {
                        self.name(name, token(dir, file, key, value)?, Some(file));
                    }
                }
                Some(other) => return Err(unexpected(dir, file, key, "a list of tokens", other)),
            }
        }
        Ok(())
    }

    fn name(&mut self, key: &str, token: AddedToken, file: Option<&'static str>) {
        let known = self.places.get(key).copied();
        if let Some(known) = known.and_then(|place| self.named.get_mut(place)) {
            (known.token, known.file) = (token, file);
            return;
        }
        self.places.insert(key.to_owned(), self.named.len());
        self.named.push(Named {
            key: key.to_owned(),
            token,
            file,
        });
    }
}

/// A special token: a spelling, or an object with its `content`.
fn token(dir: &Path, file: &str, field: &str, value: &Value) -> Result<AddedToken> {
    let mut token = match value {
        Value::String(text) => AddedToken::from(text.as_str(), true),
        _ => settings(dir, file, field, value, true)?,
    };
    token.special = true;
    Ok(token)
}

/// A token with its settings.
fn settings(
    dir: &Path,
    file: &str,
    field: &str,
    value: &Value,
    special: bool,
) -> Result<AddedToken> {
    let Some(content) = value.get("content").and_then(Value::as_str) else {
        let wanted = "a token's spelling, or an object with its `content`,";
        return Err(unexpected(dir, file, field, wanted, value));
    };
    let flag = |key: &str, default: bool| match value.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => {
            let field = format!("{field}`, `{content}`, `{key}");
            Err(unexpected(dir, file, &field, "true or false", other))
        }
    };
    let special = flag("special", special)?;
    Ok(AddedToken {
        content: content.to_owned(),
        single_word: flag("single_word", false)?,
        lstrip: flag("lstrip", false)?,
        rstrip: flag("rstrip", false)?,
        normalized: flag("normalized", !special)?,
        special,
    })
}

/// The tokens of `added_tokens_decoder`.
fn by_id(dir: &Path, decoder: &Value) -> Result<Vec<Given>> {
    let Some(decoder) = decoder.as_object() else {
        return Err(unexpected(
            dir,
            CONFIG,
            DECODER,
            "an object with tokens by id",
            decoder,
        ));
    };
    let given = decoder.iter().map(|(key, value)| {
        let digits = key.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.then(|| key.parse().ok()).flatten();
        let id = id.ok_or_else(|| no_id(dir, CONFIG, DECODER, key))?;
        let token = settings(dir, CONFIG, DECODER, value, false)?;
        Ok(Given { id, token })
    });
    given.collect()
}

/// The tokens of `added_tokens.json`.
fn by_spelling(dir: &Path, added: Map<String, Value>) -> Result<Vec<Given>> {
    let given = added.into_iter().map(|(text, value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| no_id(dir, ADDED, &text, &shown(&value)))?;
        let token = AddedToken::from(text, false);
        Ok(Given { id, token })
    });
    given.collect()
}

fn no_id(dir: &Path, file: &str, field: &str, found: &str) -> Error {
    let found: String = found.chars().take(SHOWN).collect();
    Error::file(
        &dir.join(file),
        format!("`{field}`: the id of a token was expected, and {found} found"),
    )
    .remedy("ids are whole numbers from 0, as `tokenizer.json` has them")
}

fn unexpected(dir: &Path, file: &str, field: &str, wanted: &str, found: &Value) -> Error {
    Error::file(
        &dir.join(file),
        format!(
            "`{field}`: {wanted} was expected, and {} found",
            shown(found)
        ),
    )
}

/// Characters of a value that an error shows.
const SHOWN: usize = 60;

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => return format!("a list of {}", items.len()),
        Value::Object(items) => return format!("an object with {} fields", items.len()),
        other => other.to_string(),
    };
    text.chars().take(SHOWN).collect()
}
