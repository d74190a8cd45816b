//! What an adapter has to know of the model that it is for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tensors::layer;

/// The tensors of a model, and what follows from its kind.
#[derive(Clone, Debug, Default)]
pub struct Base {
    shapes: BTreeMap<String, Vec<usize>>,
    tied: Option<[String; 2]>,
    model_type: String,
}

/// Last parts of the names of modules that are embeddings, which PEFT adapts in another way.
const EMBEDDINGS: [&str; 13] = [
    "embed_tokens",
    "wte",
    "embed_in",
    "word_embeddings",
    "tok_embeddings",
    "tokens_embed",
    "shared",
    "embed_tokens_per_layer",
    "wpe",
    "embed_positions",
    "position_embeddings",
    "token_type_embeddings",
    "relative_attention_bias",
];

/// Those of them that have a row for each token.
const BY_TOKEN: usize = 7;

/// Last parts of the names of heads.
const HEADS: [&str; 4] = ["lm_head", "embed_out", "output", "score"];

/// Families whose projections are stored as in × out (transformers' `Conv1D`).
const TRANSPOSED: [&str; 5] = [
    "gpt2",
    "openai-gpt",
    "imagegpt",
    "decision_transformer",
    "clvp",
];

/// The projections that those families store so.
const CONV1D: [&str; 4] = ["c_attn", "q_attn", "c_proj", "c_fc"];

/// Families whose experts' matrices are stored as in × out (`is_transposed` of transformers).
const TRANSPOSED_EXPERTS: [&str; 4] = ["gpt_oss", "openai_privacy_filter", "aria", "aria_text"];

/// Families whose routers, and experts that transformers stacks, PEFT 0.21 adapts by the names that
/// they have in checkpoints (`transformers_weight_conversion`).
const CONVERTED: [&str; 21] = [
    "mixtral",
    "minimax",
    "minimax_m2",
    "afmoe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "dots1",
    "ernie4_5_moe",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "longcat_flash",
    "solar_open",
    "qwen3_moe",
    "qwen3_next",
    "hunyuan_v1_moe",
    "flex_olmo",
    "olmoe",
    "exaone_moe",
    "cohere2_moe",
];

/// What one program puts before the names of tensors, and another does not, or writes otherwise.
const SPELLINGS: [(&str, &str); 8] = [
    ("model.", ""),
    ("transformer.", ""),
    ("gpt_neox.", ""),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "model."),
    ("model.", "language_model."),
    ("language_model.", ""),
];

impl Base {
    /// A model that has tensors of these names and shapes, and the configuration `config`. `tied`
    /// are the names of embedding and head, where they are one tensor.
    pub fn new(
        tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
        config: &Value,
        tied: Option<[&str; 2]>,
    ) -> Self {
        let mut base = Self {
            shapes: tensors.into_iter().collect(),
            tied: tied.map(|names| names.map(str::to_owned)),
            model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        };
        if let Some([embedding, head]) = base.tied.clone()
            && let Some(shape) = base.shapes.get(&embedding).cloned()
        {
            base.shapes.insert(head, shape);
        }
        base
    }

    /// The names of embedding and head, where they are one tensor.
    pub fn tied(&self) -> Option<[&str; 2]> {
        let tied = self.tied.as_ref()?;
        Some([&tied[0], &tied[1]])
    }

    /// `model_type`; empty where it is not known.
    pub(super) fn model_type(&self) -> &str {
        &self.model_type
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.shapes.get(tensor).map(Vec::as_slice)
    }

    /// The names of all tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// The model's name of a tensor that an adapter calls `name`.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        if self.shapes.contains_key(name) {
            return Some(name.to_owned());
        }
        // transformers 5 has another name for a block of experts.
        let blocks = [
            (".mlp.", ".block_sparse_moe."),
            (".block_sparse_moe.", ".mlp."),
        ];
        let blocks = blocks.map(|(from, to)| name.replace(from, to));
        if let Some(spelt) = blocks
            .into_iter()
            .find(|name| self.shapes.contains_key(name))
        {
            return Some(spelt);
        }
        let both = SPELLINGS.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        let mut spelt = both.filter_map(|(from, to)| {
            let rest = name.strip_prefix(from)?;
            Some(format!("{to}{rest}"))
        });
        spelt.find(|name| self.shapes.contains_key(name))
    }

    /// Whether a module looks tokens or positions up.
    pub(super) fn is_embedding(&self, module: &str) -> bool {
        EMBEDDINGS.contains(&last_part(module))
    }

    /// Whether a module gives the logits.
    pub(super) fn is_head(&self, module: &str) -> bool {
        HEADS.contains(&last_part(module))
    }

    /// Whether a tensor is the weight of the embedding or of the head.
    pub(super) fn is_by_token(&self, tensor: &str) -> bool {
        let Some(module) = tensor.strip_suffix(".weight") else {
            return false;
        };
        let last = last_part(module);
        let known = EMBEDDINGS[..BY_TOKEN].contains(&last) || HEADS.contains(&last);
        known && layer(tensor).is_none()
    }

    /// Whether the matrices of experts are stored as in × out.
    pub(super) fn has_transposed_experts(&self) -> bool {
        TRANSPOSED_EXPERTS.contains(&self.model_type.as_str())
    }

    /// Whether a module is a projection, other than the head, by its name in the adapter.
    pub(super) fn is_projection(&self, module: &str) -> bool {
        let weight = self.find(&format!("{module}.weight"));
        let is_matrix = weight.is_some_and(|name| self.shapes[&name].len() == 2);
        let is_other = self.is_embedding(module) || self.is_head(module);
        is_matrix && !is_other && is_projection_name(module, &self.model_type)
    }

    /// Whether the weight of a projection is stored as in × out.
    pub(super) fn is_transposed(&self, module: &str) -> bool {
        TRANSPOSED.contains(&self.model_type.as_str()) && CONV1D.contains(&last_part(module))
    }
}

/// Whether a module is one of the experts of a block that a checkpoint has one by one.
pub(super) fn is_expert(module: &str) -> bool {
    let mut after = module.rsplit_once(".experts.").into_iter();
    after.any(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Whether PEFT can adapt the module of a matrix in a layer of a model of this type: routers, and
/// experts that transformers stacks, are none of its projections, but where it takes the names of
/// earlier versions.
pub(super) fn is_projection_name(module: &str, model_type: &str) -> bool {
    if is_expert(module) && !CONVERTED.contains(&model_type) {
        return false;
    }
    match last_part(module) {
        "router" => false,
        "gate" => CONVERTED.contains(&model_type),
        _ => true,
    }
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}
