//! Scoring: what a model predicts at every supervised position of the corpus.
//!
//! Inputs are the model folder and, in its vocabulary, `tokens`; outputs are `topk` (algorithms:
//! the k best log-probabilities under the full softmax, what is left, the target's) and
//! `sequence_metrics`. Metrics come from the full distributions, before anything is cut or
//! rounded: `nll` is the sum over supervised tokens that are content (not special), `bytes` the
//! supervised content of the transcript, which is the same for every model.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use arrow::array::{ArrayRef, Float64Array, UInt32Array, UInt64Array};
use arrow::record_batch::RecordBatch;
use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::artifact::distribution::{Distribution, DistributionBuilder};
use crate::artifact::tokens::{SampleTokens, read_part};
use crate::artifact::{Artifact, Existing, Kind, Part, PartWriter, Provenance, Writer, digest};
use crate::error::{Context, Error, Result};
use crate::model::{Decoder, LoadOptions, Mode, PredictOptions, Predictions, predict};
use crate::progress::{self, Bar};
use crate::text;
use crate::vocab::Vocabulary;

/// Samples whose results are held at one time.
const WINDOW: usize = 256;
/// Rows collected before they are handed to the file.
const FLUSH_ROWS: usize = 8192;

/// What is kept of the distributions, and how they are computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreOptions {
    /// Entries kept of each distribution, 1 to 512 (default 10, as the papers).
    #[arg(long, default_value_t = ScoreOptions::default().top_k, hide_default_value = true)]
    pub top_k: usize,
    /// Most tokens in one batch, padding included (default 8,192); does not change results
    /// beyond rounding.
    #[arg(long, default_value_t = ScoreOptions::default().batch_tokens, hide_default_value = true)]
    pub batch_tokens: usize,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            top_k: 10,
            batch_tokens: 8192,
        }
    }
}

impl ScoreOptions {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        if !(1..=512).contains(&self.top_k) {
            return Err(Error::usage(format!(
                "`top_k`: expected 1 to 512, found {}",
                self.top_k
            )));
        }
        if self.batch_tokens == 0 {
            return Err(Error::usage("`batch_tokens`: expected at least 1, found 0"));
        }
        Ok(())
    }
}

/// Where a model and its tokens lie, and where the results go.
#[derive(Clone, Debug)]
pub struct ScoreInputs {
    /// Name of the model, for messages.
    pub name: String,
    /// Hugging Face model folder.
    pub model: PathBuf,
    /// `tokens` in the model's vocabulary.
    pub tokens: PathBuf,
    /// `transcripts` that the tokens were made from.
    pub transcripts: PathBuf,
    /// `vocab` of the model.
    pub vocab: PathBuf,
    /// Folder of the `topk` to write.
    pub topk: PathBuf,
    /// Folder of the `sequence_metrics` to write.
    pub sequence_metrics: PathBuf,
    /// Floating-point type of weights and activations; log-probabilities are f32.
    pub dtype: DType,
    /// Device to compute on.
    pub device: candle_core::Device,
}

/// What scoring found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreSummary {
    /// Samples scored.
    pub samples: u64,
    /// Rows of `topk` written.
    pub rows: u64,
    /// Sum of the negative log-likelihoods, in nats.
    pub nll: f64,
    /// Supervised content tokens.
    pub tokens: u64,
    /// Supervised content bytes.
    pub bytes: u64,
}

/// The opened inputs, which belong together.
struct Opened {
    tokens: Artifact,
    transcripts: Artifact,
    vocabulary: Vocabulary,
}

impl Opened {
    fn open(inputs: &ScoreInputs) -> Result<Self> {
        let tokens = Artifact::open(&inputs.tokens, Kind::Tokens)?;
        let transcripts = Artifact::open(&inputs.transcripts, Kind::Transcripts)?;
        tokens.check_same_samples(&transcripts)?;
        let vocabulary = Vocabulary::read(&inputs.vocab)?;
        tokens.check_vocabulary(&vocabulary.digest)?;
        Ok(Self {
            tokens,
            transcripts,
            vocabulary,
        })
    }

