//! Names that the fields of records have, where they are not the published ones.

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::shapes;
use crate::error::{Error, Result, did_you_mean};

/// Which fields of the records are read for which, and which need not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Published names, in their own order, with the names in the records.
    named: Vec<(&'static str, String)>,
    ignore: Vec<String>,
}

/// The key of the fields that need not be read.
const IGNORE: &str = "ignore";

impl Fields {
    /// The published names for which others can be given, and `ignore`.
    pub const NAMES: [&'static str; 20] = [
        "messages",
        "conversations",
        "role",
        "content",
        "prompt",
        "instruction",
        "input",
        "context",
        "response",
        "completion",
        "output",
        "chosen",
        "rejected",
        "history",
        "system",
        "tools",
        "chat_template_kwargs",
        "data",
        "text",
        IGNORE,
    ];

    /// Reads the field `field` of the records as `name`.
    ///
    /// # Errors
    /// A name that no shape has.
    pub fn set(&mut self, name: &str, field: &str) -> Result<()> {
        let known = Self::NAMES.iter().position(|known| *known == name);
        match known.map(|at| Self::NAMES[at]) {
            Some(IGNORE) => self.ignore(field),
            Some(name) => {
                self.named.retain(|(known, _)| *known != name);
                self.named.push((name, field.to_owned()));
                let place = |name: &str| Self::NAMES.iter().position(|known| *known == name);
                self.named.sort_by_key(|(name, _)| place(name));
            }
            None => {
                let hint = did_you_mean(name, Self::NAMES)
                    .unwrap_or_else(|| format!("known are `{}`", Self::NAMES.join("`, `")));
                let problem = format!("no shape of records has a field `{name}`");
                return Err(Error::usage(problem).remedy(hint));
            }
        }
        Ok(())
    }

    /// Says nothing about the field `field`, which is not read.
    pub fn ignore(&mut self, field: &str) {
        if !self.ignores(field) {
            self.ignore.push(field.to_owned());
        }
    }

    /// Whether nothing is named otherwise or ignored.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.ignore.is_empty()
    }

    /// What changes the records that are read: the names, and of what is ignored that which would
    /// be read.
    pub fn changing(&self) -> Option<Value> {
        let named = self.named.iter();
        let mut changing: Map<String, Value> = named
            .map(|(name, field)| ((*name).to_owned(), field.as_str().into()))
            .collect();
        let ignored = shapes::ignored(self.ignore.iter().map(String::as_str));
        if !ignored.is_empty() {
            changing.insert(IGNORE.to_owned(), ignored.into());
        }
        (!changing.is_empty()).then_some(Value::Object(changing))
    }

    pub(super) fn ignores(&self, field: &str) -> bool {
        self.ignore.iter().any(|ignored| ignored == field)
    }

    /// The name in the records of what is published as `name`, if it has another.
    pub(super) fn other(&self, name: &str) -> Option<&str> {
        let mut named = self.named.iter();
        named
            .find(|(known, _)| *known == name)
            .map(|(_, field)| field.as_str())
    }

    /// Whether a field of the records is read under a published name.
    pub(super) fn names(&self, field: &str) -> bool {
        self.named.iter().any(|(_, named)| named == field)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, field) in &self.named {
            map.serialize_entry(name, field)?;
        }
        if !self.ignore.is_empty() {
            map.serialize_entry(IGNORE, &self.ignore)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Self::default();
        for (name, value) in Map::deserialize(deserializer)? {
            match (name.as_str(), value) {
                (IGNORE, Value::Array(list)) => {
                    for field in list {
                        let field = field.as_str().ok_or_else(|| {
                            de::Error::custom("`fields.ignore`: expected a list of names")
                        })?;
                        fields.ignore(field);
                    }
                }
                (name, _) if !Self::NAMES.contains(&name) => {
                    return Err(de::Error::unknown_field(name, &Self::NAMES));
                }
                (_, Value::Null) => {}
                (name, Value::String(field)) => {
                    fields.set(name, &field).map_err(de::Error::custom)?
                }
                (name, _) => {
                    let problem = format!("`fields.{name}`: expected the name of a field");
                    return Err(de::Error::custom(problem));
                }
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_other_names_and_mistakes_are_named() {
        let text = r#"{"response": "answer", "prompt": "question", "ignore": ["id", "id"]}"#;
        let fields: Fields = serde_json::from_str(text).unwrap();
        assert_eq!(fields.other("prompt"), Some("question"));
        assert_eq!(fields.other("system"), None);
        assert!(fields.names("answer") && fields.ignores("id") && !fields.ignores("answer"));
        let mut same = Fields::default();
        for (name, field) in [
            ("ignore", "id"),
            ("prompt", "x"),
            ("response", "answer"),
            ("prompt", "question"),
        ] {
            same.set(name, field).unwrap();
        }
        assert_eq!(fields, same);
        let again = serde_json::to_string(&same).unwrap();
        assert_eq!(serde_json::from_str::<Fields>(&again).unwrap(), same);
        let error = same.set("promt", "x").unwrap_err().to_string();
        assert!(error.ends_with("did you mean `prompt`?"), "{error}");
        for wrong in [
            r#"{"promt": "x"}"#,
            r#"{"prompt": 1}"#,
            r#"{"ignore": [1]}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Fields>(wrong).is_err(), "{wrong}");
        }
    }
}
