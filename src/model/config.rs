//! `config.json` of a Hugging Face model folder, read into a validated [`Config`].
//!
//! A `Config` is the whole definition of a decoder: which projections have a bias, whether queries
//! and keys are normalised, how positions are rotated, how far each layer looks back. The
//! architecture's name is only used to fill these in, so a family that differs in settings alone
//! needs nothing but a few lines here. [`Config::tensors`] is the one list of parameters with
//! their shapes: loading, random initialisation, counting and saving all follow it.

use std::path::Path;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::gguf::{Gguf, is_gguf};
use crate::error::{Context, Error, Result};

/// Architectures (`architectures[0]` of `config.json`) that the decoder implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1, 2 and 3, and everything published in that shape.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with normalised queries and keys.
    Qwen3,
}

impl Architecture {
    pub(crate) const KNOWN: [(&'static str, &'static str, Self); 4] = [
        ("LlamaForCausalLM", "llama", Self::Llama),
        ("MistralForCausalLM", "mistral", Self::Mistral),
        ("Qwen2ForCausalLM", "qwen2", Self::Qwen2),
        ("Qwen3ForCausalLM", "qwen3", Self::Qwen3),
    ];

    /// The class name in `architectures`.
    pub fn name(self) -> &'static str {
        Self::KNOWN
            .iter()
            .find(|(_, _, known)| *known == self)
            .map_or("", |(class, _, _)| class)
    }
}

/// How the frequencies of the rotary embedding are changed for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Context extension, at least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Context extension, at least 1.
        factor: f64,
        /// Wavelengths beyond `original / low` are scaled fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: f64,
    },
}

/// The rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Radians per position for each of the `head_dim / 2` rotated pairs.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
            .map(|frequency| match self.scaling {
                RopeScaling::Default => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                } => {
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            })
            .map(|frequency| frequency as f32)
            .collect()
    }
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
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// The rotary position embedding.
    pub rope: Rope,
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
    /// Non-linearity of the feed-forward block.
    pub activation: Activation,
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
        if is_gguf(dir) {
            return Gguf::open(dir)?.config();
        }
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).at(&path)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("not valid JSON: {error}")))?;
        let Value::Object(raw) = value else {
            return Err(Error::file(&path, "expected a JSON object"));
        };
        Self::from_json(raw, &path)
    }

    /// Validates the content of a `config.json`; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let fields = Fields::new(path, &raw);
        let architecture = fields.architecture()?;
        use Architecture::{Llama, Mistral, Qwen2, Qwen3};

        let hidden_size = fields.size("hidden_size")?;
        let num_attention_heads = fields.size("num_attention_heads")?;
        let num_key_value_heads = fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(num_attention_heads);
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(fields.wrong(
                "num_key_value_heads",
                format!("a divisor of the {num_attention_heads} query heads"),
            ));
        }
        let head_dim = match fields.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if architecture == Qwen3 => 128,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(fields.wrong(
                    "num_attention_heads",
                    format!("a divisor of hidden_size {hidden_size}, or a `head_dim`"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(fields.wrong("head_dim", "an even number"));
        }

        let num_hidden_layers = fields.size("num_hidden_layers")?;
        if num_hidden_layers > 4096 {
            return Err(fields.wrong("num_hidden_layers", "at most 4096"));
        }
        let attention_bias = match architecture {
            Llama | Qwen3 => fields.flag("attention_bias", false)?,
            Mistral | Qwen2 => false,
        };
        let config = Self {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-6)?,
            rope: fields.rope()?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            qkv_bias: attention_bias || architecture == Qwen2,
            output_bias: attention_bias,
            mlp_bias: architecture == Llama && fields.flag("mlp_bias", false)?,
            qk_norm: architecture == Qwen3,
            activation: fields.activation()?,
            windows: fields.windows(architecture, num_hidden_layers)?,
            initializer_range: fields.number("initializer_range", 0.02)?,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.ids("eos_token_id")?,
            raw: Map::new(),
        };
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

    /// The parameters that belong to no layer.
    pub(crate) fn outer_tensors(&self) -> Vec<TensorSpec> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let mut all = vec![
            TensorSpec::new(EMBEDDING, &[vocab, hidden], Init::Normal),
            TensorSpec::new(FINAL_NORM, &[hidden], Init::Ones),
        ];
        if !self.tie_word_embeddings {
            all.push(TensorSpec::new(HEAD, &[vocab, hidden], Init::Normal));
        }
        all
    }

    /// The parameters of one layer.
    pub(crate) fn layer_tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let query = self.num_attention_heads.saturating_mul(self.head_dim);
        let key = self.num_key_value_heads.saturating_mul(self.head_dim);
        let mut all = Vec::with_capacity(16);
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            let prefix = format!("model.layers.{layer}.{name}");
            let weight = format!("{prefix}.weight");
            all.push(TensorSpec::new(&weight, &[rows, columns], Init::Normal));
            if bias {
                let bias = format!("{prefix}.bias");
                all.push(TensorSpec::new(&bias, &[rows], Init::Zeros));
            }
        };
        linear("self_attn.q_proj", query, hidden, self.qkv_bias);
        linear("self_attn.k_proj", key, hidden, self.qkv_bias);
        linear("self_attn.v_proj", key, hidden, self.qkv_bias);
        linear("self_attn.o_proj", hidden, query, self.output_bias);
        linear("mlp.gate_proj", inner, hidden, self.mlp_bias);
        linear("mlp.up_proj", inner, hidden, self.mlp_bias);
        linear("mlp.down_proj", hidden, inner, self.mlp_bias);
        let mut norm = |name: &str, width: usize| {
            let name = format!("model.layers.{layer}.{name}.weight");
            all.push(TensorSpec::new(&name, &[width], Init::Ones));
        };
        norm("input_layernorm", hidden);
        norm("post_attention_layernorm", hidden);
        if self.qk_norm {
            norm("self_attn.q_norm", self.head_dim);
            norm("self_attn.k_norm", self.head_dim);
        }
        all
    }
}

/// Name of the token embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the norm before the head.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
/// Name of the head, where it is not the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

impl TensorSpec {
    fn new(name: &str, shape: &[usize], init: Init) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            init,
        }
    }

    /// The token embedding of `config`.
    pub(crate) fn embedding(config: &Config) -> Self {
        Self::new(
            EMBEDDING,
            &[config.vocab_size, config.hidden_size],
            Init::Normal,
        )
    }

    /// Product of the dimensions, if it fits.
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))
    }
}
