//! Scoring: what a model predicts at every supervised position of the corpus.
//!
//! Inputs are the model folder and, in its vocabulary, `tokens`; outputs are `topk` (algorithms:
//! the k best log-probabilities under the full softmax, what is left, the target's) and
//! `sequence_metrics`. In mode `sampled`, `topk` holds random draws instead, with their shares:
//! unbiased for distillation (arXiv 2503.16870), and from then on neither cut nor renormalised.
//! Metrics come from the full distributions, before anything is cut or
//! rounded: `nll` is the sum over the tokens that cover supervised content of the transcript,
//! `bytes` the length of this content, which is the same for every model.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};

use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::distribution::{Distribution, DistributionBuilder, stored_bytes};
use crate::artifact::parts::Todo;
use crate::artifact::sequence_metrics::{COUNTS, SequenceMetrics};
use crate::artifact::tokens::{SampleTokens, check_ids, read_part};
use crate::artifact::{Artifact, Kind, Part, PartWriter, Writing};
use crate::error::{Error, Result};
use crate::lora::ModelPath;
use crate::model::{
    DEFAULT_OFFLOAD, Draws, LoadOptions, Mode, PredictOptions, Predictions, Predictor, predict,
};
use crate::progress::{self, Bar};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::text;
use crate::units::{Count, bits_per_byte};
use crate::vocab::Vocabulary;

/// Runs of results that may wait for the thread that writes them.
const WAITING: usize = 1;
/// Rows collected before they are handed to the file.
const FLUSH_ROWS: usize = 8192;

/// What is kept of each distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The most probable tokens.
    #[default]
    Top,
    /// Tokens drawn at random, and how often each was drawn: unbiased for distillation.
    Sampled,
}

/// What is kept of the distributions, and how they are computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreOptions {
    /// Entries kept of each distribution, 1 to 512; the papers keep 10.
    #[arg(long, default_value_t = ScoreOptions::default().top_k)]
    pub top_k: usize,
    /// Keep only the most probable entries that together have this probability, at least one
    /// (default: all `top_k`).
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Keep the most probable tokens (`top`) or random draws (`sampled`).
    #[arg(long, value_enum, default_value_t = Keep::Top)]
    pub mode: Keep,
    /// Random draws at each position in mode `sampled`, 1 to 65,535.
    #[arg(long, default_value_t = ScoreOptions::default().samples)]
    pub samples: u16,
    /// Seed of the random draws.
    #[arg(long, default_value_t = ScoreOptions::default().seed)]
    pub seed: u64,
    /// Most tokens in one batch, padding included; does not change results
    /// beyond rounding.
    #[arg(long, default_value_t = ScoreOptions::default().batch_tokens)]
    pub batch_tokens: usize,
    /// Leave the model on disk and read its layers one after the other over many samples: for
    /// models that are larger than memory. Does not change results; GGUF files are always read
    /// so.
    #[arg(long)]
    pub offload: bool,
    /// GiB of hidden states and predictions for one pass over a model on disk.
    #[arg(long, default_value_t = ScoreOptions::default().offload_memory)]
    pub offload_memory: f64,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            top_k: 10,
            top_p: None,
            mode: Keep::Top,
            samples: 50,
            seed: 42,
            batch_tokens: 8192,
            offload: false,
            offload_memory: (DEFAULT_OFFLOAD >> 30) as f64,
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
        if let Some(top_p) = self.top_p
            && !(top_p > 0.0 && top_p <= 1.0)
        {
            return Err(Error::usage(format!(
                "`top_p`: expected more than 0 and at most 1, found {top_p}"
            )));
        }
        if self.top_p.is_some() && self.mode == Keep::Sampled {
            return Err(Error::usage(
                "`top_p` would cut random draws, which must be kept as they are",
            )
            .remedy("leave it out, or use `mode: top`"));
        }
        if self.samples == 0 {
            return Err(Error::usage("`samples`: expected at least 1, found 0"));
        }
        if self.batch_tokens == 0 {
            return Err(Error::usage("`batch_tokens`: expected at least 1, found 0"));
        }
        if !(self.offload_memory > 0.0 && self.offload_memory < 1e6) {
            return Err(Error::usage(format!(
                "`offload_memory`: expected a positive number of GiB, found {}",
                self.offload_memory
            )));
        }
        Ok(())
    }

    /// About how many entries a row will have; random draws name a token about twice.
    fn entries(&self) -> usize {
        match self.mode {
            Keep::Top => self.top_k,
            Keep::Sampled => usize::from(self.samples) / 2,
        }
    }

    /// Bytes for one pass over the model, if it is to stay on disk.
    pub fn offload(&self) -> Option<u64> {
        self.offload
            .then_some((self.offload_memory * f64::from(1 << 30)) as u64)
    }

    /// The options that change rows of `topk`; those that are not in use are left out.
    pub fn changing(&self, dtype: DType) -> serde_json::Value {
        let name = dtype.as_str();
        let mut used = match (self.mode, self.top_p) {
            (Keep::Top, None) => serde_json::json!({ "dtype": name, "top_k": self.top_k }),
            (Keep::Top, Some(top_p)) => {
                serde_json::json!({ "dtype": name, "top_k": self.top_k, "top_p": top_p })
            }
            (Keep::Sampled, _) => serde_json::json!({
                "dtype": name, "mode": self.mode, "samples": self.samples, "seed": self.seed
            }),
        };
        mark_logits(&mut used, dtype);
        used
    }

    fn draws(&self) -> Option<Draws> {
        (self.mode == Keep::Sampled).then_some(Draws {
            count: self.samples.into(),
            seed: self.seed,
        })
    }
}

