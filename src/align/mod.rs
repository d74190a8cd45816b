//! Token alignment: which source tokens correspond to each pivot token of a transcript.
//!
//! Both token sequences cover the same bytes, so each token has a byte span. With
//! `spans: offsets` a pivot token corresponds to the source tokens whose spans overlap its own,
//! found in one pass over both sequences. `source_pos` is the source position that *ends at the
//! same byte*, where there is one: only there have both models read exactly the same prefix, so
//! that their next-token distributions answer the same question. Tokens of no width (an added
//! prefix) correspond to nothing, except BOS to BOS. Special tokens cover the same bytes in both
//! sequences, whatever their spelling, so their spans align them.
//!
//! With `spans: dtw`, the papers' way, the spellings of the tokens are warped onto each other:
//! the path through both sequences with the least sum of edit distances, from the full table of
//! all pairs (`dtw_band` looks only near the byte offsets: an approximation, which can miss the
//! best path). `source_pos` is the one linked source position, if it is one. Special tokens
//! match by role. What is compared is the text of each token, decoded alone, as in FuseChat's
//! program, or its piece, as in FuseLLM's (`dtw_text`).
//!
//! Where each model has a transcript of its own (`template: native`), both ways work within the
//! messages, which are matched by role and text; the rest of a template corresponds to nothing.
//!
//! The stage reads two `tokens` artifacts part by part and writes `alignment`, one row for each
//! pivot token.

mod dtw;
mod native;
mod offsets;
mod pieces;
#[cfg(test)]
mod tests;
mod warp;

pub use offsets::links;
pub use warp::{Sample, Warp};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::alignment::{AlignmentBuilder, Link, LinkKind};
use crate::artifact::tokens::{self, SampleTokens};
use crate::artifact::{Artifact, Kind, Part, Writer, Writing, parts};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt, warn};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::text::{self, SampleTranscript};
use crate::units::Count;
use crate::vocab::Vocabulary;

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
    /// By dynamic time warping over the spellings of the pieces.
    Dtw,
}

/// Which of several paths of the same cost the warping takes, read from the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum DtwTies {
    /// A step in both sequences, else in the pivot's, else in the source's.
    #[default]
    Fusechat,
    /// A step in both sequences, else in the source's, else in the pivot's.
    Fusellm,
}

/// What the warping compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum DtwText {
    /// The text that each token decodes to alone.
    #[default]
    Decoded,
    /// The pieces as the tokenizers spell them, without the marks of blanks: byte-level pieces
    /// have two letters for a Russian one and three for a Chinese one, none of them the same.
    Pieces,
}

/// Options of the stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct AlignOptions {
    /// How the spans are matched.
    #[arg(long, value_enum, default_value_t = AlignOptions::default().spans)]
    pub spans: Spans,
    /// Which of several equal paths `dtw` takes.
    #[arg(long, value_enum, default_value_t = AlignOptions::default().dtw_ties)]
    pub dtw_ties: DtwTies,
    /// What `dtw` compares: `decoded`, the text of each token, as FuseChat's program does;
    /// `pieces`, the tokenizers' own spellings, as FuseLLM's does.
    #[arg(long, value_enum, default_value_t = AlignOptions::default().dtw_text)]
    pub dtw_text: DtwText,
    /// How many tokens beyond those at the same bytes `dtw` looks at, at least 1: an
    /// approximation (default: all, which is exact).
    #[arg(long)]
    pub dtw_band: Option<u32>,
}

impl AlignOptions {
    /// Fails if an option is out of range.
    ///
    /// # Errors
    /// A band of 0.
    pub fn validate(&self) -> Result<()> {
        if self.dtw_band == Some(0) {
            return Err(Error::usage("`dtw_band` is 0, expected 1 or more"));
        }
        Ok(())
    }

    /// The options that change the result.
    pub fn changing(&self) -> serde_json::Value {
        match self.spans {
            Spans::Offsets => serde_json::json!({ "spans": self.spans }),
            Spans::Dtw => serde_json::json!(self),
        }
    }
}

