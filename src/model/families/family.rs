//! What is to be said of a family, as data.

use super::fields::Fields;
use crate::error::Result;
use crate::model::config::{Activation, Architecture, Config, Names, NormKind};

/// A family of decoders.
pub(crate) struct Family {
    /// What `architectures[0]` may be; the first is its name.
    pub classes: &'static [&'static str],
    /// `model_type`, for files without `architectures`.
    pub model_type: &'static str,
    /// The names in its checkpoints.
    pub names: &'static Names,
    /// Other names of fields, each with the usual one. transformers takes the value under the other
    /// name where a file has both.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Sizes that published files leave to transformers, and what they are there.
    pub defaults: &'static [(&'static str, u64)],
    /// How its `config.json` is read.
    pub reading: Reading,
    /// For tests: changes, as JSON, to the fields of a tiny Llama that make one of this family.
    #[cfg(test)]
    pub sample: &'static str,
}

impl Family {
    pub fn architecture(&self) -> Architecture {
        Architecture {
            class: self.classes[0],
            model_type: self.model_type,
            names: self.names,
        }
    }
}

/// How a `config.json` is read.
pub(crate) enum Reading {
    /// By the fields that Llama's file introduced.
    LlamaLike(LlamaLike),
    /// By fields of its own; the result lacks the raw form.
    Own(fn(&Fields<'_>, Architecture) -> Result<Config>),
}

/// What a family with Llama's fields leaves unsaid in its `config.json`, and what it has beside them.
#[derive(Clone, Copy)]
pub(crate) struct LlamaLike {
    /// `rms_norm_eps` where it is absent.
    pub norm_eps: f64,
    /// Kind of the norms.
    pub norm: NormKind,
    /// `rope_theta` where it is absent.
    pub rope_theta: f64,
    /// `rope_local_base_freq` where it is absent, if layers with a window have a rotary embedding of
    /// their own; `rope_parameters` then has settings for each type of layer.
    pub window_rope_theta: Option<f64>,
    /// Whether `partial_rotary_factor` may rotate a part of each head only.
    pub partial_rotary: bool,
    /// `original_max_position_embeddings` where it is absent at the top of the file; none: what stands
    /// beside the other settings of the rotary embedding, else `max_position_embeddings`.
    pub original_context: Option<usize>,
    /// `num_key_value_heads` where it is absent; none: as many as query heads.
    pub key_value_heads: Option<usize>,
    /// `head_dim` where it is absent; none: the hidden size divided by the heads.
    pub head_dim: Option<usize>,
    /// `tie_word_embeddings` where it is absent.
    pub tied: bool,
    /// Whether embeddings are multiplied by the root of the hidden size.
    pub scaled_embeddings: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Biases of the attention.
    pub attention_bias: AttentionBias,
    /// The field that gives the feed-forward projections biases, if they may have them.
    pub mlp_bias: Option<&'static str>,
    /// The field that names the non-linearity, and what it is where the field is absent.
    pub activation: (&'static str, Activation),
    /// How far layers look back.
    pub windows: Windows,
    /// What the rest of the table cannot say; called last.
    pub more: fn(&Fields<'_>, &mut Config) -> Result<()>,
}

/// Biases of the attention's projections.
#[derive(Clone, Copy)]
pub(crate) enum AttentionBias {
    /// None.
    Never,
    /// On queries, keys and values.
    Qkv,
    /// On all four, if this field says so; what it is where it is absent.
    Field(&'static str, bool),
}

/// How far layers look back.
#[derive(Clone, Copy)]
pub(crate) enum Windows {
    /// To the first token.
    Never,
    /// By `sliding_window`, in all layers; what it is where it is absent (`null` is none).
    Everywhere(Option<usize>),
    /// By `sliding_window`, so many where it is absent: in the layers that `layer_types` names, in
    /// all without it.
    Named(usize),
    /// By `sliding_window`, so many where it is absent, where `use_sliding_window` asks for it: in
    /// the layers that `layer_types` names, or from `max_window_layers` on.
    WhereAsked(usize),
    /// By `sliding_window`, so many where it is absent, where `use_sliding_window` asks for it: in
    /// all layers.
    EverywhereAsked(usize),
    /// By `sliding_window`, `width` where it is absent, in the layers that `layer_types` names, or in
    /// all but the last of every `period` layers, of which the file may give the number in `field`.
    Periodic {
        width: usize,
        period: usize,
        field: Option<&'static str>,
    },
}

/// Llama itself: what others begin from.
pub(crate) const LLAMA_LIKE: LlamaLike = LlamaLike {
    norm_eps: 1e-6,
    norm: NormKind::Rms,
    rope_theta: 1e4,
    window_rope_theta: None,
    partial_rotary: false,
    original_context: None,
    key_value_heads: None,
    head_dim: None,
    tied: false,
    scaled_embeddings: false,
    qk_norm: false,
    attention_bias: AttentionBias::Never,
    mlp_bias: None,
    activation: ("hidden_act", Activation::Silu),
    windows: Windows::Never,
    more: |_, _| Ok(()),
};
