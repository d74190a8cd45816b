//! Transcripts to tokens.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::Value;

use crate::artifact::tokens::{SampleTokens, to_batch};
use crate::artifact::{Artifact, Existing, Kind, Writing};
use crate::error::Result;
use crate::progress::{Bar, check_interrupt};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::text::{SampleTranscript, read_transcripts};
use crate::units::Count;
use crate::vocab::{SpecialTokens, Tokenizer};

/// Samples that are tokenised between two looks at the user's wish to stop.
const CHUNK: usize = 512;

/// A part of the stage: the artifact `tokens` of one vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenise<'a> {
    /// The `transcripts` to read.
    pub transcripts: PathBuf,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The tokenizer whose template made the transcripts, where that is another one.
    pub made_by: Option<&'a Tokenizer>,
    /// What contents are that spell special tokens ([`Tokenizer::encode_transcript`]).
    pub special_tokens: SpecialTokens,
    /// Folder of the `tokens` to write.
    pub out: PathBuf,
}

/// What [`Tokenise::perform`] did.
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

impl Tokenise<'_> {
    /// Tokenises transcripts part by part.
    ///
    /// Does nothing where the same is already there, and goes on where an earlier call stopped.
    ///
    /// # Errors
    /// Missing or damaged transcripts, an artifact of something else in `out`, a full disk.
    ///
    /// # Memory
    /// One part of transcripts and its tokens (9 bytes each).
    pub fn perform(&self, existing: Existing) -> Result<TokenSummary> {
        let transcripts = Artifact::open(&self.transcripts, Kind::Transcripts)?;
        let writer = stage::writer(self, Kind::Tokens, &self.out, existing)?;
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
            let tokens = self.encode(&read_transcripts(part)?, &bar)?;
            summary.add(&tokens);
            let mut part = writer.part(info)?;
            part.write(&to_batch(&tokens)?)?;
            part.finish()?;
        }
        Ok(summary)
    }

    /// The tokens of some transcripts, on all cores.
    fn encode(&self, samples: &[SampleTranscript], bar: &Bar) -> Result<Vec<SampleTokens>> {
        let mut tokens = Vec::with_capacity(samples.len());
        for chunk in samples.chunks(CHUNK) {
            check_interrupt()?;
            let encoded: Vec<Result<SampleTokens>> = chunk
                .par_iter()
                .map(|sample| {
                    let row = self.tokenizer.encode_transcript(
                        &sample.transcript,
                        self.made_by,
                        self.special_tokens,
                    )?;
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
}

impl Stage for Tokenise<'_> {
    fn name(&self) -> &'static str {
        "corpus"
    }

    fn reads(&self) -> Result<Reads> {
        let own = &self.tokenizer.vocabulary().digest;
        let reads = Reads::new().vocabulary(Source::Known(own.clone())).input(
            "transcripts",
            Item::artifact(Kind::Transcripts, &self.transcripts),
        );
        let pivot = self.made_by.map(|pivot| &pivot.vocabulary().digest);
        Ok(match pivot.filter(|pivot| *pivot != own) {
            Some(pivot) => reads.fact("pivot_vocabulary", Source::Known(pivot.clone())),
            None => reads,
        })
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Tokens, &self.out)]
    }

    /// Tokens of before have special tokens where a content spells them (2), or other ends, with
    /// some tokenizers.
    fn changing(&self, _: Kind) -> Value {
        serde_json::json!({ "spans": 3, "special_tokens": self.special_tokens })
    }

    fn size(&self) -> Size {
        Size::PerToken(3)
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let summary = self.perform(existing)?;
        Ok(match summary.up_to_date {
            true => UP_TO_DATE.to_owned(),
            false => format!(
                "{} tokens, {} supervised",
                Count(summary.tokens),
                Count(summary.supervised)
            ),
        })
    }
}

impl TokenSummary {
    fn add(&mut self, tokens: &[SampleTokens]) {
        for sample in tokens {
            self.tokens += sample.ids.len() as u64;
            self.supervised += sample.supervised.iter().filter(|s| **s).count() as u64;
        }
    }
}