/// The stage: token sequences of the same samples, and what their alignment is written to.
#[derive(Clone, Debug)]
pub struct Align {
    /// The pivot's `tokens`.
    pub pivot_tokens: PathBuf,
    /// The source's `tokens`.
    pub source_tokens: PathBuf,
    /// The pivot's `vocab` and the source's; needed by [`Spans::Dtw`].
    pub vocabs: Option<(PathBuf, PathBuf)>,
    /// The `transcripts` that the pivot's tokens were made from, and those of the source's, where
    /// they are not the same (`template: native`).
    pub transcripts: Option<(PathBuf, PathBuf)>,
    /// Folder of the `alignment` to write.
    pub out: PathBuf,
    /// How.
    pub options: AlignOptions,
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
    /// Messages of the pivot's transcripts that the source's do not have (`template: native`).
    pub unmatched: u64,
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.samples += other.samples;
        self.pivot_tokens += other.pivot_tokens;
        self.source_tokens += other.source_tokens;
        self.same_end += other.same_end;
        self.unmatched += other.unmatched;
        for (sum, count) in self.kinds.iter_mut().zip(other.kinds) {
            *sum += count;
        }
    }

    fn count(&mut self, pivot: &SampleTokens, source: &SampleTokens, links: &[Link]) {
        self.samples += 1;
        self.pivot_tokens += pivot.ids.len() as u64;
        self.source_tokens += source.ids.len() as u64;
        for link in links {
            self.same_end += u64::from(link.source_pos.is_some());
            self.kinds[link.kind as usize] += 1;
        }
    }

    /// Pivot tokens of one kind.
    pub fn of_kind(&self, kind: LinkKind) -> u64 {
        self.kinds[kind as usize]
    }
}

impl Align {
    /// Aligns the source's `tokens` with the pivot's and writes `alignment`.
    ///
    /// # Errors
    /// If the artifacts are not about the same samples or vocabularies, the tokens of a sample end
    /// at different bytes, a sample is too long for the full table; if `out` holds another
    /// result (see [`Existing`](crate::artifact::Existing)).
    ///
    /// # Memory
    /// For each thread, two parts of tokens (9 bytes a token), 32,768 rows, and for transcripts of
    /// their own the text of two parts; with `dtw` also n · m / 4 bytes for the n and m tokens of
    /// the longest sample (m replaced by about twice the band, if there is one), and 2 · m bytes for
    /// each distinct token among the n.
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<Summary> {
        self.options.validate()?;
        let opened = Opened::open(self)?;
        let writer = stage::writer(self, Kind::Alignment, &self.out, writing)?;
        let bar = Bar::new("align", opened.pivot.samples(), "samples");
        let done = parts::each_missing(opened.pivot.parts(), &writer, |part| {
            opened.align_part(part, &writer, &bar)
        })?;
        let mut summary = Summary::default();
        for part in &done {
            summary.add(part);
        }
        Ok(summary)
    }

    /// Whether both `tokens` were made from the same transcripts, so that theirs are not needed.
    ///
    /// # Errors
    /// They are not there, or not whole.
    pub fn share_transcripts(&self) -> Result<bool> {
        let open = |dir: &Path| Artifact::open(dir, Kind::Tokens);
        let (pivot, source) = (open(&self.pivot_tokens)?, open(&self.source_tokens)?);
        Ok(made_from(&pivot) == made_from(&source))
    }
}

