//! Transcripts to tokens, and samples to transcripts of another template.

use std::path::Path;

use chrono::NaiveDate;
use rayon::prelude::*;

use super::rows::read_chats;
use crate::artifact::tokens::{SampleTokens, to_batch};
use crate::artifact::{Artifact, Existing, Kind, Provenance, Writer};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt, warn};
use crate::text::{
    self, SampleTranscript, check_text_size, read_transcripts, transcripts_to_batch,
};
use crate::units::{Count, SampleId};
use crate::vocab::{SpecialTokens, Tokenizer};

/// Samples that are tokenised between two looks at the user's wish to stop.
const CHUNK: usize = 512;

/// What [`tokenise`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenSummary {
    /// Samples with tokens.
    pub samples: u64,
    /// Tokens of those samples that were tokenised now, BOS included.
    pub tokens: u64,
    /// How many of them are supervised.
    pub supervised: u64,
    /// Whether nothing was to be done.
    pub up_to_date: bool,
}

/// What changes rows of `tokens` besides their inputs. Those of before have special tokens where a
/// content spells them (2), or other ends, with some tokenizers.
pub fn tokens_changing(special_tokens: SpecialTokens) -> serde_json::Value {
    serde_json::json!({ "spans": 3, "special_tokens": special_tokens })
}

/// What determines the `tokens` of a tokenizer: the transcripts, the tokenizer, and the
/// tokenizer whose template made the transcripts, where it is another one.
pub(super) fn provenance(
    transcripts: &str,
    tokenizer: &Tokenizer,
    pivot: Option<&Tokenizer>,
    special_tokens: SpecialTokens,
) -> Provenance {
    let own = &tokenizer.vocabulary().digest;
    let pivot = pivot.map(|pivot| &pivot.vocabulary().digest);
    let provenance = Provenance::new(Kind::Tokens)
        .vocabulary(own)
        .options(tokens_changing(special_tokens))
        .input("transcripts", transcripts);
    match pivot.filter(|pivot| *pivot != own) {
        Some(pivot) => provenance.input("pivot_vocabulary", pivot),
        None => provenance,
    }
}

/// Tokenises transcripts for one vocabulary: the artifact `tokens` in `out`, part by part as
/// the transcripts are. `pivot` is the tokenizer whose template made the transcripts, where that
/// is not `tokenizer`, `special_tokens` what contents are that spell some
/// ([`Tokenizer::encode_transcript`]).
///
/// Does nothing where the same is already there, and goes on where an earlier call stopped.
///
/// # Errors
/// Missing or damaged transcripts, an artifact of something else in `out`, a full disk.
///
/// # Memory
/// One part of transcripts and its tokens (9 bytes each).
pub fn tokenise(
    transcripts: &Path,
    tokenizer: &Tokenizer,
    pivot: Option<&Tokenizer>,
    special_tokens: SpecialTokens,
    out: &Path,
    existing: Existing,
) -> Result<TokenSummary> {
    let transcripts = Artifact::open(transcripts, Kind::Transcripts)?;
    let provenance = provenance(transcripts.identity(), tokenizer, pivot, special_tokens);
    let writer = Writer::create(out, provenance, existing)?;
    let mut summary = TokenSummary {
        samples: transcripts.samples(),
        up_to_date: writer.is_complete(),
        ..TokenSummary::default()
    };
    let bar = Bar::new("tokenise", transcripts.samples(), "samples");
    for part in transcripts.parts() {
        let info = part.info();
        if writer.is_done(info.index) {
            bar.advance(info.samples);
            continue;
        }
        let samples = read_transcripts(part)?;
        let tokens = encode(&samples, tokenizer, pivot, special_tokens, &bar)?;
        summary.add(&tokens);
        let mut part = writer.part(info)?;
        part.write(&to_batch(&tokens)?)?;
        part.finish()?;
    }
    Ok(summary)
}

impl TokenSummary {
    pub(super) fn add(&mut self, tokens: &[SampleTokens]) {
        for sample in tokens {
            self.tokens += sample.ids.len() as u64;
            self.supervised += sample.supervised.iter().filter(|s| **s).count() as u64;
        }
    }
}

/// The tokens of some transcripts, on all cores.
pub(super) fn encode(
    samples: &[SampleTranscript],
    tokenizer: &Tokenizer,
    pivot: Option<&Tokenizer>,
    special_tokens: SpecialTokens,
    bar: &Bar,
) -> Result<Vec<SampleTokens>> {
    let mut tokens = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(CHUNK) {
        check_interrupt()?;
        let encoded: Vec<Result<SampleTokens>> = chunk
            .par_iter()
            .map(|sample| {
                let row = tokenizer.encode_transcript(&sample.transcript, pivot, special_tokens)?;
                Ok(SampleTokens {
                    sample_id: sample.sample_id,
                    ids: row.ids,
                    byte_end: row.byte_end,
                    supervised: row.supervised,
                })
            })
            .collect();
        for sample in encoded {
            tokens.push(sample?);
        }
        bar.advance(chunk.len() as u64);
    }
    Ok(tokens)
}

/// Renders samples again with another model's template (`template: native`): the artifact
/// `transcripts` in `out`, part by part as the samples are.
///
/// # Errors
/// A tokenizer without a chat template where the samples are chats, messages that the template
/// refuses (naming the sample), a sample in which the template leaves nothing to learn from.
///
/// # Memory
/// One part of samples and their transcripts.
pub fn transcribe(
    samples: &Path,
    tokenizer: &Tokenizer,
    date: NaiveDate,
    out: &Path,
    existing: Existing,
) -> Result<()> {
    let samples = Artifact::open(samples, Kind::Samples)?;
    let mut template = tokenizer.template().cloned();
    if let Some(template) = &mut template {
        template.set_date(date);
    }
    let provenance = Provenance::new(Kind::Transcripts)
        .input("samples", samples.identity())
        .options(serde_json::json!({
            "template": template.as_ref().map(text::ChatTemplate::digest),
            "date": date.to_string(),
        }));
    let writer = Writer::create(out, provenance, existing)?;
    let bar = Bar::new("transcribe", samples.samples(), "samples");
    let mut unplaced = 0;
    for part in samples.parts() {
        let info = part.info();
        if writer.is_done(info.index) {
            bar.advance(info.samples);
            continue;
        }
        check_interrupt()?;
        let place = |id: SampleId| format!("{} sample {id}", samples.dir().display());
        let rendered = read_chats(part)?
            .into_par_iter()
            .map(|(sample_id, chat)| {
                let found = text::transcript(&chat, template.as_ref()).map_err(|e| {
                    Error::input(place(sample_id), e.to_string())
                        .remedy("use `template: pivot`, or remove such samples")
                })?;
                let transcript = found.transcript;
                let sample = SampleTranscript {
                    sample_id,
                    transcript,
                };
                Ok((sample, found.unplaced.len() as u64))
            })
            .collect::<Result<Vec<_>>>()?;
        unplaced += rendered.iter().map(|(_, unplaced)| unplaced).sum::<u64>();
        let rendered: Vec<SampleTranscript> =
            rendered.into_iter().map(|(sample, _)| sample).collect();
        check_text_size(rendered.iter().map(|sample| sample.transcript.text.len()))?;
        let mut part = writer.part(info)?;
        part.write(&transcripts_to_batch(&rendered)?)?;
        part.finish()?;
        bar.advance(info.samples);
    }
    if unplaced > 0 {
        warn(format!(
            "{}: {} assistant's turns are not learnt: the template changes them, or what is around them",
            out.display(),
            Count(unplaced)
        ));
    }
    Ok(())
}
