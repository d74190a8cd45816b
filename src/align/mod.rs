//! Token alignment: which source tokens correspond to each pivot token of a transcript.
//!
//! Both token sequences cover the same bytes, so each token has a byte span. With
//! `spans: offsets` a pivot token corresponds to the source tokens whose spans overlap its own,
//! found in one pass over both sequences. `source_pos` is the source position that *ends at the
//! same byte*, where there is one: only there have both models read exactly the same prefix, so
//! that their next-token distributions answer the same question.
//!
//! Tokens of no width (an added prefix) correspond to nothing, except BOS to BOS. Special tokens
//! cover the same bytes in both sequences, whatever their spelling, so their spans align them.
//!
//! The stage reads two `tokens` artifacts part by part and writes `alignment`, one row for each
//! pivot token.

mod offsets;
#[cfg(test)]
mod tests;

pub use offsets::links;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artifact::alignment::{AlignmentBuilder, LinkKind};
use crate::artifact::tokens::{self, SampleTokens};
use crate::artifact::{Artifact, Existing, Kind, Part, Provenance, Writer, parts};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};

/// Rows per batch written.
const BATCH_ROWS: usize = 32 * 1024;

/// How the spans of two token sequences are matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Spans {
    /// By the bytes that they cover.
    #[default]
    Offsets,
}

/// Options of the stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct AlignOptions {
    /// How the spans are matched (default `offsets`).
    #[arg(long, value_enum, default_value_t = AlignOptions::default().spans, hide_default_value = true)]
    pub spans: Spans,
}

impl AlignOptions {
    /// Fails if the options contradict each other.
    ///
    /// # Errors
    /// None at present.
    pub fn validate(&self) -> Result<()> {
        Ok(())
    }
}

/// What was aligned. Parts that an earlier run finished are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Samples.
    pub samples: u64,
    /// Pivot tokens.
    pub pivot_tokens: u64,
    /// Source tokens.
    pub source_tokens: u64,
    /// Pivot tokens with a `source_pos`.
    pub same_end: u64,
    /// Pivot tokens of each kind, in the order of [`LinkKind::ALL`].
    pub kinds: [u64; 5],
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.samples += other.samples;
        self.pivot_tokens += other.pivot_tokens;
        self.source_tokens += other.source_tokens;
        self.same_end += other.same_end;
        for (sum, count) in self.kinds.iter_mut().zip(other.kinds) {
            *sum += count;
        }
    }

    /// Pivot tokens of one kind.
    pub fn of_kind(&self, kind: LinkKind) -> u64 {
        self.kinds[kind as usize]
    }
}

/// Aligns the source's `tokens` with the pivot's, both of the same transcripts, and writes
/// `alignment` to `out_dir`.
///
/// # Errors
/// If the artifacts are not about the same samples, or the tokens of a sample end at different
/// bytes; if `out_dir` holds another result (see [`Existing`]).
///
/// # Memory
/// Two parts of tokens (9 bytes a token each) and 32,768 rows for each thread.
pub fn run(
    pivot_tokens: &Path,
    source_tokens: &Path,
    out_dir: &Path,
    options: &AlignOptions,
    existing: Existing,
) -> Result<Summary> {
    options.validate()?;
    let pivot = Artifact::open(pivot_tokens, Kind::Tokens)?;
    let source = Artifact::open(source_tokens, Kind::Tokens)?;
    source.check_same_samples(&pivot)?;
    let provenance = Provenance::new(Kind::Alignment)
        .vocabulary(vocabulary(&pivot)?)
        .input("pivot_tokens", pivot.identity())
        .input("source_tokens", source.identity())
        .input("source_vocabulary", vocabulary(&source)?)
        .options(serde_json::json!(options));
    let writer = Writer::create(out_dir, provenance, existing)?;
    let bar = Bar::new("align", pivot.samples(), "samples");
    let done = parts::each_missing(pivot.parts(), &writer, |part| {
        let theirs = &source.parts()[part.info().index as usize];
        align_part(part, theirs, &writer, options, &bar)
    })?;
    let mut summary = Summary::default();
    for part in &done {
        summary.add(part);
    }
    Ok(summary)
}

fn vocabulary(artifact: &Artifact) -> Result<&str> {
    let digest = artifact.provenance().vocabulary.as_deref();
    digest.ok_or_else(|| {
        Error::file(artifact.dir(), "its footer names no vocabulary")
            .remedy("run `corpus` again, which makes it")
    })
}

fn align_part(
    pivot: &Part,
    source: &Part,
    writer: &Writer,
    options: &AlignOptions,
    bar: &Bar,
) -> Result<Summary> {
    let pivot_samples = tokens::read_part(pivot)?;
    let source_samples = tokens::read_part(source)?;
    let mut summary = Summary::default();
    let mut out = writer.part(pivot.info())?;
    let mut rows = AlignmentBuilder::default();
    for (ours, theirs) in pivot_samples.iter().zip(&source_samples) {
        check_interrupt()?;
        let (our_end, their_end) = (ours.byte_end.last(), theirs.byte_end.last());
        if our_end != their_end {
            let end = |end: Option<&u32>| end.copied().unwrap_or(0);
            return Err(Error::input(
                format!("{} sample {}", source.path().display(), ours.sample_id),
                format!(
                    "its tokens cover {} bytes, those of the pivot {}",
                    end(their_end),
                    end(our_end)
                ),
            )
            .remedy("both must be tokens of the same transcript; run `corpus` again"));
        }
        align_sample(ours, theirs, options, &mut rows, &mut summary);
        if rows.rows() >= BATCH_ROWS {
            out.write(&rows.finish()?)?;
        }
        bar.advance(1);
    }
    out.write(&rows.finish()?)?;
    out.finish()?;
    Ok(summary)
}

/// Appends the rows of one sample.
fn align_sample(
    pivot: &SampleTokens,
    source: &SampleTokens,
    options: &AlignOptions,
    rows: &mut AlignmentBuilder,
    summary: &mut Summary,
) {
    summary.samples += 1;
    summary.pivot_tokens += pivot.ids.len() as u64;
    summary.source_tokens += source.ids.len() as u64;
    let links = match options.spans {
        Spans::Offsets => links(&pivot.byte_end, &source.byte_end),
    };
    for (pos, (pivot_id, link)) in (0u32..).zip(pivot.ids.iter().zip(links)) {
        summary.same_end += u64::from(link.source_pos.is_some());
        summary.kinds[link.kind as usize] += 1;
        let begin = link.source_begin as usize;
        let linked = (begin..link.source_end as usize).filter(|at| {
            // Tokens of no width between the linked ones stand for no text.
            *at == 0 || source.byte_start(*at) < source.byte_end[*at]
        });
        let source_ids = linked.map(|at| source.ids[at]);
        rows.push(pivot.sample_id, pos, *pivot_id, link, source_ids);
    }
}
