//! What becomes of each setting that depends on layers.

use serde_json::{Map, Value};

/// The class of a layer by its number and the settings around it; none where they say nothing.
pub(super) type Class = fn(usize, &Map<String, Value>) -> Option<u64>;

/// What becomes of a setting.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// An entry (or a character) for each layer: they follow the layers.
    Each,
    /// A list that is gone through again and again: written out where it no longer fits.
    Cycle,
    /// Numbers of layers: they are renumbered.
    Numbers,
    /// An object by numbers of layers: renumbered.
    ByNumber,
    /// So many first layers are of one kind: counted anew, if they still come first.
    First,
    /// A number of the last layer: the new one.
    Last,
    /// So many layers, evenly among all, are of another kind: as many as before in a period.
    Share,
    /// Layers are of classes by their numbers: kept if each layer keeps its class, else refused.
    Class(Class),
    /// The same; where it does not hold, the layers of class `of` are listed in the field `list`, and the
    /// setting becomes 1 if `reset`.
    Listed {
        class: Class,
        list: &'static str,
        of: u64,
        reset: bool,
    },
    /// GPT-Neo's kinds of attention with their repetitions.
    Repeated,
    /// Divided by the root of the number of layers where it is used.
    PerRoot,
    /// Refused, unless it is off.
    Refused,
}

/// A row of the table.
pub(super) struct Row {
    /// The settings that the rule holds for.
    pub keys: &'static [&'static str],
    /// What becomes of them.
    pub rule: Rule,
    /// Lists that count in their stead, where they are given.
    pub unless: &'static [&'static str],
}

const fn row(keys: &'static [&'static str], rule: Rule) -> Row {
    Row {
        keys,
        rule,
        unless: &[],
    }
}

const fn unless(keys: &'static [&'static str], rule: Rule, unless: &'static [&'static str]) -> Row {
    Row { keys, rule, unless }
}

/// The table, in the order in which it is applied: lists come first.
pub(super) static ROWS: &[Row] = &[
    row(
        &[
            "layer_types",
            "mlp_layer_types",
            "no_rope_layers",
            "layers_block_type",
            "hybrid_override_pattern",
            "indexer_types",
            "activation_sparsity_pattern",
            "layer_rope_theta",
            "rope_theta_per_layer",
            "attention_layers",
            "attn_layers",
            "num_attention_heads_per_layer",
            "num_key_value_heads_per_layer",
            "num_attention_heads",
            "num_query_heads",
            "num_key_value_heads",
            "num_kv_heads",
            "intermediate_size",
            "intermediate_sizes",
            "ffn_multipliers",
            "qkv_multipliers",
            "block_configs",
            "layer_scales",
            "sliding_windows",
            "attention_window",
            "window_sizes",
            "moe_layer_freq",
            "layer_norm_types",
            "ffn_types",
        ],
        Rule::Each,
    ),
    row(&["block_types", "_block_types"], Rule::Cycle),
    row(&["attention_types"], Rule::Repeated),
    row(
        &[
            "mlp_only_layers",
            "moe_layers",
            "moe_layers_enum",
            "full_attn_idxs",
            "cross_attention_layers",
            "attn_layer_indices",
            "attn_layer_idx",
            "attention_layer_ids",
            "attention_layer_idx",
            "hybrid_layer_ids",
            "global_attn_idx",
            "global_attn_layers",
            "local_layer_ids",
            "sliding_window_layers",
            "full_attention_layers",
            "linear_attention_layers",
            "dense_layers",
            "sparse_layers",
            "nope_layers",
            "rope_layers",
            "rope_scaling_layers",
            "ple_layer_ids",
        ],
        Rule::Numbers,
    ),
    row(&["per_layer_config"], Rule::ByNumber),
    unless(
        &[
            "first_k_dense_replace",
            "num_dense_layers",
            "n_dense_layers",
            "num_first_dense_layers",
            "moe_layer_start_index",
        ],
        Rule::First,
        &["mlp_layer_types"],
    ),
    unless(&["max_window_layers"], Rule::First, &["layer_types"]),
    row(&["moe_layer_end_index"], Rule::Last),
    row(
        &["num_sparse_encoder_layers", "num_sparse_decoder_layers"],
        Rule::Share,
    ),
    unless(
        &["no_rope_layer_interval"],
        Rule::Class(|layer, map| last_of(layer, map, "no_rope_layer_interval")),
        &["no_rope_layers"],
    ),
    unless(
        &["sliding_window_pattern"],
        Rule::Class(|layer, map| pattern(layer, map, "sliding_window_pattern")),
        &["layer_types"],
    ),
    unless(
        &["_sliding_window_pattern"],
        Rule::Class(|layer, map| pattern(layer, map, "_sliding_window_pattern")),
        &["layer_types"],
    ),
    unless(
        &["global_attn_every_n_layers"],
        Rule::Class(|layer, map| rest(layer, map, "global_attn_every_n_layers")),
        &["layer_types"],
    ),
    unless(
        &["full_attention_interval"],
        Rule::Class(|layer, map| last_of(layer, map, "full_attention_interval")),
        &["layer_types"],
    ),
    unless(
        &["layer_group_size"],
        Rule::Class(|layer, map| rest(layer, map, "layer_group_size")),
        &["layer_types"],
    ),
    unless(
        &["attn_layer_period"],
        Rule::Class(|layer, map| offset(layer, map, "attn_layer_period", "attn_layer_offset")),
        &["layers_block_type", "layer_types"],
    ),
    row(
        &["expert_layer_period"],
        Rule::Class(|layer, map| offset(layer, map, "expert_layer_period", "expert_layer_offset")),
    ),
    row(
        &["decoder_sparse_step"],
        Rule::Listed {
            class: sparse_step,
            list: "mlp_only_layers",
            of: 0,
            reset: true,
        },
    ),
    row(
        &["encoder_sparse_step"],
        Rule::Class(|layer, map| rest(layer, map, "encoder_sparse_step")),
    ),
    unless(
        &["interleave_moe_layer_step"],
        Rule::Listed {
            class: |layer, map| last_of(layer, map, "interleave_moe_layer_step"),
            list: "moe_layers",
            of: 1,
            reset: false,
        },
        &["moe_layers"],
    ),
    row(
        &["moe_layer_freq"],
        Rule::Class(|layer, map| rest(layer, map, "moe_layer_freq")),
    ),
    unless(
        &["moe_layer_interval"],
        Rule::Class(|layer, map| last_of(layer, map, "moe_layer_interval")),
        &["mlp_layer_types"],
    ),
    row(
        &["moe_every_n_layers"],
        Rule::Class(|layer, map| rest(layer, map, "moe_every_n_layers")),
    ),
    row(
        &["cross_layer_interval"],
        Rule::Class(|layer, map| rest(layer, map, "cross_layer_interval")),
    ),
    row(
        &["cross_attention_frequency"],
        Rule::Class(|layer, map| rest(layer, map, "cross_attention_frequency")),
    ),
    row(
        &["scale_attn_by_inverse_layer_idx"],
        Rule::Class(|layer, map| {
            on(map, "scale_attn_by_inverse_layer_idx").then_some(layer as u64)
        }),
    ),
    row(&["scale_depth"], Rule::PerRoot),
    row(
        &[
            "num_kv_shared_layers",
            "kv_source_layers",
            "cla_share_factor",
            "kv_sharing",
            // Zamba's blocks that many layers share.
            "num_mem_blocks",
            "n_mamba_heads",
            "linear_attn_config",
        ],
        Rule::Refused,
    ),
];

