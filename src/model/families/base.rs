//! What files with fields of their own, not those of Llama, have in common.

use serde_json::Map;

use super::fields::Fields;
use crate::error::Result;
use crate::model::config::{Activation, Architecture, Config, NormKind};

/// Names of the fields with the sizes.
pub(super) struct SizeFields {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub context: &'static str,
}

impl SizeFields {
    /// A decoder of these sizes with layer norms, with keys and values for each query head, and with
    /// a feed-forward block four times as wide as the model; it has no positions and no biases.
    pub fn read(&self, fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
        let hidden_size = fields.size(self.hidden)?;
        let heads = fields.size(self.heads)?;
        let layers = fields.layers(self.layers)?;
        let head_dim = fields.share(self.heads, hidden_size)?;
        Ok(Config {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: hidden_size.saturating_mul(4),
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim,
            max_position_embeddings: fields.size(self.context)?,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            norm_bias: false,
            rope: None,
            window_rope: None,
            alibi_bias_max: None,
            tie_word_embeddings: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            qkv_clip: None,
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            attention_scale_by_depth: false,
            attention_softcap: None,
            final_softcap: None,
            embedding_scale: 1.0,
            activation: Activation::Gelu,
            parallel: false,
            experts: vec![None; layers],
            windows: vec![None; layers],
            initializer_range: fields.number("initializer_range", 0.02)?,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.ids("eos_token_id")?,
            raw: Map::new(),
        })
    }
}
