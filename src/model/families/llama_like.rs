//! Reading a `config.json` by the fields that Llama's introduced.

use serde_json::Map;

use super::family::{AttentionBias, LlamaLike};
use super::fields::Fields;
use crate::error::Result;
use crate::model::config::{Architecture, Config, RopeScaling};

impl LlamaLike {
    /// The configuration in `fields`, without its raw form.
    pub(super) fn read(&self, fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
        let hidden_size = fields.size("hidden_size")?;
        let num_hidden_layers = fields.layers("num_hidden_layers")?;
        let (num_attention_heads, num_key_value_heads) = self.heads(fields)?;
        let head_dim = self.head_dim(fields, hidden_size)?;
        let mut config = Config {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            norm: self.norm,
            norm_eps: fields.number("rms_norm_eps", self.norm_eps)?,
            norm_bias: false,
            rope: None,
            window_rope: None,
            alibi_bias_max: None,
            tie_word_embeddings: fields.flag("tie_word_embeddings", self.tied)?,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: self.qk_norm,
            qkv_clip: None,
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            attention_scale_by_depth: false,
            attention_softcap: None,
            final_softcap: None,
            embedding_scale: match self.scaled_embeddings {
                true => (hidden_size as f64).sqrt(),
                false => 1.0,
            },
            activation: fields.activation(self.activation.0, self.activation.1)?,
            parallel: false,
            experts: vec![None; num_hidden_layers],
            windows: self.windows.read(fields, num_hidden_layers)?,
            initializer_range: fields.number("initializer_range", 0.02)?,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.ids("eos_token_id")?,
            raw: Map::new(),
        };
        self.read_rope(fields, &mut config)?;
        self.read_biases(fields, &mut config)?;
        (self.more)(fields, &mut config)?;
        Ok(config)
    }

    fn head_dim(&self, fields: &Fields<'_>, hidden_size: usize) -> Result<usize> {
        let head_dim = match fields.optional_size("head_dim")?.or(self.head_dim) {
            Some(head_dim) => head_dim,
            None => fields.share("num_attention_heads", hidden_size)?,
        };
        if !head_dim.is_multiple_of(2) {
            return Err(fields.wrong("head_dim", "an even number"));
        }
        Ok(head_dim)
    }

    /// Query heads, and key/value heads.
    fn heads(&self, fields: &Fields<'_>) -> Result<(usize, usize)> {
        let name = "num_key_value_heads";
        let heads = fields.size("num_attention_heads")?;
        let groups = fields.size_or_null(name, self.key_value_heads)?;
        let groups = groups.unwrap_or(heads);
        if !heads.is_multiple_of(groups) {
            let expected = format!("a divisor of the {heads} query heads");
            let absent = format!("{expected} (without the field there are {groups})");
            let expected = if fields.has(name) { expected } else { absent };
            return Err(fields.wrong(name, expected));
        }
        Ok((heads, groups))
    }

    fn read_rope(&self, fields: &Fields<'_>, config: &mut Config) -> Result<()> {
        let (rope, of_windows) = self.ropes(fields, config.head_dim)?;
        for rope in of_windows.iter().chain([&rope]) {
            if let RopeScaling::Long {
                original_max_position_embeddings: original,
                ..
            } = rope.scaling
            {
                config.max_position_embeddings = config.max_position_embeddings.min(original);
            }
        }
        config.rope = Some(rope);
        config.window_rope = of_windows;
        Ok(())
    }

    fn read_biases(&self, fields: &Fields<'_>, config: &mut Config) -> Result<()> {
        (config.qkv_bias, config.output_bias) = match self.attention_bias {
            AttentionBias::Never => (false, false),
            AttentionBias::Qkv => (true, false),
            AttentionBias::Field(name, default) => {
                let bias = fields.flag(name, default)?;
                (bias, bias)
            }
        };
        if let Some(name) = self.mlp_bias {
            config.mlp_bias = fields.flag(name, false)?;
        }
        Ok(())
    }
}
