//! Sampling a continuation token by token.

use std::path::Path;

use candle_core::{IndexOp, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::cache::Cache;
use super::decoder::Decoder;
use super::families::Fields;
use crate::checkpoint::{GENERATION, companion_json};
use crate::error::{Context, Error, Result};
use crate::progress;

/// How a continuation is sampled.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Most tokens to generate (default 256).
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 takes the most probable token (default 0.7).
    pub temperature: f64,
    /// Only the most probable tokens that together have this mass, in (0, 1] (default: all).
    pub top_p: Option<f64>,
    /// Only this many most probable tokens (default: all).
    pub top_k: Option<usize>,
    /// Seed of the sampling (default 42).
    pub seed: u64,
    /// Ids that end the text, besides the model's own end-of-sequence ids.
    pub stop: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.7,
            top_p: None,
            top_k: None,
            seed: 42,
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// Names the field, what it must be and what it is.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let found = self.temperature;
            return Err(Error::usage(format!(
                "`temperature`: expected a number that is not negative, found {found}"
            )));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::usage(format!(
                "`top_p`: expected a number in (0, 1], found {p}"
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::usage("`top_k`: expected at least 1, found 0"));
        }
        Ok(())
    }

    fn sampling(&self) -> Sampling {
        let temperature = self.temperature;
        if temperature < 1e-7 {
            return Sampling::ArgMax;
        }
        match (self.top_k, self.top_p) {
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        }
    }
}

/// The ids at which generation ends by the `generation_config.json` of a model folder: its
/// `eos_token_id`, one or several. None where there is no such file.
///
/// # Errors
/// A file that is no JSON object, or whose `eos_token_id` is neither an id nor a list of them.
pub fn generation_stops(dir: &Path) -> Result<Vec<u32>> {
    let path = dir.join(GENERATION);
    match companion_json(dir, GENERATION)? {
        None => Ok(Vec::new()),
        Some(serde_json::Value::Object(map)) => Fields::new(&path, &map).ids("eos_token_id"),
        Some(_) => Err(Error::file(&path, "expected a JSON object")),
    }
}

/// Continues `prompt` and returns the new tokens, without the one that ended the text.
///
/// Ids from `vocab_len` on (rows that pad the head beyond the tokenizer) are never chosen.
/// `on_token` sees each token as soon as it is chosen. The text ends at a stop id, after
/// `max_new_tokens`, or where the model's context is full.
///
/// # Errors
/// Options out of range; a prompt that is empty, does not fit the context or has an id outside of
/// the vocabulary; logits that are not finite; what `on_token` returns.
pub fn generate(
    decoder: &Decoder,
    prompt: &[u32],
    vocab_len: usize,
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> Result<()>,
) -> Result<Vec<u32>> {
    options.validate()?;
    let config = decoder.config();
    let vocab_len = vocab_len.min(config.vocab_size);
    if prompt.is_empty() {
        return Err(Error::usage("the prompt has no tokens"));
    }
    let limit = config.max_position_embeddings;
    if prompt.len() > limit {
        return Err(Error::usage(format!(
            "the prompt's {} tokens do not fit the model's context of {limit} tokens",
            prompt.len()
        )));
    }
    if let Some(id) = prompt.iter().find(|id| **id as usize >= config.vocab_size) {
        return Err(Error::usage(format!(
            "token id {id} of the prompt is beyond the model's {} rows",
            config.vocab_size
        )));
    }
    let capacity = limit.min(prompt.len().saturating_add(options.max_new_tokens));
    let mut cache = Cache::new(decoder, 1, capacity)?;
    let mut sampler = LogitsProcessor::from_sampling(options.seed, options.sampling());
    let mut tokens = Vec::new();
    let mut input = prompt.to_vec();
    while tokens.len() < options.max_new_tokens {
        progress::check_interrupt()?;
        let ids = Tensor::from_slice(&input, (1, input.len()), decoder.device())
            .during(|| "copying token ids".to_owned())?;
        let hidden = decoder.step(&ids, &mut cache)?;
        let last = || hidden.i((.., input.len() - 1, ..));
        let logits = decoder.logits(&last().during(|| "taking the last position".to_owned())?)?;
        let mut choose = || {
            let logits = logits.detach().narrow(1, 0, vocab_len)?.squeeze(0)?;
            let largest = logits.abs()?.max(0)?.to_dtype(candle_core::DType::F32)?;
            if !largest.to_scalar::<f32>()?.is_finite() || has_nan(&logits)? {
                candle_core::bail!("a logit is NaN or infinite");
            }
            sampler.sample(&logits)
        };
        let position = cache.len();
        let token = choose().during(|| format!("sampling token {position}"))?;
        if config.eos_token_ids.contains(&token) || options.stop.contains(&token) {
            break;
        }
        on_token(token)?;
        tokens.push(token);
        if cache.len() >= capacity {
            break;
        }
        input = vec![token];
    }
    Ok(tokens)
}

fn has_nan(logits: &Tensor) -> candle_core::Result<bool> {
    // NaN differs from itself, and comparisons in a maximum may skip it.
    Ok(logits.ne(logits)?.max(0)?.to_scalar::<u8>()? != 0)
}