impl Stage for Align {
    fn name(&self) -> &'static str {
        "align"
    }

    fn reads(&self) -> Result<Reads> {
        let tokens = |dir: &Path| Item::artifact(Kind::Tokens, dir);
        let (pivot, source) = (tokens(&self.pivot_tokens), tokens(&self.source_tokens));
        let mut reads = Reads::new()
            .vocabulary(Source::VocabularyOf(pivot.clone()))
            .input("pivot_tokens", pivot)
            .fact("source_vocabulary", Source::VocabularyOf(source.clone()))
            .input("source_tokens", source);
        if let Some((ours, theirs)) = &self.transcripts {
            reads = reads
                .input("pivot_transcripts", Item::artifact(Kind::Transcripts, ours))
                .input(
                    "source_transcripts",
                    Item::artifact(Kind::Transcripts, theirs),
                );
        }
        if let (Spans::Dtw, Some((ours, theirs))) = (self.options.spans, &self.vocabs) {
            reads = reads
                .also(Item::artifact(Kind::Vocab, ours))
                .also(Item::artifact(Kind::Vocab, theirs));
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Alignment, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        self.options.changing()
    }

    fn size(&self) -> Size {
        Size::PerToken(6)
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let summary = self.perform(writing)?;
        if summary.unmatched > 0 {
            warn(format!(
                "{}: {} messages of the pivot's transcripts are not in the source's",
                self.out.display(),
                Count(summary.unmatched)
            ));
        }
        let share = 100.0 * summary.same_end as f64 / summary.pivot_tokens.max(1) as f64;
        let what = match self.options.spans {
            Spans::Offsets => "end with a source token",
            Spans::Dtw => "have one source token",
        };
        Ok(match summary.pivot_tokens {
            0 => UP_TO_DATE.to_owned(),
            tokens => format!("{} pivot tokens, {share:.1} % {what}", Count(tokens)),
        })
    }
}

/// The opened inputs.
struct Opened {
    pivot: Artifact,
    source: Artifact,
    /// Where they are not the same.
    transcripts: Option<(Artifact, Artifact)>,
    warp: Option<Warp>,
}

impl Opened {
    fn open(stage: &Align) -> Result<Self> {
        let pivot = Artifact::open(&stage.pivot_tokens, Kind::Tokens)?;
        let source = Artifact::open(&stage.source_tokens, Kind::Tokens)?;
        source.check_same_samples(&pivot)?;
        let warp = match (stage.options.spans, &stage.vocabs) {
            (Spans::Offsets, _) => None,
            (Spans::Dtw, Some((ours, theirs))) => {
                let (ours, theirs) = (Vocabulary::read(ours)?, Vocabulary::read(theirs)?);
                pivot.check_vocabulary(&ours.digest)?;
                source.check_vocabulary(&theirs.digest)?;
                Some(Warp::new(&ours, &theirs, &stage.options)?)
            }
            (Spans::Dtw, None) => {
                return Err(Error::usage(
                    "`spans: dtw` compares the spellings of tokens, no vocabularies are given",
                )
                .remedy("name the `vocab` artifacts of both, or use `spans: offsets`"));
            }
        };
        let transcripts = match &stage.transcripts {
            Some((ours, theirs)) => Some((
                transcripts_of(&pivot, ours)?,
                transcripts_of(&source, theirs)?,
            )),
            None if made_from(&pivot) == made_from(&source) => None,
            None => {
                return Err(Error::file(
                    source.dir(),
                    "its tokens were made from other transcripts than the pivot's",
                )
                .remedy(
                    "run `corpus` again; if each model has a template of its own, name the \
                     `transcripts` of both",
                ));
            }
        };
        Ok(Self {
            pivot,
            source,
            transcripts,
            warp,
        })
    }

