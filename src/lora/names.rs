//! The names of an adapter's tensors, and what they belong to.

/// What PEFT puts before the names of modules.
pub(super) const PREFIX: &str = "base_model.model.";

/// What a tensor is to the module whose name it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// rank × in.
    A,
    /// out × rank.
    B,
    /// Of an embedding: rank × rows.
    EmbeddingA,
    /// Of an embedding: columns × rank.
    EmbeddingB,
    /// Added to the bias (`lora_bias`).
    Bias,
    /// The lengths of the rows of the adapted weight: DoRA.
    Magnitude,
    /// The module's own parameter of this name, below the adapter.
    Below(&'static str),
    /// In place of the module's parameter of this name: `modules_to_save`, spelt out.
    Saved(&'static str),
    /// What a saved module was before; nothing reads it.
    Before,
    /// Rows of some tokens: `trainable_token_indices`.
    Tokens,
}

/// How the name of a tensor ends, and what that makes it.
const PARTS: [(&str, Part); 26] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_A.default.weight", Part::A),
    (".lora_B.default.weight", Part::B),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_embedding_A.default", Part::EmbeddingA),
    (".lora_embedding_B.default", Part::EmbeddingB),
    (".lora_B.bias", Part::Bias),
    (".lora_B.default.bias", Part::Bias),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.default", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".lora_magnitude_vector.default.weight", Part::Magnitude),
    (".token_adapter.trainable_tokens_delta", Part::Tokens),
    (
        ".token_adapter.trainable_tokens_delta.default",
        Part::Tokens,
    ),
    (".token_adapter.base_layer.weight", Part::Below("weight")),
    (".base_layer.weight", Part::Below("weight")),
    (".base_layer.bias", Part::Below("bias")),
    (".modules_to_save.weight", Part::Saved("weight")),
    (".modules_to_save.bias", Part::Saved("bias")),
    (".modules_to_save.default.weight", Part::Saved("weight")),
    (".modules_to_save.default.bias", Part::Saved("bias")),
    (".original_module.weight", Part::Before),
    (".original_module.bias", Part::Before),
    (".token_adapter.trainable_tokens_original", Part::Before),
];

/// The module that a tensor (its name without the prefix) belongs to, and what it is there.
pub(super) fn part(name: &str) -> Option<(&str, Part)> {
    PARTS
        .iter()
        .find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)))
}

/// The names of A and B of a module, without the prefix.
pub fn halves(module: &str) -> [String; 2] {
    [PARTS[0].0, PARTS[1].0].map(|end| format!("{module}{end}"))
}

/// The names of A and B of a module that is an embedding, without the prefix.
pub(super) fn embedding_halves(module: &str) -> [String; 2] {
    [PARTS[4].0, PARTS[5].0].map(|end| format!("{module}{end}"))
}

/// The name of a module's weight.
pub(super) fn weight_of(module: &str) -> String {
    format!("{module}.weight")
}

/// Whether `target` stands for `module`: it is its name, or the last parts of it.
pub fn names_module(target: &str, module: &str) -> bool {
    let before = module.strip_suffix(target);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A module with a matrix that can be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name: that of its weight, without `.weight`.
    pub name: String,
    /// Width of what it computes.
    pub rows: usize,
    /// Width of what it reads.
    pub columns: usize,
}

impl Module {
    /// The last part of its name: the shortest target that stands for it.
    pub fn last_part(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}
