//! What is known of a model that need not be run: its distributions are imported, or its tokens made.

use std::path::Path;

use serde_json::{Map, Value};

use super::Config;
use crate::checkpoint::read_config;
use crate::error::Result;
use crate::progress::warn_once;

/// Names of the most tokens that a model reads, in the configurations of all families.
const CONTEXT: [&str; 6] = [
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
];

/// A model by its configuration, whether or not its family is one that can be run.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Its architecture, as it calls itself; empty if it does not say.
    pub architecture: String,
    /// Its parameters; 0 if its family cannot be run, and where there is no configuration.
    pub parameters: u64,
    /// The rows of its embedding, if it says so.
    pub rows: Option<usize>,
    /// The most tokens that it reads, if it says so.
    pub context: Option<usize>,
}

impl Outline {
    /// Reads the configuration of the model in the folder, or GGUF file, `dir`; says why it cannot be
    /// run, if it cannot.
    ///
    /// # Errors
    /// A configuration that is missing, or no JSON object.
    pub fn of(dir: &Path) -> Result<Self> {
        match Config::load(dir) {
            Ok(config) => Ok(Self::from(&config)),
            Err(error) => {
                let (raw, _) = read_config(dir)?;
                warn_once(format!(
                    "only the tokens of this model can be used: {error}"
                ));
                Ok(Self::from_raw(&raw))
            }
        }
    }

    fn from_raw(raw: &Map<String, Value>) -> Self {
        let text = raw.get("text_config").and_then(Value::as_object);
        let places = [Some(raw), text];
        let number = |name: &str| {
            let found = places
                .iter()
                .flatten()
                .find_map(|map| map.get(name)?.as_u64());
            found.and_then(|number| usize::try_from(number).ok())
        };
        let architecture = raw.get("architectures").and_then(|names| names.get(0));
        Self {
            architecture: architecture
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            parameters: 0,
            rows: number("vocab_size"),
            context: CONTEXT.iter().find_map(|name| number(name)),
        }
    }
}

impl From<&Config> for Outline {
    fn from(config: &Config) -> Self {
        Self {
            architecture: config.architecture.name().to_owned(),
            parameters: config.parameters(),
            rows: Some(config.vocab_size),
            context: Some(config.max_position_embeddings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_cannot_be_run_has_an_outline() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "text_config": {"vocab_size": 129280, "max_position_embeddings": 163840}}"#;
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let outline = Outline::of(dir.path()).unwrap();
        assert_eq!(outline.architecture, "DeepseekV3ForCausalLM");
        assert_eq!(
            (outline.rows, outline.context),
            (Some(129_280), Some(163_840))
        );
        std::fs::write(dir.path().join("config.json"), "[]").unwrap();
        assert!(Outline::of(dir.path()).is_err());
    }
}
