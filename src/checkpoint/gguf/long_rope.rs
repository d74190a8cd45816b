//! The frequencies of LongRoPE (Phi-3.5, Phi-4-mini), which llama.cpp's converter writes as tensors.

use serde_json::{Map, Value as Json, json};

use super::Gguf;
use super::metadata::shortest;
use crate::error::{Error, Result};

/// Divisors of the frequencies within the context of the original training, and beyond it.
pub(super) const TENSORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

impl Gguf {
    /// Puts what a file has as tensors into the `rope_scaling` of its `config.json`.
    ///
    /// # Errors
    /// One tensor without the other, numbers that are not f32, no length of the original context.
    pub(super) fn long_rope(&self, config: &mut Map<String, Json>) -> Result<()> {
        let [short, long] = TENSORS.map(|name| self.factors(name));
        let (short, long) = match (short?, long?) {
            (None, None) => return Ok(()),
            (Some(short), Some(long)) => (short, long),
            _ => {
                let [short, long] = TENSORS;
                let problem = format!("has one of `{short}` and `{long}`, expected both");
                return Err(Error::file(self.path(), problem));
            }
        };
        let metadata = self.metadata();
        let key = |name: &str| format!("{}.rope.scaling.{name}", self.family());
        let original = metadata.required(&key("original_context_length"))?;
        config.insert(
            "original_max_position_embeddings".to_owned(),
            json!(original),
        );
        let mut scaling = json!({ "type": "longrope", "short_factor": short, "long_factor": long });
        let context = config.get("max_position_embeddings").and_then(Json::as_f64);
        let extension = context.unwrap_or(1.0) / original as f64;
        let usual = (1.0 + extension.max(1.0).ln() / (original as f64).ln()).sqrt();
        if let Some(factor) = metadata.float(&key("attn_factor"))?
            && (factor - usual).abs() > 1e-5
        {
            scaling["attention_factor"] = json!(factor);
        }
        config.insert("rope_scaling".to_owned(), scaling);
        Ok(())
    }

    fn factors(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let (Some(tensor), Some(map)) = (self.tensor(name), self.map(name)) else {
            return Ok(None);
        };
        if Self::type_name(tensor) != "F32" {
            let found = Self::type_name(tensor);
            let problem = format!("tensor `{name}`: expected F32, found {found}");
            return Err(Error::file(self.path(), problem));
        }
        let (numbers, _) = map[tensor.bytes.clone()].as_chunks::<4>();
        let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Ok(Some(numbers.map(|n| shortest(f64::from(n))).collect()))
    }
}
