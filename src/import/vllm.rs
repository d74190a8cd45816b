//! JSONL of vLLM's prompt log-probabilities: each line an object (or an OpenAI answer with it in
//! `choices[0]`) with `prompt_token_ids` and `prompt_logprobs`, whose entry for the first token is
//! null and for every other an object from id to `{logprob, rank}`. The true token is in it even
//! where it is not among the most probable.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, FoundRow, Samples};
use crate::error::{Context, Error, Result};
use crate::units::TokenId;

/// The file read, and its samples.
pub(super) fn open(from: &Path) -> Result<(Vec<PathBuf>, Samples)> {
    let file = BufReader::new(File::open(from).at(from)?);
    let path = from.to_path_buf();
    let lines = file.lines().enumerate().filter_map(move |(at, line)| {
        let place = format!("{} line {}", path.display(), at + 1);
        match line {
            Err(error) => Some(Err(Error::io(&path, error))),
            Ok(line) if line.trim().is_empty() => None,
            Ok(line) => Some(sample(&line, place)),
        }
    });
    Ok((vec![from.to_path_buf()], Box::new(lines)))
}

pub(super) fn sample(line: &str, place: String) -> Result<Found> {
    let wrong = |problem: String| Error::input(&place, problem);
    let value: Value =
        serde_json::from_str(line).map_err(|error| wrong(format!("no valid JSON: {error}")))?;
    let field = |name: &str| {
        let at = [&value, &value["choices"][0]];
        let found = at.into_iter().find_map(|object| object[name].as_array());
        found.ok_or_else(|| wrong(format!("has no list `{name}`")))
    };
    let ids: Option<Vec<TokenId>> = field("prompt_token_ids")?.iter().map(id).collect();
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
    })
}

fn id(value: &Value) -> Option<TokenId> {
    value.as_u64()?.try_into().ok()
}

fn row(next: usize, target: TokenId, entries: &Value) -> std::result::Result<FoundRow, String> {
    let entries = entries.as_object().ok_or("has no log-probabilities")?;
    let mut row = FoundRow {
        next,
        ..FoundRow::default()
    };
    for (id, entry) in entries {
        let number: TokenId = id.parse().map_err(|_| format!("`{id}` is no id"))?;
        // `{"5": -0.1}` is understood as well as `{"5": {"logprob": -0.1}}`.
        let logprob = entry.as_f64().or_else(|| entry["logprob"].as_f64());
        let logprob = logprob.ok_or_else(|| format!("id {id} has no `logprob`"))? as f32;
        if number == target {
            row.target_logprob = Some(logprob);
            // Beyond the most probable it is there for its own sake.
            if entry["rank"].as_u64() > Some(entries.len() as u64) {
                continue;
            }
        }
        row.ids.push(number);
        row.logprobs.push(logprob);
    }
    if row.target_logprob.is_none() {
        return Err(format!("lacks the token itself, {target}"));
    }
    Ok(row)
}
