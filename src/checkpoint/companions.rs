//! The files of a model folder by their names, and what depends on each.
//!
//! Everything in a model's folder that is no weight belongs to the model, whether it is known here
//! or not (code of its own, processors, licences): what is made from the model gets a copy. A name
//! decides ([`kind_of`]), so that one rule holds for folders and for what is downloaded.

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

/// Files in which programs state how they quantised the weights.
pub(super) const QUANTISATION: [&str; 5] = [
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "quanto_qmap.json",
];

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
    /// How the weights are quantised.
    Quantisation,
    /// Anything else: code, processors, licences, notes.
    Other,
}

impl Role {
    /// Whether it is a tokenizer's.
    pub fn is_tokenizer(self) -> bool {
        matches!(self, Self::Tokens | Self::Settings | Self::Slow)
    }
}

/// A file that belongs to a model but not to its weights, and is known.
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

/// The companions that are known by their whole names.
pub const COMPANIONS: [Companion; 16] = [
    file(TOKENIZER, Role::Tokens, true),
    file("tokenizer.model", Role::Slow, false),
    file(TOKENIZER_CONFIG, Role::Settings, true),
    file(SPECIAL_TOKENS_MAP, Role::Settings, true),
    file(ADDED_TOKENS, Role::Slow, true),
    file("vocab.json", Role::Slow, false),
    file("vocab.txt", Role::Slow, false),
    file("merges.txt", Role::Slow, false),
    file("vocab.bpe", Role::Slow, false),
    file("encoder.json", Role::Slow, false),
    file("tekken.json", Role::Slow, false),
    file("bpe.codes", Role::Slow, false),
    file(CHAT_TEMPLATE, Role::Settings, true),
    file("chat_template.json", Role::Settings, true),
    file(GENERATION, Role::Generation, false),
    file("LICENSE", Role::Other, false),
];

/// Endings of further vocabularies of slow tokenizers.
const SLOW: [&str; 4] = [".model", ".spm", ".tiktoken", ".vocab"];

/// Folders of chat templates.
const TEMPLATES: [&str; 2] = ["additional_chat_templates/", "chat_templates/"];

/// Endings of files that hold weights.
const WEIGHTS: [&str; 14] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".onnx",
    ".onnx_data",
    ".msgpack",
    ".h5",
    ".ckpt",
    ".ot",
    ".tflite",
    ".distcp",
    ".nemo",
];

/// Folders of the same weights in other formats, and of states of a training.
const COPIES: [&str; 2] = ["original", "onnx"];
const STATES: &str = "checkpoint-";

/// What is made from a model has its own.
const OWN: [&str; 4] = [
    "README.md",
    super::record::RECORD,
    "merge-journal.jsonl",
    ADAPTER_CONFIG,
];

/// What a file of a model folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It belongs to the model, but not to its weights.
    Companion(Role),
    /// Weights, or the list of their shards.
    Weights,
    /// In a folder of weights in other formats or of states of a training.
    Apart,
    /// The configuration, the model card and the like, which are written anew.
    Own,
    /// Hidden, as caches of other programs and of version control are.
    Hidden,
}

/// What the file of this path in a model folder (with `/`) is.
pub fn kind_of(path: &str) -> FileKind {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut parts = path.split('/');
    if parts.any(|part| part.starts_with('.') || part == "__pycache__") {
        return FileKind::Hidden;
    }
    let apart = |folder: &str| COPIES.contains(&folder) || folder.starts_with(STATES);
    if folders.split('/').any(apart) {
        return FileKind::Apart;
    }
    if is_weights(name) {
        return FileKind::Weights;
    }
    if !folders.is_empty() {
        let templates = TEMPLATES.iter().any(|folder| path.starts_with(folder));
        return FileKind::Companion(match templates {
            true => Role::Settings,
            false => Role::Other,
        });
    }
    if name == CONFIG || OWN.contains(&name) {
        return FileKind::Own;
    }
    FileKind::Companion(role(name))
}

/// Whether a file of this name holds weights, or is the list of their shards.
pub(super) fn is_weights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let listed = name.strip_suffix(".index.json").unwrap_or(&name);
    WEIGHTS.iter().any(|end| listed.ends_with(end))
}

/// What a companion outside the folders is for.
fn role(name: &str) -> Role {
    if let Some(known) = COMPANIONS.iter().find(|companion| companion.name == name) {
        return known.role;
    }
    if QUANTISATION.contains(&name) {
        return Role::Quantisation;
    }
    if name.starts_with("tokenization_") && name.ends_with(".py") {
        return Role::Settings;
    }
    match SLOW.iter().any(|end| name.ends_with(end)) {
        true => Role::Slow,
        false => Role::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        use FileKind::{Apart, Companion, Hidden, Own, Weights};
        for (path, kind) in [
            ("configuration_x.py", Companion(Role::Other)),
            ("tokenization_x.py", Companion(Role::Settings)),
            ("preprocessor_config.json", Companion(Role::Other)),
            ("1_Pooling/config.json", Companion(Role::Other)),
            ("modules.json", Companion(Role::Other)),
            ("USE_POLICY.md", Companion(Role::Other)),
            ("spiece.model", Companion(Role::Slow)),
            ("qwen.tiktoken", Companion(Role::Slow)),
            ("tiktoken.model", Companion(Role::Slow)),
            ("tekken.json", Companion(Role::Slow)),
            ("tokenizer.json", Companion(Role::Tokens)),
            (
                "additional_chat_templates/rag.jinja",
                Companion(Role::Settings),
            ),
            ("hf_quant_config.json", Companion(Role::Quantisation)),
            ("generation_config.json", Companion(Role::Generation)),
            ("1_Pooling/generation_config.json", Companion(Role::Other)),
            ("model.safetensors", Weights),
            ("model.safetensors.index.json", Weights),
            ("pytorch_model.bin.index.json", Weights),
            ("consolidated.00.pth", Weights),
            ("flax_model.msgpack", Weights),
            ("TF_MODEL.H5", Weights),
            ("2_Dense/model.safetensors", Weights),
            ("training_args.bin", Weights),
            ("original/params.json", Apart),
            ("onnx/config.json", Apart),
            ("checkpoint-500/trainer_state.json", Apart),
            ("originals/params.json", Companion(Role::Other)),
            ("original", Companion(Role::Other)),
            ("config.json", Own),
            ("README.md", Own),
            ("fuselm-digests.json", Own),
            (".gitattributes", Hidden),
            (".cache/huggingface/download/x.lock", Hidden),
            ("__pycache__/x.pyc", Hidden),
        ] {
            assert_eq!(kind_of(path), kind, "{path}");
        }
    }
}
