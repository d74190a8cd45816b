//! Reading single fields of a `config.json`, with errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::json_line;
use crate::model::config::Activation;

/// Most experts of all layers together; the largest public models have 23,424.
const MOST_EXPERTS: usize = 1 << 17;

/// An object in the file, and where it is.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// Names of the objects around this one, each with a dot.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            map,
        }
    }

    /// An object that stood in the field `within` of the file.
    pub fn within(path: &'a Path, within: &str, map: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: format!("{within}."),
            map,
        }
    }

    /// All fields.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The file, for messages.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    pub fn wrong(&self, field: &str, expected: impl std::fmt::Display) -> Error {
        let found = match self.map.get(field) {
            Some(value) => short(value),
            None => "nothing".to_owned(),
        };
        let prefix = &self.prefix;
        Error::file(
            self.path,
            format!("field `{prefix}{field}`: expected {expected}, found {found}"),
        )
    }

    /// The field's value; JSON `null` is the same as absent.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the field has a value.
    pub fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// The first field, of those in this object, that is itself an object.
    pub fn first_object(&self) -> Option<&'a str> {
        let mut fields = self.map.iter();
        fields.find_map(|(field, value)| value.is_object().then_some(field.as_str()))
    }

    /// The fields of an object within this one.
    pub fn object(&self, field: &str) -> Result<Option<Self>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                path: self.path,
                prefix: format!("{}{field}.", self.prefix),
                map,
            })),
            Some(_) => Err(self.wrong(field, "an object")),
        }
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64() {
            // Ids are u32, so no dimension of interest is larger.
            Some(size @ 1..=0xffff_ffff) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, "a positive integer")),
        }
    }

    /// A size that is `default` where the file does not have the field, and none for `null`.
    pub fn size_or_null(&self, field: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.map.get(field) {
            None => Ok(default),
            Some(_) => self.optional_size(field),
        }
    }

    pub fn size(&self, field: &str) -> Result<usize> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "a positive integer"))
    }

    /// A number of layers.
    pub fn layers(&self, field: &str) -> Result<usize> {
        match self.size(field)? {
            layers @ ..=4096 => Ok(layers),
            _ => Err(self.wrong(field, "at most 4096")),
        }
    }

    /// The width of each of the `heads` that share `hidden_size`.
    pub fn share(&self, heads: &str, hidden_size: usize) -> Result<usize> {
        let count = self.size(heads)?;
        if hidden_size.is_multiple_of(count) {
            return Ok(hidden_size / count);
        }
        let expected = format!("a divisor of the hidden size {hidden_size}, or a `head_dim`");
        Err(self.wrong(heads, expected))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    pub fn number(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(field)?.unwrap_or(default))
    }

    pub fn required(&self, field: &str) -> Result<f64> {
        self.optional_number(field)?
            .ok_or_else(|| self.wrong(field, "a positive number"))
    }

    pub fn optional_number(&self, field: &str) -> Result<Option<f64>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(self.wrong(field, "a positive number")),
            },
        }
    }

    /// A number that is `default` where the file does not have the field, and none for `null`.
    pub fn number_or_null(&self, field: &str, default: f64) -> Result<Option<f64>> {
        match self.map.get(field) {
            None => Ok(Some(default)),
            Some(_) => self.optional_number(field),
        }
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(field, "a string")),
        }
    }

    /// How many experts there are, by `field`, and how many a token goes to; `defaults` where they
    /// are absent.
    pub fn experts(&self, field: &str, defaults: [usize; 2]) -> Result<(usize, usize)> {
        let used = "num_experts_per_tok";
        let count = self.optional_size(field)?.unwrap_or(defaults[0]);
        let layers = self.layers("num_hidden_layers")?;
        if count.saturating_mul(layers) > MOST_EXPERTS {
            let expected = format!("at most {MOST_EXPERTS} in all {layers} layers together");
            return Err(self.wrong(field, expected));
        }
        let per_token = self.optional_size(used)?.unwrap_or(defaults[1]);
        if per_token > count {
            return Err(self.wrong(used, format!("at most the {count} experts")));
        }
        Ok((count, per_token))
    }

    /// The numbers of layers in a list; none where it is absent.
    pub fn layer_numbers(&self, field: &str) -> Result<Vec<i64>> {
        let numbers = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(Value::as_i64).collect(),
            Some(_) => None,
        };
        numbers.ok_or_else(|| self.wrong(field, "a list of numbers of layers"))
    }

    pub fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect(),
            // Some files write -1 for "none".
            Some(Value::Number(number)) if number.as_i64() == Some(-1) => Some(Vec::new()),
            Some(value) => id(value).map(|id| vec![id]),
        }
        .ok_or_else(|| self.wrong(field, "a token id or a list of them"))
    }

    /// The non-linearity that `field` names, `default` where it is absent.
    pub fn activation(&self, field: &str, default: Activation) -> Result<Activation> {
        match self.text(field)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
            Some(
                "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_new" | "gelu_fast"
                | "gelu_accurate",
            ) => Ok(Activation::GeluTanh),
            _ => Err(self.wrong(field, "silu, gelu or gelu_pytorch_tanh")),
        }
    }

    /// Refuses a field whose value is not `only`, which `reason` explains.
    pub fn only(&self, field: &str, only: &Value, reason: &str) -> Result<()> {
        match self.get(field) {
            Some(value) if value != only => Err(self.wrong(field, format!("{only} ({reason})"))),
            _ => Ok(()),
        }
    }
}

/// A JSON value short enough for a message.
fn short(value: &Value) -> String {
    let text = json_line(value);
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}
