//! The files of a model folder by their names, and what depends on each.

use std::path::Path;

use crate::error::{Context, Result};

/// The model's configuration.
pub const CONFIG: &str = "config.json";
/// The weights of an unsharded checkpoint.
pub const SINGLE: &str = "model.safetensors";
/// The list of shards.
pub const INDEX: &str = "model.safetensors.index.json";
/// The tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The tokenizer's settings.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Special tokens by their names, of older models.
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
/// Tokens added to a slow tokenizer.
pub const ADDED_TOKENS: &str = "added_tokens.json";
/// The chat template of newer models.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// How text is generated.
pub const GENERATION: &str = "generation_config.json";
/// The settings of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What a file beside the weights is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The tokens.
    Tokens,
    /// What holds for the tokenizer whatever its tokens are.
    Settings,
    /// The same tokens for slow tokenizers.
    Slow,
    /// How text is generated.
    Generation,
    /// What may be done with the model.
    Licence,
}

/// A file that belongs to a model but not to its weights: what is made from the model gets a copy.
#[derive(Clone, Copy, Debug)]
pub struct Companion {
    /// Its name in the folder.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Whether our tokenisation and chat templates depend on it.
    pub tokenises: bool,
}

const fn file(name: &'static str, role: Role, tokenises: bool) -> Companion {
    Companion {
        name,
        role,
        tokenises,
    }
}

/// All companions.
pub const COMPANIONS: [Companion; 12] = [
    file(TOKENIZER, Role::Tokens, true),
    file("tokenizer.model", Role::Slow, false),
    file(TOKENIZER_CONFIG, Role::Settings, true),
    file(SPECIAL_TOKENS_MAP, Role::Settings, true),
    file(ADDED_TOKENS, Role::Slow, true),
    file("vocab.json", Role::Slow, false),
    file("vocab.txt", Role::Slow, false),
    file("merges.txt", Role::Slow, false),
    file(CHAT_TEMPLATE, Role::Settings, true),
    file("chat_template.json", Role::Settings, true),
    file(GENERATION, Role::Generation, false),
    file("LICENSE", Role::Licence, false),
];

/// Copies the companions that are `wanted` from one model folder to another, those that are there.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy_companions(from: &Path, to: &Path, wanted: impl Fn(&Companion) -> bool) -> Result<()> {
    for companion in COMPANIONS.iter().filter(|companion| wanted(companion)) {
        let (from, to) = (from.join(companion.name), to.join(companion.name));
        if from.is_file() {
            // Not `fs::copy`: a read-only original would make a read-only copy.
            let bytes = std::fs::read(&from).at(&from)?;
            std::fs::write(&to, bytes).at(&to)?;
        }
    }
    Ok(())
}
