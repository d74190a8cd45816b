//! What an artifact was made from, as its footers carry it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;

/// What determines an artifact's rows. Build it with the chained setters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What the artifact holds.
    pub kind: Kind,
    /// Version of its columns.
    pub format: u32,
    /// Version of the program that wrote it; not part of the identity.
    pub tool: String,
    /// Digest of the vocabulary that its ids belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
    /// Digest of the model whose figures it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The options that change its rows.
    pub options: serde_json::Value,
    /// Identities of the artifacts and digests of the files it was made from, by name.
    pub inputs: BTreeMap<String, String>,
}

/// Which part of an artifact a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Ordinal of the part.
    pub index: u32,
    /// First `sample_id` that belongs to the part; 0 for artifacts that are not per sample.
    pub first_sample: u64,
    /// Number of samples that belong to the part, with or without rows in this artifact.
    pub samples: u64,
    /// Whether no part follows.
    pub last: bool,
}

impl PartInfo {
    /// The only part of an artifact that is not per sample.
    pub const ONLY: PartInfo = PartInfo {
        index: 0,
        first_sample: 0,
        samples: 0,
        last: true,
    };
}

/// The JSON object in a part's footer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) provenance: Provenance,
    pub(super) identity: String,
    pub(super) part: PartInfo,
}

impl Footer {
    pub(super) const KEY: &'static str = "fuselm";
    /// Key of the digest of what is before the footer, which depends on the rows alone. Parts from
    /// before it was kept have none.
    pub(super) const ROWS: &'static str = "fuselm.rows";
}

impl Provenance {
    /// Nothing but the kind, with the current format and program version.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            format: kind.format(),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            vocabulary: None,
            model: None,
            options: serde_json::Value::Object(serde_json::Map::new()),
            inputs: BTreeMap::new(),
        }
    }

    /// Names the vocabulary that the ids belong to.
    #[must_use]
    pub fn vocabulary(mut self, digest: impl Into<String>) -> Self {
        self.vocabulary = Some(digest.into());
        self
    }

    /// Names the model whose figures the rows are.
    #[must_use]
    pub fn model(mut self, digest: impl Into<String>) -> Self {
        self.model = Some(digest.into());
        self
    }

    /// Records the options that change the rows.
    #[must_use]
    pub fn options(mut self, options: serde_json::Value) -> Self {
        self.options = options;
        self
    }

    /// Records an input by its identity (an artifact's) or digest (a file's).
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, digest: impl Into<String>) -> Self {
        self.inputs.insert(name.into(), digest.into());
        self
    }

    /// Digest of everything that determines the rows: 32 hexadecimal digits.
    pub fn identity(&self) -> String {
        let everything = serde_json::json!([
            self.kind,
            self.format,
            self.vocabulary,
            self.model,
            sorted(&self.options),
            self.inputs,
        ]);
        let digest = blake3::hash(everything.to_string().as_bytes());
        digest.to_hex().as_str()[..32].to_owned()
    }

    /// What differs from `other`, for the message that says why an artifact is stale.
    pub fn differences(&self, other: &Provenance) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: String, old: String, new: String| {
            if old != new {
                found.push(format!("{what}: {old} -> {new}"));
            }
        };
        let text = |x: &Option<String>| x.as_deref().map_or("none".to_owned(), short);
        compare(
            "format".into(),
            other.format.to_string(),
            self.format.to_string(),
        );
        compare(
            "vocabulary".into(),
            text(&other.vocabulary),
            text(&self.vocabulary),
        );
        compare("model".into(), text(&other.model), text(&self.model));
        let keys = |p: &Provenance| -> Vec<String> {
            p.options
                .as_object()
                .map(|o| o.keys().cloned().collect())
                .unwrap_or_default()
        };
        let mut options = keys(self);
        options.extend(keys(other));
        options.sort();
        options.dedup();
        for key in options {
            let value = |p: &Provenance| {
                p.options
                    .get(&key)
                    .map_or("unset".to_owned(), |v| sorted(v).to_string())
            };
            compare(key.clone(), value(other), value(self));
        }
        let mut inputs: Vec<&String> = self.inputs.keys().chain(other.inputs.keys()).collect();
        inputs.sort();
        inputs.dedup();
        for name in inputs {
            let value = |p: &Provenance| p.inputs.get(name).map_or("none".to_owned(), |d| short(d));
            compare(format!("input {name}"), value(other), value(self));
        }
        found
    }
}

/// The first digits of a digest, enough to tell two apart.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// The same value with the keys of every object in order, so that its text is canonical.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> =
                map.iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(ordered.into_iter().map(|(k, v)| (k.clone(), v)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