    /// What an output of `kind` is made from; `changing` are the options that change its rows.
    fn provenance(
        &self,
        kind: Kind,
        inputs: &ScoreInputs,
        changing: serde_json::Value,
    ) -> Result<Provenance> {
        Ok(Provenance::new(kind)
            .vocabulary(&self.vocabulary.digest)
            .model(digest::model(&inputs.model)?)
            .options(changing)
            .input("tokens", self.tokens.identity())
            .input("transcripts", self.transcripts.identity()))
    }
}

/// Scores the corpus with one model, part by part; parts that are there are kept.
///
/// # Errors
/// Inputs that do not belong together, found before the model is loaded; a NaN or infinite
/// logit, naming the sample.
///
/// # Memory
/// The model; for each thread the activations of `batch_tokens` tokens and 64 MiB of logits;
/// tokens of one part (9 bytes each); the predictions of 256 samples ((20 + 8 · `top_k`) bytes
/// a token).
pub fn run(
    inputs: &ScoreInputs,
    options: &ScoreOptions,
    existing: Existing,
) -> Result<ScoreSummary> {
    options.validate()?;
    let opened = Opened::open(inputs)?;
    let dtype = inputs.dtype.as_str();
    let changing = serde_json::json!({ "dtype": dtype, "top_k": options.top_k });
    let topk = opened.provenance(Kind::Topk, inputs, changing)?;
    let topk = Writer::create(&inputs.topk, topk, existing)?;
    let changing = serde_json::json!({ "dtype": dtype });
    let metrics = opened.provenance(Kind::SequenceMetrics, inputs, changing)?;
    let metrics = Writer::create(&inputs.sequence_metrics, metrics, existing)?;
    let Opened {
        tokens,
        transcripts,
        vocabulary,
    } = opened;
    let todo: Vec<usize> = (0..tokens.parts().len())
        .filter(|&index| !(topk.is_done(index as u32) && metrics.is_done(index as u32)))
        .collect();
    let mut summary = ScoreSummary::default();
    if todo.is_empty() {
        return Ok(summary);
    }
    let decoder = Decoder::load(
        &inputs.model,
        &LoadOptions {
            device: inputs.device.clone(),
            dtype: inputs.dtype,
            mode: Mode::Inference,
        },
    )?;
    let samples: u64 = todo.iter().map(|&i| tokens.parts()[i].info().samples).sum();
    let bar = Bar::new(format!("score {}", inputs.name), samples, "samples");
    let scored = ScoredPart {
        name: &inputs.name,
        decoder: &decoder,
        vocabulary: &vocabulary,
        options,
        bar: &bar,
    };
    for index in todo {
        let part = &tokens.parts()[index];
        let bytes = content_bytes(&transcripts.parts()[index])?;
        scored.write(
            &read_part(part)?,
            &bytes,
            topk.part(part.info())?,
            metrics.part(part.info())?,
            &mut summary,
        )?;
    }
    Ok(summary)
}

/// Supervised content bytes of each sample of a `transcripts` part.
fn content_bytes(part: &Part) -> Result<Vec<u32>> {
    text::read_transcripts(part)?
        .iter()
        .map(|sample| {
            u32::try_from(sample.transcript.content_bytes())
                .map_err(|_| Error::file(part.path(), "a transcript is larger than 4 GiB"))
        })
        .collect()
}

/// Adds the model to an error that names a sample.
fn of_model(name: &str, error: Error) -> Error {
    match error {
        Error::Input {
            subject,
            problem,
            remedy,
        } => Error::Input {
            subject: format!("model `{name}`, {subject}"),
            problem,
            remedy,
        },
        other => other,
    }
}

/// What the parts of one scoring share.
struct ScoredPart<'a> {
    name: &'a str,
    decoder: &'a Decoder,
    vocabulary: &'a Vocabulary,
    options: &'a ScoreOptions,
    bar: &'a Bar,
}

