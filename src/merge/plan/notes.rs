//! What users are told about the models, and what the output's configuration says of its head.

use serde_json::Value;

use super::tensors::TensorPlan;
use crate::merge::inputs::Model;
use crate::merge::tie;
use crate::tensors::Dtype;

/// Makes the output's configuration say that the head is a tensor of its own.
pub(super) fn untie(
    config: &mut Value,
    reference: &Model,
    models: &[Model],
    notes: &mut Vec<String>,
) {
    // T5 has its head scaled where the field is not false, and keeps a head of its own anyway.
    let encoder_decoder = config.get("is_encoder_decoder") == Some(&Value::Bool(true));
    let Some(map) = config.as_object_mut().filter(|_| !encoder_decoder) else {
        return;
    };
    let contradicted = models.iter().filter(|model| model.tie.is_contradicted());
    let names: Vec<&str> = contradicted.map(|model| model.name.as_str()).collect();
    let own = reference.tie.separate_head().is_some();
    if !own || reference.tie.is_unsaid() {
        if let Some(Value::Object(text)) = map.get_mut("text_config")
            && text.contains_key(tie::FIELD)
        {
            text.insert(tie::FIELD.to_owned(), Value::Bool(false));
        }
        map.insert(tie::FIELD.to_owned(), Value::Bool(false));
    }
    if !names.is_empty() {
        notes.push(format!(
            "the configuration of `{}` ties head and embedding, which differ: both are merged, as \
             transformers reads them",
            names.join("`, `")
        ));
    }
    if !own {
        notes.push(format!(
            "the output has a head of its own: `{}` is false in its config.json",
            tie::FIELD
        ));
    }
}

/// What the user is told about the models.
pub(super) fn notes(reference: &Model, models: &[Model], tensors: &[TensorPlan]) -> Vec<String> {
    let mut notes = Vec::new();
    let stored = || reference.checkpoint.tensors().map(|tensor| &tensor.name);
    let copy = stored().find(|name| reference.tie.is_copy(name));
    let copy = copy.filter(|head| tensors.iter().all(|tensor| tensor.name != **head));
    notes.extend(copy.map(|head| format!("`{head}` is tied to the embedding and is not written")));
    let mut buffers = stored().filter(|name| reference.is_buffer(name));
    if let Some(first) = buffers.next() {
        notes.push(format!(
            "{} buffers that models compute themselves (`{first}`) are not written",
            1 + buffers.count()
        ));
    }
    notes.extend(models.iter().filter_map(quantised));
    notes.extend(
        models
            .iter()
            .filter_map(|model| model.checkpoint.about_unlisted()),
    );
    notes
}

/// What is said about a model with 8-bit weights.
fn quantised(model: &Model) -> Option<String> {
    if let Some(packed) = &model.packed {
        let (name, what) = (&model.name, packed.describe());
        return Some(format!(
            "the weights of `{name}` are copied as they are: {what}"
        ));
    }
    let f8 = |dtype: Dtype| dtype.is_f8();
    let count = model.checkpoint.tensors().filter(|t| f8(t.dtype)).count();
    if count == 0 {
        return None;
    }
    let scaled = model.scales.len();
    let mut note = format!(
        "{count} tensors of `{}` are 8-bit floats ({scaled} with scales): they are merged as the \
         numbers they stand for, and the result is \
         not quantised (`quantization_config` is left out of config.json)",
        model.name
    );
    match model.scales.others() {
        0 => {}
        others => note += &format!("; {others} scales of activations or caches are left out"),
    }
    Some(note)
}