    fn align_part(&self, pivot: &Part, writer: &Writer, bar: &Bar) -> Result<Summary> {
        let index = pivot.info().index as usize;
        let source = &self.source.parts()[index];
        let pivot_samples = tokens::read_part(pivot)?;
        let source_samples = tokens::read_part(source)?;
        let texts: Option<(Vec<SampleTranscript>, Vec<SampleTranscript>)> = match &self.transcripts
        {
            None => None,
            Some((ours, theirs)) => Some((
                text::read_transcripts(&ours.parts()[index])?,
                text::read_transcripts(&theirs.parts()[index])?,
            )),
        };
        let mut warp = self.warp.clone();
        let mut summary = Summary::default();
        let mut out = writer.part(pivot.info())?;
        let mut rows = AlignmentBuilder::default();
        for (at, (ours, theirs)) in pivot_samples.iter().zip(&source_samples).enumerate() {
            check_interrupt()?;
            let place = || format!("{} sample {}", source.path().display(), ours.sample_id);
            if let Some(warp) = &warp {
                warp.check_size(ours.ids.len(), theirs.ids.len())
                    .map_err(|error| Error::input(place(), error.to_string()))?;
            }
            let segments = match &texts {
                None => {
                    same_length(ours, theirs, place)?;
                    None
                }
                Some((our_texts, their_texts)) => {
                    let (segments, unmatched) =
                        native::segments(&our_texts[at].transcript, &their_texts[at].transcript);
                    summary.unmatched += unmatched;
                    Some(segments)
                }
            };
            let links = match (&mut warp, segments) {
                (None, None) => links(&ours.byte_end, &theirs.byte_end).collect(),
                (None, Some(segments)) => {
                    native::links_of(ours, theirs, &segments, native::by_offsets)
                }
                (Some(warp), None) => warp.links(&Sample::whole(ours), &Sample::whole(theirs)),
                (Some(warp), Some(segments)) => {
                    native::links_of(ours, theirs, &segments, |a, b| warp.links(a, b))
                }
            };
            summary.count(ours, theirs, &links);
            push_rows(ours, theirs, &links, warp.is_none(), &mut rows);
            if rows.rows() >= BATCH_ROWS {
                out.write(&rows.finish()?)?;
            }
            bar.advance(1);
        }
        out.write(&rows.finish()?)?;
        out.finish()?;
        Ok(summary)
    }
}

/// The transcripts that `tokens` say to be made from.
fn made_from(tokens: &Artifact) -> Option<&String> {
    tokens.provenance().inputs.get("transcripts")
}

/// Opens the transcripts that `tokens` were made from.
fn transcripts_of(tokens: &Artifact, dir: &Path) -> Result<Artifact> {
    let transcripts = Artifact::open(dir, Kind::Transcripts)?;
    transcripts.check_same_samples(tokens)?;
    if made_from(tokens).is_some_and(|expected| *expected == transcripts.content()) {
        return Ok(transcripts);
    }
    Err(Error::file(
        dir,
        format!(
            "`{}` was made from other transcripts",
            tokens.dir().display()
        ),
    )
    .remedy("run `corpus` again"))
}

fn same_length(
    ours: &SampleTokens,
    theirs: &SampleTokens,
    place: impl Fn() -> String,
) -> Result<()> {
    let end = |tokens: &SampleTokens| tokens.byte_end.last().copied().unwrap_or(0);
    if end(ours) == end(theirs) {
        return Ok(());
    }
    Err(Error::input(
        place(),
        format!(
            "its tokens cover {} bytes, those of the pivot {}",
            end(theirs),
            end(ours)
        ),
    )
    .remedy("both must be tokens of the same transcript; run `corpus` again"))
}

/// Appends the rows of one sample. By bytes, tokens of no width between the linked ones stand for
/// no text and are left out of `source_ids`; the warping links them like any other.
fn push_rows(
    pivot: &SampleTokens,
    source: &SampleTokens,
    links: &[Link],
    by_bytes: bool,
    rows: &mut AlignmentBuilder,
) {
    for (pos, (pivot_id, link)) in (0u32..).zip(pivot.ids.iter().zip(links)) {
        let linked = link.source_begin as usize..link.source_end as usize;
        let linked = linked
            .filter(|at| !by_bytes || *at == 0 || source.byte_start(*at) < source.byte_end[*at]);
        let source_ids = linked.map(|at| source.ids[at]);
        rows.push(pivot.sample_id, pos, *pivot_id, *link, source_ids);
    }
}
