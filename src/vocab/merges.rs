//! The merges of a `tokenizer.json`, as the library that reads them expects them.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The two tokens of an entry of `merges`: `"a b"` or `["a", "b"]`.
pub(crate) fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => match pair.as_slice() {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// Fails where a merge makes a token that the vocabulary lacks: the library takes for granted
/// that what merges make is no longer than the longest token.
pub(crate) fn check(path: &Path, spec: &Value) -> Result<()> {
    let model = &spec["model"];
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"]
        .as_str()
        .unwrap_or_default();
    let mut made = String::new();
    for (at, merge) in merges.iter().enumerate() {
        let known = pair(merge).is_some_and(|(left, right)| {
            // The library cuts off as many bytes, whatever they are.
            right.get(prefix.len()..).is_some_and(|rest| {
                made.clear();
                made.push_str(left);
                made.push_str(rest);
                vocabulary.contains_key(&made)
            })
        });
        if !known {
            return Err(Error::file(
                path,
                format!("`merges`: entry {at}, {merge}, makes no token of the vocabulary"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges_must_make_tokens() {
        let checked = |merges: Value, prefix: Value| {
            let model = json!({"type": "BPE", "vocab": {"a": 0, "##é": 1, "aé": 2, "a#é": 3},
                "merges": merges, "continuing_subword_prefix": prefix});
            check(Path::new("t.json"), &json!({ "model": model }))
        };
        assert!(checked(json!([["a", "##é"], "a ##é"]), "##".into()).is_ok());
        assert!(checked(json!([["a", "é"]]), Value::Null).is_ok());
        assert!(checked(json!([["a", "##é"]]), "#".into()).is_ok());
        for (merges, prefix) in [
            (json!([["a", "a"]]), Value::Null),
            (json!(["aa"]), Value::Null),
            (json!([["a"]]), Value::Null),
            (json!([7]), Value::Null),
            (json!([["a", "a"]]), "##".into()),
            // Three bytes are in the middle of a character.
            (json!([["a", "##é"]]), "###".into()),
        ] {
            let error = checked(merges.clone(), prefix).unwrap_err().to_string();
            assert!(error.contains("entry 0"), "{merges}: {error}");
        }
        assert!(check(Path::new("t.json"), &json!([])).is_ok());
    }
}
