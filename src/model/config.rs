//! `config.json` of a Hugging Face model folder, read into a validated [`Config`].
//!
//! A `Config` is the whole definition of a decoder: which projections have a bias, whether queries
//! and keys are normalised, how positions enter, how far each layer looks back. The architecture's
//! name only fills these in (`families`) and says how parameters are named (`names`), so a family
//! that differs in settings alone needs nothing but a few lines. [`Config::tensors`] is the one list
//! of parameters with their shapes: loading, random initialisation, counting and saving all follow
//! it.

use std::path::Path;

use serde_json::{Map, Value};

use super::families;
use super::fields::Fields;
use super::names::{FeedForwardNames, HEAD_NORMS, Names, QkvNames};
use super::rope::Rope;
use crate::checkpoint::read_config;
use crate::error::{Error, Result};

/// Architectures (`architectures[0]` of `config.json`) that the decoder implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1, 2 and 3, and everything published in that shape.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Mixtral: Mistral with several feed-forward blocks, of which a router chooses for each token.
    Mixtral,
    /// Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with normalised queries and keys.
    Qwen3,
    /// Gemma: Llama with scaled embeddings and norms around 1.
    Gemma,
    /// Gemma 2: Gemma with norms on both sides of each block, capped scores and alternating windows.
    Gemma2,
    /// Phi-3 and Phi-4-mini: Llama with joined projections.
    Phi3,
    /// InternLM2: Llama with queries, keys and values joined by head.
    InternLm2,
    /// MPT: ALiBi, layer norms, a plain feed-forward block.
    Mpt,
}

impl Architecture {
    /// (`architectures[0]`, `model_type`, architecture); the first of an architecture is its name.
    pub(crate) const KNOWN: [(&'static str, &'static str, Self); 11] = [
        ("LlamaForCausalLM", "llama", Self::Llama),
        ("MistralForCausalLM", "mistral", Self::Mistral),
        ("MixtralForCausalLM", "mixtral", Self::Mixtral),
        ("Qwen2ForCausalLM", "qwen2", Self::Qwen2),
        ("Qwen3ForCausalLM", "qwen3", Self::Qwen3),
        ("GemmaForCausalLM", "gemma", Self::Gemma),
        ("Gemma2ForCausalLM", "gemma2", Self::Gemma2),
        ("Phi3ForCausalLM", "phi3", Self::Phi3),
        ("InternLM2ForCausalLM", "internlm2", Self::InternLm2),
        ("MptForCausalLM", "mpt", Self::Mpt),
        ("MPTForCausalLM", "mpt", Self::Mpt),
    ];

    /// The class name in `architectures`.
    pub fn name(self) -> &'static str {
        Self::KNOWN
            .iter()
            .find(|(_, _, known)| *known == self)
            .map_or("", |(class, _, _)| class)
    }
}

/// The norms of the residual stream; all compute in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / rms(x) · weight.
    Rms,
    /// x / rms(x) · (1 + weight).
    RmsPlusOne,
    /// The same as `Rms` for x less its mean.
    Layer,
}

/// Feed-forward blocks of which each token uses a few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experts {
    /// Number of blocks.
    pub count: usize,
    /// How many of them a token uses, 1 to `count`.
    pub per_token: usize,
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

/// How a parameter starts in a model that is initialised at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with standard deviation `initializer_range`.
    Normal,
    /// All ones (norm weights).
    Ones,
    /// All zeros (biases).
    Zeros,
}

/// One parameter: its Hugging Face name, shape and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Dimensions, outermost first; weights are (out, in).
    pub shape: Vec<usize>,
    /// Start of the random initialisation.
    pub init: Init,
}

