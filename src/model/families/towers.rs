//! Models of several towers, of which one is a decoder that is read alone.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::family::Family;
use super::fields::Fields;
use super::gemma;
use crate::error::Result;
use crate::progress::warn_once;

/// The field with the settings of the text tower.
pub(super) const TEXT: &str = "text_config";

/// A model that reads images as well as text.
struct Composite {
    /// What `architectures[0]` is.
    class: &'static str,
    model_type: &'static str,
    /// The text tower, as a model of its own.
    decoder: &'static Family,
}

static COMPOSITES: &[Composite] = &[Composite {
    class: "Gemma3ForConditionalGeneration",
    model_type: "gemma3",
    decoder: &gemma::GEMMA3,
}];

/// Settings of the whole model that hold for the text tower, whatever it says itself.
const WHOLE: [&str; 8] = [
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "compression_config",
    "transformers_version",
];

/// The `config.json` of the text tower as a model of its own, if the file in `raw` is that of a model
/// of several towers.
///
/// # Errors
/// The text tower is of another family than its class has.
pub(super) fn text_tower(
    raw: &Map<String, Value>,
    path: &Path,
) -> Result<Option<Map<String, Value>>> {
    let fields = Fields::new(path, raw);
    let class = || raw.get("architectures")?.get(0)?.as_str();
    let kind = fields.text("model_type")?;
    let mut known = COMPOSITES.iter();
    let Some(composite) = known.find(|known| match kind {
        Some(kind) => known.model_type == kind,
        None => class() == Some(known.class),
    }) else {
        return Ok(None);
    };
    let mut text = Map::new();
    let decoder = composite.decoder;
    if let Some(given) = fields.object(TEXT)? {
        let reason = "other text towers are not implemented";
        given.only("model_type", &json!(decoder.model_type), reason)?;
        text = given.map().clone();
    }
    for name in WHOLE {
        if let Some(value) = fields.get(name) {
            text.insert(name.to_owned(), value.clone());
        }
    }
    // transformers ties by what the whole model says.
    let tied = raw.get("tie_word_embeddings").cloned();
    text.insert(
        "tie_word_embeddings".to_owned(),
        tied.unwrap_or(json!(true)),
    );
    text.insert("architectures".to_owned(), json!([decoder.classes[0]]));
    text.insert("model_type".to_owned(), json!(decoder.model_type));
    warn_once(format!(
        "{}: of this {} only the text is read; what is saved of it is a {}",
        path.display(),
        composite.class,
        decoder.classes[0]
    ));
    Ok(Some(text))
}