/// What changes rows of `sequence_metrics`.
fn metrics_changing(dtype: DType) -> serde_json::Value {
    let mut used = serde_json::json!({ "dtype": dtype.as_str(), "counts": COUNTS });
    mark_logits(&mut used, dtype);
    used
}

/// Logits of narrow weights were rounded before they were f32: those are other rows.
fn mark_logits(used: &mut serde_json::Value, dtype: DType) {
    if dtype != DType::F32 {
        used["logits"] = "f32".into();
    }
}

/// The stage: a model, its tokens, and where the results go.
#[derive(Clone, Debug)]
pub struct Score {
    /// Name of the model, for messages.
    pub name: String,
    /// Hugging Face model folder, or GGUF file, with an adapter or without.
    pub model: ModelPath,
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
    /// How.
    pub options: ScoreOptions,
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
    fn open(stage: &Score) -> Result<Self> {
        let tokens = Artifact::open(&stage.tokens, Kind::Tokens)?;
        let transcripts = Artifact::open(&stage.transcripts, Kind::Transcripts)?;
        tokens.check_same_samples(&transcripts)?;
        let vocabulary = Vocabulary::read(&stage.vocab)?;
        tokens.check_vocabulary(&vocabulary.digest)?;
        Ok(Self {
            tokens,
            transcripts,
            vocabulary,
        })
    }
}

impl Stage for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    fn reads(&self) -> Result<Reads> {
        let vocab = Item::artifact(Kind::Vocab, &self.vocab);
        Ok(Reads::new()
            .vocabulary(Source::VocabularyOf(vocab))
            .model(Source::Whole(Item::model(&self.model)))
            .input("tokens", Item::artifact(Kind::Tokens, &self.tokens))
            .input(
                "transcripts",
                Item::artifact(Kind::Transcripts, &self.transcripts),
            ))
    }

    fn writes(&self) -> Vec<Item> {
        vec![
            Item::artifact(Kind::Topk, &self.topk),
            Item::artifact(Kind::SequenceMetrics, &self.sequence_metrics),
        ]
    }

    fn changing(&self, kind: Kind) -> Value {
        match kind {
            Kind::SequenceMetrics => metrics_changing(self.dtype),
            _ => self.options.changing(self.dtype),
        }
    }

    fn size(&self) -> Size {
        Size::PerToken(stored_bytes(self.options.entries()))
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let summary = self.perform(writing)?;
        Ok(match summary.samples {
            0 => UP_TO_DATE.to_owned(),
            samples => format!(
                "{} samples, {} distributions, {:.4} bits per byte",
                Count(samples),
                Count(summary.rows),
                bits_per_byte(summary.nll, summary.bytes)
            ),
        })
    }
}

