//! The models that take part in a merge.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::MergeConfig;
use crate::error::{Context, Error, Result};
use crate::tensors::Checkpoint;

/// A model that takes part.
pub(super) struct Model {
    /// Its name as written in the configuration.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// Its `config.json`.
    pub config: Value,
}

impl Model {
    /// Opens a model's folder.
    pub fn open(config: &MergeConfig, name: &str) -> Result<Self> {
        let dir = config.resolve(name);
        let explain = |error: Error| match name.split_once('+') {
            Some(_) if !dir.exists() => error.remedy(
                "adapters (`model+lora`) are not supported; merge the adapter into its model first",
            ),
            _ => error,
        };
        let checkpoint = Checkpoint::open(&dir).map_err(explain)?;
        let path = dir.join("config.json");
        let text = std::fs::read(&path).at(&path)?;
        let config = serde_json::from_slice::<Value>(&text).at(&path)?;
        if !config.is_object() {
            return Err(Error::file(&path, "expected an object"));
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
            checkpoint,
            config,
        })
    }

    pub fn ties_embeddings(&self) -> bool {
        self.config.get("tie_word_embeddings") == Some(&Value::Bool(true))
            && self.checkpoint.info(EMBEDDING).is_some()
    }

    /// The number of layers: as configured, else one more than the highest in a name.
    pub fn layers(&self) -> usize {
        let configured = ["num_hidden_layers", "n_layer", "num_layers"]
            .iter()
            .find_map(|key| self.config.get(*key)?.as_u64());
        let named = || {
            let layers = self.checkpoint.tensors().filter_map(|t| layer(&t.name));
            layers.map(|(_, layer, _)| layer + 1).max().unwrap_or(0)
        };
        configured.map_or_else(named, |layers| layers as usize)
    }

    /// The name under which the model has `name`: an untied head may be tied here.
    pub fn find(&self, name: &str) -> Option<String> {
        if self.checkpoint.info(name).is_some() {
            return Some(name.to_owned());
        }
        (name == HEAD && self.ties_embeddings()).then(|| EMBEDDING.to_owned())
    }

    /// Whether a tensor is none of the model's parameters: a buffer that old programs stored, or
    /// the second copy of a tied embedding.
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with("rotary_emb.inv_freq") || (name == HEAD && self.ties_embeddings())
    }
}

pub(super) const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Splits the name of a layer's tensor into what is before the layer's number, the number and
/// what is after it.
pub(super) fn layer(name: &str) -> Option<(&str, usize, &str)> {
    const CONTAINERS: [&str; 5] = ["layers", "h", "blocks", "layer", "block"];
    let mut start = 0;
    let mut before = "";
    for part in name.split('.') {
        let end = start + part.len();
        if CONTAINERS.contains(&before)
            && let Ok(number) = part.parse::<usize>()
        {
            return Some((&name[..start], number, &name[end..]));
        }
        before = part;
        start = end + 1;
    }
    None
}

/// The folder that contains (or is) `path` and exists, made absolute.
pub(super) fn existing_ancestor(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute
        .ancestors()
        .find_map(|ancestor| ancestor.canonicalize().ok())
        .unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_first_number_in_a_container() {
        assert_eq!(
            layer("model.layers.12.mlp.experts.3.w1.weight"),
            Some(("model.layers.", 12, ".mlp.experts.3.w1.weight"))
        );
        assert_eq!(
            layer("transformer.h.0.ln"),
            Some(("transformer.h.", 0, ".ln"))
        );
        assert_eq!(layer("model.norm.weight"), None);
        assert_eq!(layer("a.3.b"), None);
    }
}
