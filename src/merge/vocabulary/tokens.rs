//! The tokens in a `tokenizer.json`, and a `tokenizer.json` with more or fewer of them.
//!
//! Ids are those that the `tokenizers` library gives, which transformers uses, too: an added token
//! that the model part has keeps that id, others follow in the order of the file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

pub(super) use crate::checkpoint::TOKENIZER as FILE;
use crate::error::{Error, Result};
use crate::vocab::merges;

/// The tokens of one model.
pub(super) struct Known {
    /// The id of each token; all have a row.
    pub ids: HashMap<String, u32>,
    /// Settings of tokens that are found in the text before it is tokenised.
    pub added: HashMap<String, AddedToken>,
    /// How many tokens were left out because their ids are beyond the embedding's rows.
    pub left_out: usize,
}

/// Reads the tokens in the folder `dir` that have one of `rows` rows (all tokens without `rows`).
///
/// # Errors
///
/// A missing or damaged file, a kind of tokenizer that the library does not know, no tokens.
pub(super) fn read(dir: &Path, rows: Option<usize>) -> Result<Known> {
    let path = dir.join(FILE);
    let (tokenizer, _) = parse(dir)?;
    let mut ids = tokenizer.get_vocab(true);
    let before = ids.len();
    ids.retain(|_, id| rows.is_none_or(|rows| (*id as usize) < rows));
    if ids.is_empty() {
        return Err(Error::file(
            &path,
            "the tokenizer has no token with a row in the embedding",
        ));
    }
    let added = tokenizer.get_added_tokens_decoder().into_values();
    let added = added.map(|token| (token.content.clone(), token));
    Ok(Known {
        left_out: before - ids.len(),
        added: added.filter(|(token, _)| ids.contains_key(token)).collect(),
        ids,
    })
}

/// The tokenizer of a folder, and its file.
fn parse(dir: &Path) -> Result<(Tokenizer, Value)> {
    let path = dir.join(FILE);
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if dir.is_dir() => Error::file(
            dir,
            format!("there is no `{FILE}`, which `tokenizer_source` needs"),
        )
        .remedy("save the model's fast tokenizer there; if it is the base model's, copy that file"),
        std::io::ErrorKind::NotFound => Error::file(dir, "there is no such model folder"),
        _ => Error::io(&path, error),
    })?;
    let spec: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::file(&path, format!("no valid JSON: {error}")))?;
    Ok((tokenizer(&path, &spec, &bytes)?, spec))
}

fn tokenizer(path: &Path, spec: &Value, bytes: &[u8]) -> Result<Tokenizer> {
    merges::check(path, spec)?;
    Tokenizer::from_bytes(bytes)
        .map_err(|error| Error::file(path, format!("no tokenizer that can be read: {error}")))
}

/// The output's vocabulary.
pub(super) struct Output {
    /// Its tokens in the order of their ids; ids may be missing.
    pub tokens: Vec<(u32, String)>,
    /// The settings of its added tokens in the order of their ids.
    pub added: Vec<(u32, AddedToken)>,
    /// The text of its `tokenizer.json`, where that is not the source's.
    pub json: Option<String>,
}