impl ScoredPart<'_> {
    fn write(
        &self,
        samples: &[SampleTokens],
        bytes: &[u32],
        mut topk: PartWriter,
        mut metrics: PartWriter,
        summary: &mut ScoreSummary,
    ) -> Result<()> {
        let options = PredictOptions {
            vocab_len: self.vocabulary.len().min(self.decoder.config().vocab_size),
            k: self.options.top_k,
            batch_tokens: self.options.batch_tokens,
        };
        let mut rows = DistributionBuilder::topk();
        let mut totals = Metrics::default();
        for (window, bytes) in samples.chunks(WINDOW).zip(bytes.chunks(WINDOW)) {
            let found = Mutex::new(vec![Predictions::default(); window.len()]);
            predict(self.decoder, window, &options, |index, predictions| {
                if let Ok(mut found) = found.lock() {
                    found[index] = predictions;
                }
                self.bar.advance(1);
                Ok(())
            })
            .map_err(|error| of_model(self.name, error))?;
            let found = found.into_inner().unwrap_or_default();
            for ((sample, predictions), bytes) in window.iter().zip(&found).zip(bytes) {
                push_rows(&mut rows, sample, predictions);
                totals.push(self.vocabulary, sample, predictions, *bytes);
                if rows.rows() >= FLUSH_ROWS {
                    topk.write(&rows.finish()?)?;
                }
            }
            progress::check_interrupt()?;
        }
        topk.write(&rows.finish()?)?;
        summary.samples += samples.len() as u64;
        summary.rows += topk.rows();
        summary.nll += totals.nll.iter().sum::<f64>();
        summary.tokens += totals.tokens.iter().map(|&n| u64::from(n)).sum::<u64>();
        summary.bytes += totals.bytes.iter().map(|&n| u64::from(n)).sum::<u64>();
        metrics.write(&totals.finish()?)?;
        topk.finish()?;
        metrics.finish()
    }
}

fn push_rows(rows: &mut DistributionBuilder, sample: &SampleTokens, found: &Predictions) {
    for (row, &pos) in found.pos.iter().enumerate() {
        let entries = row * found.k..(row + 1) * found.k;
        let distribution = Distribution {
            pos,
            target_id: found.target_id[row],
            target_logprob: found.target_logprob[row],
            tail_logprob: found.tail_logprob[row],
            ids: &found.ids[entries.clone()],
            logprobs: &found.logprobs[entries],
        };
        rows.push(sample.sample_id, distribution);
    }
}

/// Columns of `sequence_metrics`.
#[derive(Default)]
struct Metrics {
    sample_id: Vec<u64>,
    nll: Vec<f64>,
    tokens: Vec<u32>,
    bytes: Vec<u32>,
}

impl Metrics {
    fn push(
        &mut self,
        vocabulary: &Vocabulary,
        sample: &SampleTokens,
        found: &Predictions,
        bytes: u32,
    ) {
        let (nll, tokens) = content_nll(vocabulary, found);
        self.sample_id.push(sample.sample_id);
        self.nll.push(nll);
        self.tokens.push(tokens);
        self.bytes.push(bytes);
    }

    fn finish(self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.sample_id)),
            Arc::new(Float64Array::from(self.nll)),
            Arc::new(UInt32Array::from(self.tokens)),
            Arc::new(UInt32Array::from(self.bytes)),
        ];
        RecordBatch::try_new(Kind::SequenceMetrics.schema(), columns)
            .during(|| "building `sequence_metrics` rows".into())
    }
}

/// Negative log-likelihood in nats (f64 sum of f32 terms, in order) and number of the supervised
/// tokens that are content.
fn content_nll(vocabulary: &Vocabulary, found: &Predictions) -> (f64, u32) {
    let content = found
        .target_id
        .iter()
        .zip(&found.target_logprob)
        .filter(|(id, _)| vocabulary.token(**id).is_none_or(|token| !token.special));
    content.fold((0.0, 0), |(nll, tokens), (_, logprob)| {
        (nll - f64::from(*logprob), tokens + 1)
    })
}