impl Score {
    /// Scores the corpus with one model, part by part; parts that are there are kept.
    ///
    /// # Errors
    /// Inputs that do not belong together, found before the model is loaded; a NaN or infinite
    /// logit, naming the sample.
    ///
    /// # Memory
    /// The model, or what [`Predictor::memory`] says of one that stays on disk; for each thread the
    /// activations of `batch_tokens` tokens and 64 MiB of logits; tokens of one part (9 bytes each);
    /// three times the predictions of about 32 batches ((20 + 8 · `top_k`) bytes a token).
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<ScoreSummary> {
        self.options.validate()?;
        let Opened {
            tokens,
            transcripts,
            vocabulary,
        } = Opened::open(self)?;
        let writing = writing.into();
        let topk = stage::writer(self, Kind::Topk, &self.topk, writing)?;
        let metrics = &self.sequence_metrics;
        let metrics = stage::writer(self, Kind::SequenceMetrics, metrics, writing)?;
        let mut todo = Todo::new(tokens.parts().iter().map(Part::info), &[&topk, &metrics])?;
        let mut summary = ScoreSummary::default();
        if todo.is_empty() {
            return Ok(summary);
        }
        let predictor = self.predictor()?;
        let predicting = PredictOptions {
            vocab_len: vocabulary.len().min(predictor.config().vocab_size),
            k: self.options.top_k,
            draws: self.options.draws(),
            batch_tokens: self.options.batch_tokens,
        };
        if let Some(memory) = predictor.memory(&predicting) {
            progress::note(format!("score {}: {memory}", self.name));
        }
        let bar = Bar::new(format!("score {}", self.name), todo.samples(), "samples");
        let scored = ScoredPart {
            name: &self.name,
            predictor: &predictor,
            options: &predicting,
            kept: &self.options,
            bar: &bar,
        };
        while let Some(ours) = todo.next(1)?.pop() {
            let at = ours.info.index as usize;
            let part = &tokens.parts()[at];
            let samples = read_part(part)?;
            let contents = contents(&transcripts.parts()[at], &samples)?;
            check_ids(part, &samples, vocabulary.len())?;
            scored.write(
                &samples,
                &contents,
                topk.part(part.info())?,
                metrics.part(part.info())?,
                &mut summary,
            )?;
        }
        Ok(summary)
    }

    fn predictor(&self) -> Result<Predictor> {
        let load = LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            mode: Mode::Inference,
        };
        Predictor::open(&self.model, &load, self.options.offload())
    }
}

/// What the metrics of a sample are about.
struct Content {
    /// Supervised content bytes.
    bytes: u32,
    /// Whether each token covers some of them.
    tokens: Vec<bool>,
}

/// The content of each sample of a `transcripts` part.
fn contents(part: &Part, samples: &[SampleTokens]) -> Result<Vec<Content>> {
    let transcripts = text::read_transcripts(part)?;
    let contents = transcripts.iter().zip(samples).map(|(text, tokens)| {
        let bytes = u32::try_from(text.transcript.content_bytes())
            .map_err(|_| Error::file(part.path(), "a transcript is larger than 4 GiB"))?;
        let tokens = text.transcript.content_tokens(&tokens.byte_end);
        Ok(Content { bytes, tokens })
    });
    contents.collect()
}

/// What the parts of one scoring share.
struct ScoredPart<'a> {
    name: &'a str,
    predictor: &'a Predictor,
    options: &'a PredictOptions,
    kept: &'a ScoreOptions,
    bar: &'a Bar,
}

/// Predictions of consecutive samples: the index of the first, and one for each.
type Results = (usize, Vec<Predictions>);

impl ScoredPart<'_> {
    /// Scores a part, and writes what is done while the rest is computed.
    fn write(
        &self,
        samples: &[SampleTokens],
        contents: &[Content],
        topk: PartWriter,
        mut metrics: PartWriter,
        summary: &mut ScoreSummary,
    ) -> Result<()> {
        let (sender, receiver) = sync_channel::<Results>(WAITING);
        let stopped = || Error::internal("the thread that writes the results has ended");
        let (computed, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.write_results(samples, contents, receiver, topk));
            let advance = |count: usize| self.bar.advance(count as u64);
            let computed = predict(
                self.predictor,
                samples,
                self.options,
                &advance,
                |first, found| sender.send((first, found)).map_err(|_| stopped()),
            );
            drop(sender);
            (computed, writer.join())
        });
        // If writing fails, computing stops because of it.
        let (topk, totals) = written.map_err(|_| stopped())??;
        computed.map_err(|error| error.within(format!("model `{}`", self.name)))?;
        summary.samples += samples.len() as u64;
        summary.rows += topk.rows();
        summary.nll += totals.nll.iter().sum::<f64>();
        summary.tokens += totals.tokens.iter().map(|&n| u64::from(n)).sum::<u64>();
        summary.bytes += totals.bytes.iter().map(|&n| u64::from(n)).sum::<u64>();
        metrics.write(&totals.finish()?)?;
        topk.finish()?;
        metrics.finish()
    }

    /// Writes the rows of results as they come; returns the metrics of all.
    fn write_results(
        &self,
        samples: &[SampleTokens],
        contents: &[Content],
        results: Receiver<Results>,
        mut topk: PartWriter,
    ) -> Result<(PartWriter, SequenceMetrics)> {
        let mut rows = DistributionBuilder::topk();
        let mut totals = SequenceMetrics::default();
        for (first, found) in results {
            let known = samples[first..].iter().zip(&contents[first..]);
            for ((sample, content), predictions) in known.zip(&found) {
                self.push_rows(&mut rows, sample, predictions);
                let nll = content_nll(&content.tokens, predictions);
                totals.push(sample.sample_id, nll, content.bytes);
                if rows.rows() >= FLUSH_ROWS {
                    topk.write(&rows.finish()?)?;
                }
            }
        }
        topk.write(&rows.finish()?)?;
        Ok((topk, totals))
    }

    /// Adds the rows of a sample as they are to be kept.
    fn push_rows(
        &self,
        rows: &mut DistributionBuilder,
        sample: &SampleTokens,
        found: &Predictions,
    ) {
        let sampled = self.kept.mode == Keep::Sampled;
        for (row, &pos) in found.pos.iter().enumerate() {
            let entries = row * found.k..(row + 1) * found.k;
            let mut distribution = Distribution {
                pos,
                target_id: found.target_id[row],
                target_logprob: found.target_logprob[row],
                tail_logprob: found.tail_logprob[row],
                ids: &found.ids[entries.clone()],
                logprobs: &found.logprobs[entries],
            };
            if sampled {
                let (ids, logprobs) = shares(distribution.ids);
                (distribution.ids, distribution.logprobs) = (&ids, &logprobs);
                rows.push_drawn(sample.sample_id, distribution, self.kept.samples);
                continue;
            }
            if let Some(top_p) = self.kept.top_p {
                cut(&mut distribution, top_p);
            }
            rows.push(sample.sample_id, distribution);
        }
    }
}

