//! Every setting of an `adapter_config.json`, and what becomes of it.
//!
//! The keys are those of PEFT's `LoraConfig`, of all its versions up to 0.21, and of programs that
//! add their own. What changes a result is read or, if it says anything, refused by its name; so is
//! a key that is not in the table.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What becomes of a setting.
#[derive(Clone, Copy)]
enum Rule {
    /// It is read.
    Read,
    /// It changes nothing that the adapted model computes: it is for training, for finding the
    /// model, for the program.
    Harmless,
    /// Only nothing (null, false, an empty list) is supported; what the setting does.
    Nothing(&'static str),
}

use Rule::{Harmless, Nothing, Read};

const SETTINGS: [(&str, Rule); 47] = [
    ("peft_type", Read),
    ("r", Read),
    ("lora_alpha", Read),
    ("use_rslora", Read),
    ("rank_pattern", Read),
    ("alpha_pattern", Read),
    ("target_modules", Read),
    ("exclude_modules", Read),
    ("layers_to_transform", Read),
    ("layers_pattern", Read),
    ("modules_to_save", Read),
    ("init_lora_weights", Read),
    ("use_dora", Read),
    ("bias", Read),
    ("lora_bias", Read),
    ("fan_in_fan_out", Read),
    ("ensure_weight_tying", Read),
    ("trainable_token_indices", Read),
    ("target_parameters", Read),
    ("base_model_name_or_path", Harmless),
    ("revision", Harmless),
    ("task_type", Harmless),
    ("auto_mapping", Harmless),
    ("peft_version", Harmless),
    ("inference_mode", Harmless),
    ("runtime_config", Harmless),
    ("lora_dropout", Harmless),
    ("merge_weights", Harmless),
    ("megatron_core", Harmless),
    ("qalora_group_size", Harmless),
    // Of ways to begin a training: `init_lora_weights` says whether they were taken.
    ("loftq_config", Harmless),
    ("eva_config", Harmless),
    ("corda_config", Harmless),
    ("lora_ga_config", Harmless),
    // Changes gradients alone.
    ("velora_config", Harmless),
    // Of ms-swift: dtypes and learning rates of a training.
    ("lora_dtype", Harmless),
    ("lorap_lr_ratio", Harmless),
    ("lorap_emb_lr", Harmless),
    (
        "alora_invocation_tokens",
        Nothing(
            "an activated LoRA is applied from its invocation on, so that no weights stand for it",
        ),
    ),
    (
        "layer_replication",
        Nothing("the layers of the model are repeated"),
    ),
    ("megatron_config", Nothing("layers of Megatron are adapted")),
    ("enable_lora", Nothing("parts of a projection are adapted")),
    ("use_qalora", Nothing("the inputs of A are pooled")),
    ("use_bdlora", Nothing("A or B is stored by its blocks")),
    (
        "monteclora_config",
        Nothing("A and B are drawn at random around what is stored"),
    ),
    ("arrow_config", Nothing("tokens choose among adapters")),
    (
        "kasa_config",
        Nothing("the smallest singular values of the model's weights are left out"),
    ),
];

/// The fields of the file.
pub(super) struct Fields<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Takes the text of the file `path` apart.
    ///
    /// # Errors
    /// No JSON object; a setting that is not known, or not supported, and says something.
    pub fn parse(path: &'a Path, text: &str) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Error::file(path, format!("not a JSON object: {error}")))?;
        let fields = Self { path, map };
        if fields.get("peft_type") != "LORA" {
            let error = fields.wrong("peft_type", "\"LORA\"");
            return Err(error.remedy("only LoRA adapters are supported"));
        }
        for (field, value) in &fields.map {
            let known = SETTINGS.iter().find(|(name, _)| name == field);
            match known {
                Some((_, Read | Harmless)) => {}
                _ if is_nothing(value) => {}
                Some((_, Nothing(what))) => {
                    let error = fields.wrong(field, "nothing");
                    return Err(error.remedy(format!("this setting is not supported: {what}")));
                }
                None => {
                    let error = fields.wrong(field, "nothing");
                    return Err(error.remedy(
                        "this setting is not known, and may change what the adapter computes; \
                         remove it if it does not",
                    ));
                }
            }
        }
        Ok(fields)
    }

    /// The value of a field; null where there is none.
    pub fn get(&self, field: &str) -> &Value {
        self.map.get(field).unwrap_or(&Value::Null)
    }

    /// Whether a field is there.
    pub fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// An error about a field.
    pub fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.get(field);
        let problem = format!("field `{field}`: expected {expected}, found {found}");
        Error::file(self.path, problem)
    }

    /// A field that `read` reads, or else is not what is `expected`.
    pub fn read<T>(
        &self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        read(self.get(field)).ok_or_else(|| self.wrong(field, expected))
    }

    /// A field that is true, or not.
    pub fn flag(&self, field: &str) -> Result<bool> {
        self.read(field, "true or false", |value| match value {
            Value::Null => Some(false),
            value => value.as_bool(),
        })
    }

    /// A field that holds names; `None` where it is null.
    pub fn names(&self, field: &str) -> Result<Option<Vec<String>>> {
        self.read(field, "a list of names", |value| match value {
            Value::Null => Some(None),
            value => strings(value).map(Some),
        })
    }
}

/// The texts of a list of texts.
pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    let texts = value.as_array()?.iter();
    texts.map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Whether a value says nothing.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
