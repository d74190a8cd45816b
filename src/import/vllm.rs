//! JSONL of vLLM's prompt log-probabilities: each line an object with `prompt_token_ids` and
//! `prompt_logprobs`, whose entry for the first token is null and for every other an object from
//! id to `{logprob, rank}`. The true token is in it even where it is not among the most probable.
//!
//! The object may be an answer of vLLM's server, with both lists in each of its `choices` (one for
//! each prompt of the request, or several for one prompt), or a line that `run_batch` wrote, with
//! the answer in `response.body`. Files are read as `corpus` reads them: also JSON arrays, `.gz`
//! and `.zst`. Numbers may be `-Infinity`, as Python writes it; servers write -9999 for it.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::found::{Found, FoundRow, Opened, Values};
use crate::error::{Error, Result};
use crate::text::{self, Numbers};
use crate::units::TokenId;

/// The file read, and its samples.
pub(super) fn open(from: &Path) -> Result<Opened> {
    let lines = text::values::<Json>(from, Numbers::Python)?;
    let samples = lines.flat_map(|line| match line {
        Ok((place, value)) => answer(&value, &place),
        Err(error) => vec![Err(error)],
    });
    Ok(Opened {
        files: vec![from.to_path_buf()],
        samples: Box::new(samples),
        head: None,
    })
}

/// The samples in one object.
fn answer(value: &Json, place: &str) -> Vec<Result<Found>> {
    let body = value.get("response").and_then(|answer| answer.get("body"));
    let body = body.unwrap_or(value);
    let choices = match body.get("choices").and_then(Json::list) {
        Some(choices) if body.get("prompt_logprobs").and_then(Json::list).is_none() => choices,
        _ => return vec![sample(&[body], place.to_owned())],
    };
    let mut found: Vec<Result<Found>> = Vec::with_capacity(choices.len());
    for (at, choice) in choices.iter().enumerate() {
        let place = match choices.len() {
            1 => place.to_owned(),
            _ => format!("{place} choice {at}"),
        };
        let mut next = sample(&[choice, body], place);
        if let Ok(next) = &mut next {
            let before = found.iter().flatten();
            next.repeated = before.into_iter().any(|before| before.ids == next.ids);
        }
        found.push(next);
    }
    found
}

/// The sample whose lists are in one of `objects`.
fn sample(objects: &[&Json], place: String) -> Result<Found> {
    let wrong = |problem: String| Error::input(&place, problem);
    let field = |name: &str| {
        let found = objects.iter().find_map(|object| object.get(name)?.list());
        found.ok_or_else(|| wrong(format!("has no list `{name}`")))
    };
    let ids: Option<Vec<TokenId>> = field("prompt_token_ids")?.iter().map(Json::id).collect();
    let ids = ids.ok_or_else(|| wrong("`prompt_token_ids` holds what is no id".to_owned()))?;
    let given = field("prompt_logprobs")?;
    if given.len() != ids.len() {
        return Err(wrong(format!(
            "{} tokens with {} log-probabilities",
            ids.len(),
            given.len()
        )));
    }
    let rows = given.iter().zip(&ids).enumerate().skip(1);
    let rows = rows.map(|(next, (entries, target))| {
        row(next, *target, entries).map_err(|problem| wrong(format!("token {next}: {problem}")))
    });
    Ok(Found {
        rows: rows.collect::<Result<_>>()?,
        ids,
        place: place.clone(),
        ce: None,
        repeated: false,
    })
}

fn row(next: usize, target: TokenId, entries: &Json) -> std::result::Result<FoundRow, String> {
    let Json::Object(entries) = entries else {
        return Err("has no log-probabilities".to_owned());
    };
    let mut own = None;
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for (id, entry) in entries {
        let number: TokenId = id.parse().map_err(|_| format!("`{id}` is no id"))?;
        // `{"5": -0.1}` is understood as well as `{"5": {"logprob": -0.1}}`.
        let logprob = entry.number().or_else(|| entry.get("logprob")?.number());
        let logprob = logprob.ok_or_else(|| format!("id {id} has no `logprob`"))? as f32;
        if number == target {
            if own.replace(logprob).is_some() {
                return Err(format!("id {number} is listed twice"));
            }
            // Beyond the most probable it is there for its own sake.
            let rank = entry.get("rank").and_then(Json::number);
            if rank > Some(entries.len() as f64) {
                continue;
            }
        }
        ids.push(number);
        values.push(logprob);
    }
    match own {
        Some(_) => Ok(FoundRow {
            next,
            ids,
            values,
            are: Values::Logprobs(own),
        }),
        None => Err(format!("lacks the token itself, {target}")),
    }
}

/// JSON whose objects keep keys that come twice.
#[derive(Debug)]
enum Json {
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// Nothing that is of use here.
    Other,
}

impl Json {
    /// The last field of this name, as Python takes it.
    fn get(&self, name: &str) -> Option<&Json> {
        let Json::Object(fields) = self else {
            return None;
        };
        let field = fields.iter().rfind(|(key, _)| key == name)?;
        Some(&field.1)
    }

    fn list(&self) -> Option<&[Json]> {
        match self {
            Json::List(items) => Some(items),
            _ => None,
        }
    }

    /// A number; those that JSON lacks are strings.
    fn number(&self) -> Option<f64> {
        match self {
            Json::Number(number) => Some(*number),
            Json::Text(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        }
    }

    fn id(&self) -> Option<TokenId> {
        let number = self.number()?;
        let id = number as TokenId;
        (f64::from(id) == number).then_some(id)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = entries.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}