/// The distinct ids of sorted draws, and the logarithms of their shares.
fn shares(drawn: &[u32]) -> (Vec<u32>, Vec<f32>) {
    let all = drawn.len() as f32;
    let runs = drawn.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], (run.len() as f32 / all).ln()))
        .unzip()
}

/// Keeps the shortest beginning of the list whose probability reaches `top_p`, at least one
/// entry; the rest joins the tail.
fn cut(row: &mut Distribution<'_>, top_p: f64) {
    let prob = |logprob: &f32| f64::from(*logprob).exp();
    let mut mass = 0.0;
    let reached = row.logprobs.iter().position(|logprob| {
        mass += prob(logprob);
        mass >= top_p
    });
    let Some(kept) = reached.map(|at| at + 1) else {
        return;
    };
    let rest: f64 = row.logprobs[kept..].iter().map(prob).sum();
    row.tail_logprob = (prob(&row.tail_logprob) + rest).ln() as f32;
    (row.ids, row.logprobs) = (&row.ids[..kept], &row.logprobs[..kept]);
}

/// Negative log-likelihood in nats (f64 sum of f32 terms, in order) and number of the supervised
/// tokens that are `content`.
fn content_nll(content: &[bool], found: &Predictions) -> (f64, u32) {
    let content = found
        .pos
        .iter()
        .zip(&found.target_logprob)
        .filter(|(pos, _)| content.get(**pos as usize + 1) == Some(&true));
    content.fold((0.0, 0), |(nll, tokens), (_, logprob)| {
        (nll - f64::from(*logprob), tokens + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(ids: &'a [u32], logprobs: &'a [f32], tail: f32) -> Distribution<'a> {
        Distribution {
            pos: 0,
            target_id: 0,
            target_logprob: -1.0,
            tail_logprob: tail.ln(),
            ids,
            logprobs,
        }
    }

    #[test]
    fn top_p_keeps_the_shortest_beginning() {
        let logprobs = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln()];
        for (top_p, kept, tail) in [
            (0.1, 1, 0.5),
            (0.5, 1, 0.5),
            (0.6, 2, 0.25),
            (0.875, 3, 0.125),
            (1.0, 3, 0.125),
        ] {
            let mut cut_row = row(&[7, 8, 9], &logprobs, 0.125);
            cut(&mut cut_row, top_p - 1e-7);
            assert_eq!(cut_row.ids, &[7, 8, 9][..kept], "{top_p}");
            assert_eq!(cut_row.logprobs.len(), kept);
            assert!((cut_row.tail_logprob.exp() - tail).abs() < 1e-6, "{top_p}");
        }
    }

    #[test]
    fn draws_become_shares() {
        let (ids, logprobs) = shares(&[3, 3, 5, 9, 9, 9, 9, 9]);
        assert_eq!(ids, [3, 5, 9]);
        let shares: Vec<f32> = logprobs.iter().map(|x| (x.exp() * 8.0).round()).collect();
        assert_eq!(shares, [2.0, 1.0, 5.0]);
    }

    #[test]
    fn options_are_checked() {
        let refused = |json: &str| {
            let options: ScoreOptions = serde_json::from_str(json).unwrap();
            options.validate().unwrap_err().to_string()
        };
        assert!(refused(r#"{"top_k": 513}"#).contains("`top_k`"));
        assert!(refused(r#"{"top_p": 0.0}"#).contains("`top_p`"));
        assert!(refused(r#"{"top_p": 0.9, "mode": "sampled"}"#).contains("cut random draws"));
        assert!(refused(r#"{"samples": 0}"#).contains("`samples`"));
    }
}
