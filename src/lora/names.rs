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
    /// The lengths of the rows of the adapted weight: DoRA.
    Magnitude,
    /// A tensor in the place of the model's own weight.
    Whole,
}

/// How the name of a tensor ends, what that makes it, and whether the module is an embedding.
const PARTS: [(&str, Part, bool); 9] = [
    (".lora_A.weight", Part::A, false),
    (".lora_B.weight", Part::B, false),
    (".lora_A.default.weight", Part::A, false),
    (".lora_B.default.weight", Part::B, false),
    (".lora_embedding_A", Part::A, true),
    (".lora_embedding_B", Part::B, true),
    (".lora_magnitude_vector", Part::Magnitude, false),
    (".lora_magnitude_vector.weight", Part::Magnitude, false),
    (".base_layer.weight", Part::Whole, false),
];

/// The module that a tensor (its name without the prefix) belongs to, what it is there, and
/// whether the module is an embedding.
pub(super) fn part(name: &str) -> Option<(&str, Part, bool)> {
    PARTS.iter().find_map(|(end, part, embedding)| {
        let module = name.strip_suffix(end)?;
        Some((module, *part, *embedding))
    })
}

/// The names of A and B of a module, without the prefix.
pub fn halves(module: &str) -> [String; 2] {
    [PARTS[0].0, PARTS[1].0].map(|end| format!("{module}{end}"))
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
