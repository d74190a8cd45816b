//! Which tensor of a GGUF file a parameter is, and what llama.cpp's converter has done to it.

use crate::model::config::Config;

/// A parameter as it lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Origin {
    /// Name of the tensor.
    pub name: String,
    /// Which of its outermost slices, where it holds one matrix for each expert.
    pub expert: Option<usize>,
    /// What to undo.
    pub change: Change,
}

impl Origin {
    /// Where the matrix of an expert lies in files from before April 2024, which have a tensor for
    /// each.
    pub fn alone(&self) -> Option<Self> {
        let (stem, kind) = self.name.split_once("_exps.")?;
        Some(Self {
            name: format!("{stem}.{}.{kind}", self.expert?),
            expert: None,
            change: self.change,
        })
    }
}

/// What the converter does to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The rows of each of so many heads are reordered from halves to pairs, because the `llama`
    /// architecture rotates neighbours there.
    Paired {
        /// Number of heads.
        heads: usize,
    },
    /// One is added to all elements (norm weights of Gemma).
    PlusOne,
}

/// Parts of a layer by their Hugging Face names.
const LAYER: [(&str, &str); 15] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.gate", "ffn_gate_inp"),
];

/// Where Gemma 2 and 3 differ.
const GEMMA2: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// What is before the number of an expert.
const EXPERTS: [&str; 2] = ["block_sparse_moe.experts.", "mlp.experts."];

/// Matrices of an expert.
const EXPERT: [(&str, &str); 6] = [
    ("w1", "ffn_gate"),
    ("w2", "ffn_down"),
    ("w3", "ffn_up"),
    ("gate_proj", "ffn_gate"),
    ("down_proj", "ffn_down"),
    ("up_proj", "ffn_up"),
];

/// Where the parameter `name` lies in a file of architecture `family`.
pub(super) fn origin(family: &str, config: &Config, name: &str) -> Option<Origin> {
    let (place, kind) = name.rsplit_once('.')?;
    let is_norm = place.ends_with("norm");
    let change = |place: &str| match place {
        "self_attn.q_proj" if family == "llama" => Change::Paired {
            heads: config.num_attention_heads,
        },
        "self_attn.k_proj" if family == "llama" => Change::Paired {
            heads: config.num_key_value_heads,
        },
        _ if family.starts_with("gemma") && is_norm => Change::PlusOne,
        _ => Change::None,
    };
    let plain = |name: String, change| Origin {
        name,
        expert: None,
        change,
    };
    let outer = match place {
        "model.embed_tokens" => Some("token_embd"),
        "model.norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(plain(format!("{outer}.{kind}"), change(place)));
    }
    let (layer, part) = place.strip_prefix("model.layers.")?.split_once('.')?;
    let mut experts = EXPERTS.iter();
    if let Some(rest) = experts.find_map(|experts| part.strip_prefix(experts)) {
        let (expert, matrix) = rest.split_once('.')?;
        let (_, short) = EXPERT.iter().find(|(name, _)| *name == matrix)?;
        return Some(Origin {
            name: format!("blk.{layer}.{short}_exps.{kind}"),
            expert: Some(expert.parse().ok()?),
            change: Change::None,
        });
    }
    let special: &[(&str, &str)] = match family {
        "gemma2" | "gemma3" => &GEMMA2,
        _ => &[],
    };
    let (_, short) = special
        .iter()
        .chain(&LAYER)
        .find(|(name, _)| *name == part)?;
    Some(plain(format!("blk.{layer}.{short}.{kind}"), change(part)))
}

/// Row of the file that holds row `row` of a matrix of `rows` rows that is [`Change::Paired`].
pub(super) fn paired_row(row: usize, rows: usize, heads: usize) -> usize {
    let width = rows / heads.max(1);
    let (head, place) = (row / width, row % width);
    let half = width / 2;
    head * width + 2 * (place % half) + place / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_stacked_or_alone() {
        let stacked = Origin {
            name: "blk.3.ffn_up_exps.weight".to_owned(),
            expert: Some(5),
            change: Change::None,
        };
        let alone = stacked.alone().unwrap();
        assert_eq!(alone.name, "blk.3.ffn_up.5.weight");
        assert_eq!((alone.expert, alone.alone()), (None, None));
    }

    #[test]
    fn pairs_become_halves() {
        // Two heads of six rows: the file has pairs (0 3) (1 4) (2 5) of the first head.
        let order: Vec<usize> = (0..12).map(|row| paired_row(row, 12, 2)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