/// The vocabulary in the folder `dir` without the tokens that have no row, and with `more` tokens.
///
/// # Errors
///
/// Those of [`read`]; a tokenizer that cannot do without tokens that have no row, or in which ids
/// are missing so that no tokens can be added.
pub(super) fn build(dir: &Path, rows: Option<usize>, more: Vec<AddedToken>) -> Result<Output> {
    let path = dir.join(FILE);
    let (mut tokens, mut spec) = parse(dir)?;
    let whole = tokens.get_vocab(true);
    let (kept, cut): (HashMap<_, _>, HashMap<_, _>) = whole
        .into_iter()
        .partition(|(_, id)| rows.is_none_or(|rows| (*id as usize) < rows));
    if !cut.is_empty() {
        remove(&mut spec, &cut);
        tokens = tokenizer(&path, &spec, spec.to_string().as_bytes())?;
        if tokens.get_vocab(true) != kept {
            return Err(Error::file(
                &path,
                format!(
                    "{} tokens have no row in the embedding and cannot be taken out of the tokenizer",
                    cut.len()
                ),
            )
            .remedy("give a `tokenizer_source` whose model has a row for each token"));
        }
    }
    let news = more.iter().filter(|t| !kept.contains_key(&t.content));
    let news = news.map(|token| token.content.clone()).collect::<Vec<_>>();
    let changed = tokens
        .add_tokens(more)
        .map_err(|error| Error::file(&path, format!("no tokens can be added: {error}")))?;
    let ids = tokens.get_vocab(true);
    let taken: HashSet<u32> = kept.values().copied().collect();
    let distinct: HashSet<u32> = news.iter().filter_map(|t| ids.get(t).copied()).collect();
    if distinct.len() != news.len() || !distinct.is_disjoint(&taken) {
        return Err(
            Error::file(&path, "ids are missing between tokens, none can be added")
                .remedy("use another `tokenizer_source`, or number the tokens without gaps"),
        );
    }
    let mut added: Vec<(u32, AddedToken)> = tokens.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    let json = (changed > 0 || !cut.is_empty()).then(|| {
        spec["added_tokens"] = added
            .iter()
            .map(|(id, token)| entry(Some(*id), token))
            .collect();
        format!("{spec:#}\n")
    });
    let mut tokens: Vec<(u32, String)> = ids.into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    tokens.dedup_by_key(|(id, _)| *id);
    Ok(Output {
        tokens,
        added,
        json,
    })
}

/// An added token as files have it.
pub(super) fn entry(id: Option<u32>, token: &AddedToken) -> Value {
    let mut entry = json!({
        "content": token.content,
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special,
    });
    if let (Some(id), Some(map)) = (id, entry.as_object_mut()) {
        map.shift_insert(0, "id".into(), id.into());
    }
    entry
}