/// Settings whose names look as if they depended on layers, or lists that are as long as some models,
/// and that do not.
pub(super) const HARMLESS: [&str; 26] = [
    "architectures",
    "auto_map",
    "keys_to_ignore_at_inference",
    "time_step_limit",
    "mrope_section",
    "conv_kernel",
    "conv_stride",
    "conv_dim",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_decoder_ids",
    "bad_words_ids",
    "pruned_heads",
    "languages",
    "no_rope_layer_interval",
    "attn_layer_offset",
    "expert_layer_offset",
    "vision_feature_layer",
    "feature_layer",
    "mtp_layer_types",
    "mtp_mlp_layer_types",
    "mtp_layers_block_type",
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "mtp_num_layers",
    "mtp_num_hidden_layers",
];

fn number(map: &Map<String, Value>, key: &str) -> Option<usize> {
    let number = map.get(key)?.as_u64()?;
    usize::try_from(number).ok().filter(|number| *number > 0)
}

fn on(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}

/// Whether the layer is the last of a period.
fn last_of(layer: usize, map: &Map<String, Value>, key: &str) -> Option<u64> {
    let period = number(map, key)?;
    Some(u64::from((layer + 1).is_multiple_of(period)))
}

/// Its place in a period, where it is not known which of them is another kind.
fn rest(layer: usize, map: &Map<String, Value>, key: &str) -> Option<u64> {
    let period = number(map, key)?;
    Some((layer % period) as u64)
}

/// Whether it is so far into a period.
fn offset(layer: usize, map: &Map<String, Value>, period: &str, offset: &str) -> Option<u64> {
    let period = number(map, period)?;
    let offset = map.get(offset).and_then(Value::as_u64).unwrap_or(0) as usize;
    Some(u64::from(layer % period == offset % period))
}

/// By a period, or by a pattern of letters.
fn pattern(layer: usize, map: &Map<String, Value>, key: &str) -> Option<u64> {
    match map.get(key)? {
        Value::String(letters) if !letters.is_empty() => {
            let at = layer % letters.len();
            Some(u64::from(letters.as_bytes()[at]))
        }
        _ => last_of(layer, map, key),
    }
}

/// Whether it has experts: in each so-manieth layer, but for those that are listed.
fn sparse_step(layer: usize, map: &Map<String, Value>) -> Option<u64> {
    let is_last = last_of(layer, map, "decoder_sparse_step")?;
    let dense = map.get("mlp_only_layers").and_then(Value::as_array);
    let layer = Value::from(layer);
    let is_dense = dense.is_some_and(|layers| layers.contains(&layer));
    Some(if is_dense { 0 } else { is_last })
}