/// Shape and settings of a decoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family; all that it implies is spelt out in the other fields.
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
    /// The rotary position embedding, if positions enter that way.
    pub rope: Option<Rope>,
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
    /// Attention scores s become c · tanh(s / c), for this c.
    pub attention_softcap: Option<f64>,
    /// Logits z become c · tanh(z / c), for this c.
    pub final_softcap: Option<f64>,
    /// Factor on embeddings, rounded to their dtype.
    pub embedding_scale: f64,
    /// Non-linearity of the feed-forward block.
    pub activation: Activation,
    /// Experts, if the feed-forward block has them.
    pub experts: Option<Experts>,
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
    /// Reads and validates `dir/config.json`, or the settings in the GGUF file `dir`.
    ///
    /// # Errors
    /// The file is unreadable or not JSON, the architecture or a setting is not supported, a
    /// field is missing, of the wrong type or out of range (each names file and field).
    pub fn load(dir: &Path) -> Result<Self> {
        let (raw, path) = read_config(dir)?;
        Self::from_json(raw, &path)
    }

    /// Validates the content of a `config.json`; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let config = families::read(&Fields::new(path, &raw))?;
        if config.checked_parameters().is_none() {
            return Err(Error::file(
                path,
                "the sizes multiply to more parameters than fit in memory",
            ));
        }
        Ok(Self { raw, ..config })
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.checked_parameters().unwrap_or(u64::MAX)
    }

    fn checked_parameters(&self) -> Option<u64> {
        let mut total = 0u64;
        for spec in self.layer_tensors(0) {
            total = total.checked_add(spec.elements()?)?;
        }
        total = total.checked_mul(self.num_hidden_layers as u64)?;
        for spec in self.outer_tensors() {
            total = total.checked_add(spec.elements()?)?;
        }
        (total <= u64::MAX / 16).then_some(total)
    }

    /// Every parameter of the model: embedding, layers in order, final norm, head unless tied.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut outer = self.outer_tensors().into_iter();
        let mut all: Vec<TensorSpec> = outer.by_ref().take(1).collect();
        all.extend((0..self.num_hidden_layers).flat_map(|layer| self.layer_tensors(layer)));
        all.extend(outer);
        all
    }

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

    pub(crate) fn names(&self) -> &'static Names {
        self.architecture.names()
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

    /// The parameter that looks up tokens.
    pub(crate) fn embedding_tensor(&self) -> TensorSpec {
        let shape = [self.vocab_size, self.hidden_size];
        TensorSpec::new(self.embedding_name(), &shape, Init::Normal)
    }

    /// The parameters that belong to no layer.
    pub(crate) fn outer_tensors(&self) -> Vec<TensorSpec> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let names = self.names();
        let mut all = vec![
            self.embedding_tensor(),
            TensorSpec::new(names.final_norm, &[hidden], self.norm_init()),
        ];
        if !self.tie_word_embeddings {
            all.push(TensorSpec::new(names.head, &[vocab, hidden], Init::Normal));
        }
        all
    }

    fn norm_init(&self) -> Init {
        match self.norm {
            NormKind::RmsPlusOne => Init::Zeros,
            NormKind::Rms | NormKind::Layer => Init::Ones,
        }
    }

    /// The parameters of one layer.
    pub(crate) fn layer_tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let query = self.num_attention_heads.saturating_mul(self.head_dim);
        let key = self.num_key_value_heads.saturating_mul(self.head_dim);
        let joined = key.saturating_mul(2).saturating_add(query);
        let names = self.names();
        let prefix = format!("{}{layer}.", names.layers);
        let mut all = Vec::with_capacity(16);
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            let weight = format!("{prefix}{name}.weight");
            all.push(TensorSpec::new(&weight, &[rows, columns], Init::Normal));
            if bias {
                let bias = format!("{prefix}{name}.bias");
                all.push(TensorSpec::new(&bias, &[rows], Init::Zeros));
            }
        };
        match &names.qkv {
            QkvNames::Separate([q, k, v]) => {
                linear(q, query, hidden, self.qkv_bias);
                linear(k, key, hidden, self.qkv_bias);
                linear(v, key, hidden, self.qkv_bias);
            }
            QkvNames::Joined(name) | QkvNames::Grouped(name) => {
                linear(name, joined, hidden, self.qkv_bias);
            }
        }
        linear(names.output, hidden, query, self.output_bias);
        match &names.feed_forward {
            FeedForwardNames::Gated([gate, up, down]) => {
                linear(gate, inner, hidden, self.mlp_bias);
                linear(up, inner, hidden, self.mlp_bias);
                linear(down, hidden, inner, self.mlp_bias);
            }
            FeedForwardNames::Joined([gate_up, down]) => {
                linear(gate_up, inner.saturating_mul(2), hidden, self.mlp_bias);
                linear(down, hidden, inner, self.mlp_bias);
            }
            FeedForwardNames::Plain([up, down]) => {
                linear(up, inner, hidden, self.mlp_bias);
                linear(down, hidden, inner, self.mlp_bias);
            }
            FeedForwardNames::Experts {
                router,
                experts,
                gated: [gate, up, down],
            } => {
                let count = self.experts.map_or(0, |experts| experts.count);
                linear(router, count, hidden, false);
                for expert in 0..count {
                    linear(&format!("{experts}{expert}.{gate}"), inner, hidden, false);
                    linear(&format!("{experts}{expert}.{up}"), inner, hidden, false);
                    linear(&format!("{experts}{expert}.{down}"), hidden, inner, false);
                }
            }
        }
        let mut norm = |name: &str, width: usize| {
            let name = format!("{prefix}{name}.weight");
            all.push(TensorSpec::new(&name, &[width], self.norm_init()));
        };
        norm(names.input_norm, hidden);
        norm(names.middle_norm, hidden);
        let after = [names.attention_norm, names.feed_forward_norm];
        for name in after.into_iter().flatten() {
            norm(name, hidden);
        }
        if self.qk_norm {
            for name in HEAD_NORMS {
                norm(name, self.head_dim);
            }
        }
        all
    }
}

impl TensorSpec {
    fn new(name: &str, shape: &[usize], init: Init) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            init,
        }
    }

    /// Product of the dimensions, if it fits.
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))
    }
}