/// Takes tokens out of a `tokenizer.json`, with the merges that they take part in.
fn remove(spec: &mut Value, cut: &HashMap<String, u32>) {
    let is_kept = |token: Option<&str>| token.is_none_or(|token| !cut.contains_key(token));
    if let Some(added) = spec.get_mut("added_tokens").and_then(Value::as_array_mut) {
        added.retain(|entry| is_kept(entry["content"].as_str()));
    }
    match spec.pointer_mut("/model/vocab") {
        Some(Value::Object(vocabulary)) => vocabulary.retain(|token, _| is_kept(Some(token))),
        Some(Value::Array(pieces)) => pieces.retain(|piece| is_kept(piece[0].as_str())),
        _ => {}
    }
    let merges = spec
        .pointer_mut("/model/merges")
        .and_then(Value::as_array_mut);
    if let Some(merges) = merges {
        merges.retain(|merge| {
            merges::pair(merge).is_none_or(|(left, right)| {
                let made = format!("{left}{right}");
                [left, right, &made]
                    .into_iter()
                    .all(|token| is_kept(Some(token)))
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bpe(added: Value) -> Value {
        json!({"version": "1.0", "added_tokens": added, "model": {"type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
            "merges": [["a", "b"], ["ab", "c"]]}})
    }

    fn folder(spec: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), spec.to_string()).unwrap();
        dir
    }

    fn shown(output: &Output) -> Vec<(u32, &str)> {
        output
            .tokens
            .iter()
            .map(|(id, token)| (*id, token.as_str()))
            .collect()
    }

    #[test]
    fn nothing_to_do_leaves_the_file_as_it_is() {
        let dir = folder(&bpe(json!([])));
        let same = build(dir.path(), Some(9), Vec::new()).unwrap();
        assert!(same.json.is_none());
        assert_eq!(
            shown(&same),
            [(0, "a"), (1, "b"), (2, "c"), (3, "ab"), (4, "abc")]
        );
    }

    #[test]
    fn added_tokens_keep_their_settings() {
        let dir = folder(&bpe(json!([entry(
            Some(5),
            &AddedToken::from("<s>", true)
        )])));
        let more = vec![
            AddedToken::from("x", false),
            AddedToken::from("<e>", true),
            AddedToken::from("b", false),
        ];
        let output = build(dir.path(), None, more).unwrap();
        assert_eq!(shown(&output)[5..], [(5, "<s>"), (6, "x"), (7, "<e>")]);
        let json: Value = serde_json::from_str(&output.json.unwrap()).unwrap();
        let added: Vec<(u64, bool)> = json["added_tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| (t["id"].as_u64().unwrap(), t["special"].as_bool().unwrap()))
            .collect();
        assert_eq!(added, [(1, false), (5, true), (6, false), (7, true)]);
        // What is written gives the same ids when it is read.
        let again = folder(&json);
        let known = read(again.path(), None).unwrap();
        assert_eq!(known.ids.len(), 8);
        assert_eq!((known.ids["x"], known.ids["<e>"]), (6, 7));
        assert!(known.added["<e>"].special && !known.added["x"].special);
    }

    #[test]
    fn tokens_without_rows_go_with_their_merges() {
        let dir = folder(&bpe(json!([entry(
            Some(5),
            &AddedToken::from("<s>", true)
        )])));
        let known = read(dir.path(), Some(4)).unwrap();
        assert_eq!(
            (known.ids.len(), known.left_out, known.added.len()),
            (4, 2, 0)
        );
        let output = build(dir.path(), Some(4), vec![AddedToken::from("<t>", true)]).unwrap();
        assert_eq!(shown(&output)[3..], [(3, "ab"), (4, "<t>")]);
        let json: Value = serde_json::from_str(&output.json.unwrap()).unwrap();
        assert_eq!(json["model"]["merges"], json!([["a", "b"]]));
        let unigram = json!({"model": {"type": "Unigram", "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]}});
        let dir = folder(&unigram);
        let output = build(dir.path(), Some(2), Vec::new()).unwrap();
        assert_eq!(shown(&output), [(0, "<unk>"), (1, "a")]);
        // The unknown token itself cannot go.
        let mut last = unigram.clone();
        last["model"]["unk_id"] = 2.into();
        let error = build(folder(&last).path(), Some(2), Vec::new())
            .err()
            .unwrap();
        assert!(error.to_string().contains(FILE), "{error}");
    }

    #[test]
    fn files_that_are_no_tokenizer_are_refused() {
        let huge = json!({"model": {"type": "WordLevel", "unk_token": "a",
            "vocab": {"a": 4_294_967_295u32, "b": 7}}});
        let known = read(folder(&huge).path(), Some(10)).unwrap();
        assert_eq!((known.ids.len(), known.left_out), (1, 1));
        for (spec, part) in [
            (json!({}), "no tokenizer"),
            (json!([1]), "no tokenizer"),
            (
                json!({"model": {"type": "Telepathy", "vocab": {}}}),
                "no tokenizer",
            ),
            (
                json!({"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}),
                "no tokenizer",
            ),
            (
                json!({"model": {"type": "WordLevel", "vocab": {"a": 99}, "unk_token": "a"}}),
                "no token with a row",
            ),
            (
                json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]]}}),
                "makes no token",
            ),
        ] {
            let error = read(folder(&spec).path(), Some(10))
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains(part) && error.contains(FILE),
                "{spec}: {error}"
            );
        }
        let empty = tempfile::tempdir().unwrap();
        let error = read(empty.path(), None).err().unwrap().to_string();
        assert!(error.contains("there is no `tokenizer.json`"), "{error}");
        // An id is free before the last one: new tokens would be taken for old ones.
        let gap = json!({"model": {"type": "WordLevel", "unk_token": "a",
            "vocab": {"a": 0, "b": 2}}});
        let more = vec![AddedToken::from("x", false)];
        let error = build(folder(&gap).path(), None, more)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("ids are missing"), "{error}");
    }
}
