//! Lists with an entry for each layer that models go by where their configurations lack them: the
//! defaults of transformers' configurations.

use serde_json::{Map, Value};

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";
const LINEAR: &str = "linear_attention";

/// The list of models without one.
pub(super) struct Implied {
    /// `model_type`.
    pub types: &'static [&'static str],
    /// The list.
    pub list: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What an implied list holds.
pub(super) enum Kind {
    /// `last` in the last layer of each period, `others` in the others. The period is the first of these
    /// settings that is given, or the number.
    Last {
        period: (&'static [&'static str], usize),
        last: Entry,
        others: Entry,
    },
    /// The same for the first layer of each period.
    First {
        period: (&'static [&'static str], usize),
        first: Entry,
        others: Entry,
    },
    /// Something else.
    Unknown,
}

/// An entry of a list.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    Text(&'static str),
    Number(u64),
}

impl From<Entry> for Value {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Text(text) => text.into(),
            Entry::Number(number) => number.into(),
        }
    }
}

const fn last(
    types: &'static [&'static str],
    period: (&'static [&'static str], usize),
    others: &'static str,
) -> Implied {
    let kind = Kind::Last {
        period,
        last: Entry::Text(FULL),
        others: Entry::Text(others),
    };
    Implied {
        types,
        list: "layer_types",
        kind,
    }
}

const fn first(
    types: &'static [&'static str],
    period: (&'static [&'static str], usize),
    others: &'static str,
) -> Implied {
    let kind = Kind::First {
        period,
        first: Entry::Text(FULL),
        others: Entry::Text(others),
    };
    Implied {
        types,
        list: "layer_types",
        kind,
    }
}

const fn no_rope(types: &'static [&'static str]) -> Implied {
    Implied {
        types,
        list: "no_rope_layers",
        kind: Kind::Last {
            period: (&["no_rope_layer_interval"], 4),
            last: Entry::Number(0),
            others: Entry::Number(1),
        },
    }
}

const PATTERN: &[&str] = &["sliding_window_pattern", "_sliding_window_pattern"];

/// All implied lists.
pub(super) static IMPLIED: &[Implied] = &[
    last(&["gemma2", "vaultgemma", "gpt_oss"], (&[], 2), SLIDING),
    last(&["gemma3_text", "gemma4_text"], (PATTERN, 6), SLIDING),
    last(&["gemma3n_text"], (&[], 5), SLIDING),
    last(
        &["cohere2", "exaone4", "exaone_moe", "olmo3"],
        (PATTERN, 4),
        SLIDING,
    ),
    last(&["afmoe"], (&["global_attn_every_n_layers"], 4), SLIDING),
    last(
        &[
            "qwen3_next",
            "qwen3_5_text",
            "qwen3_5_moe_text",
            "olmo_hybrid",
        ],
        (&["full_attention_interval"], 4),
        LINEAR,
    ),
    first(&["cwm", "granite_swa", "granitemoe_swa"], (&[], 4), SLIDING),
    first(
        &["modernbert", "modernbert-decoder"],
        (&["global_attn_every_n_layers"], 3),
        SLIDING,
    ),
    first(&["minimax"], (&[], 2), LINEAR),
    no_rope(&["smollm3", "llama4_text"]),
    Implied {
        types: &[
            "bailing_hybrid",
            "beam",
            "cohere2_moe",
            "deepseek_v4",
            "diffusion_gemma_text",
            "dory",
            "dots3_note_text",
            "embedding_gemma2_text",
            "flint",
            "gemma4_unified_text",
            "glm5_next_text",
            "inkling2_loop_text",
            "inkling2_text",
            "inkling_text",
            "kimi_linear",
            "kolibri1",
            "lara_mini",
            "lfm3",
            "mimo_v2_flash",
            "muse_glimmer_text",
            "muse_spark_text",
            "neomme",
            "qwen4_exp_text",
            "t5_gemma_module",
            "t5gemma2_decoder",
            "t5gemma2_text",
            "ultrabert",
        ],
        list: "layer_types",
        kind: Kind::Unknown,
    },
];

impl Kind {
    /// The list's entry for a layer of a model with the settings `map`; none where it is not known.
    pub fn entry(&self, layer: usize, map: &Map<String, Value>) -> Option<Value> {
        let length = |(keys, default): &(&[&str], usize)| {
            let given = keys.iter().find_map(|key| map.get(*key));
            match given.filter(|given| !given.is_null()) {
                None => Some(*default),
                Some(given) => given.as_u64().map(|n| n as usize).filter(|n| *n > 0),
            }
        };
        let entry = match self {
            Self::Unknown => return None,
            Self::Last {
                period,
                last,
                others,
            } => match (layer + 1).is_multiple_of(length(period)?) {
                true => last,
                false => others,
            },
            Self::First {
                period,
                first,
                others,
            } => match layer.is_multiple_of(length(period)?) {
                true => first,
                false => others,
            },
        };
        Some((*entry).into())
    }
}
