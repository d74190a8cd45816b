//! The definition of a decoder, as plain data.

use serde_json::{Map, Value};

use super::names::{Architecture, Names};
use super::rope::Rope;

/// The norms of the residual stream; all compute in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / rms(x) · weight.
    Rms,
    /// x / rms(x) · (1 + weight).
    RmsPlusOne,
    /// The same as `Rms` for x less its mean, plus a bias where the configuration has them.
    Layer,
}

/// Feed-forward blocks of which each token uses a few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experts {
    /// Number of blocks.
    pub count: usize,
    /// How many of them a token uses, 1 to `count`.
    pub per_token: usize,
    /// Width of each block.
    pub width: usize,
    /// Whether the weights of a token's experts sum to one; else they are the probabilities that the
    /// router gives to them among all.
    pub normalised: bool,
}

/// The non-linearity of the gated feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The exact Gaussian error linear unit.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
}

/// Shape and settings of a decoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family: its name, and the names of its parameters; all else that it implies is spelt
    /// out in the other fields.
    pub architecture: Architecture,
    /// Rows of the embedding and of the head; may exceed the tokenizer's ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key/value heads per layer; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Longest sequence, in tokens, that the model is meant for.
    pub max_position_embeddings: usize,
    /// Kind of the norms of the residual stream.
    pub norm: NormKind,
    /// Added to the mean square in every norm.
    pub norm_eps: f64,
    /// Whether the norms of the residual stream have biases.
    pub norm_bias: bool,
    /// The rotary position embedding, if positions enter that way.
    pub rope: Option<Rope>,
    /// The rotary position embedding of layers with a window, where it is another one.
    pub window_rope: Option<Rope>,
    /// ALiBi, if positions enter that way: the slopes go down to 2^-`alibi_bias_max`.
    pub alibi_bias_max: Option<f64>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Queries, keys and values are cut at plus and minus this.
    pub qkv_clip: Option<f64>,
    /// Factor on the products of queries and keys.
    pub attention_scale: f64,
    /// Whether layer n, from 1 on, divides this factor by n.
    pub attention_scale_by_depth: bool,
    /// Attention scores s become c · tanh(s / c), for this c.
    pub attention_softcap: Option<f64>,
    /// Logits z become c · tanh(z / c), for this c.
    pub final_softcap: Option<f64>,
    /// Factor on embeddings, rounded to their dtype.
    pub embedding_scale: f64,
    /// Non-linearity of the feed-forward block.
    pub activation: Activation,
    /// Whether the feed-forward block reads what the attention reads, not what it has made of it.
    pub parallel: bool,
    /// For each layer its experts, if its feed-forward block has them.
    pub experts: Vec<Option<Experts>>,
    /// For each layer, how many positions (itself included) a token sees; `None` is all.
    pub windows: Vec<Option<usize>>,
    /// Standard deviation of random initialisation.
    pub initializer_range: f64,
    /// Begin-of-sequence id, if the file names one.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence ids (none, one or several).
    pub eos_token_ids: Vec<u32>,
    /// The file's content as it was, so that saving keeps what we do not read.
    pub raw: Map<String, Value>,
}

impl Config {
    /// Name of the parameter that looks up tokens.
    pub fn embedding_name(&self) -> &'static str {
        self.names().embedding
    }

    /// Name of the parameter that gives the logits: the embedding, where the two are tied.
    pub fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings {
            self.names().embedding
        } else {
            self.names().head
        }
    }

    /// Factor on the products of queries and keys in layer `index`.
    pub(crate) fn attention_scale_of(&self, index: usize) -> f64 {
        match self.attention_scale_by_depth {
            true => self.attention_scale / (index + 1) as f64,
            false => self.attention_scale,
        }
    }

    pub(crate) fn names(&self) -> &'static Names {
        self.architecture.names
    }

    /// For each head the factor of ALiBi on the distance between a query and a key, if positions
    /// enter that way: 2^(-b/n), 2^(-2b/n), .. 2^-b for n heads, n a power of two; for other
    /// numbers every second one of the next power of two, then those between.
    pub fn alibi_slopes(&self) -> Option<Vec<f32>> {
        let max = self.alibi_bias_max?;
        let power = self.num_attention_heads.next_power_of_two();
        let slope = |i: usize| (-(i as f64) * max / power as f64).exp2() as f32;
        if power == self.num_attention_heads {
            return Some((1..=power).map(slope).collect());
        }
        let (second, between) = ((2..=power).step_by(2), (1..=power).step_by(2));
        let all = second.chain(between).map(slope);
        Some(all.take(self.num_attention_heads).collect())
    }
}
