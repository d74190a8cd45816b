//! Projection: a source's top-k distributions in the pivot's vocabulary, at the pivot's positions.
//!
//! With `spans: offsets` the source's readings of the text are carried along (`readings` says
//! how), so that the product of the projected probabilities of a text is the source's own
//! probability of it. With `spans: dtw` rows are moved one by one, as published. For each pivot
//! position whose next token is supervised:
//!
//! | case | `projection` |
//! |---|---|
//! | `offsets`: a source token ends at the same byte, and its row covers the next pivot token | `same_end` |
//! | `offsets`: so it is, and several rows do | `followed` |
//! | `offsets`: the position lies within a source token | `conditioned` |
//! | `dtw`: one source token is linked, and its bytes end the pivot token's or the reverse | `same_end` |
//! | `dtw`, `map: ms`: several are linked; the mean of their rows, weighted by how often each was linked to the pivot token | `averaged` |
//! | nothing is known of the source's reading, less than `min_mass` of what is listed has a place in the pivot's vocabulary, or what is left of the lists is thin | the fallback: `one_hot`, `skipped`, or no row |
//! | the source has no row where it is needed | `missing` |
//!
//! *Row `pos` is the distribution of token `pos + 1`*. That token is always listed (`offsets`),
//! with its exact probability; with `dtw` that is not known, and a row that does not list it gives
//! it none.
//!
//! A row is *thin* where other readings than the source's own tokens have been dropped and less
//! than `min_read` of the probability is left, or more than half of it is unknown: tails are left
//! behind where their row is passed, and what remains would be too sure. The tail of the row that
//! predicts says so itself, however large it is. (stories260K from stories3M, k = 10: positions
//! with less than 0.01 left have 0.10 nats, where the pivot has 1.03, and are right in 97.8 % of the
//! cases, at 99.5 % sure.)
//!
//! Ids that land on the same pivot id add their probabilities. Probability that finds no pivot
//! id, and what is cut to `top_k`, joins the tail, so that each row sums to one. Nothing is
//! repaired silently: NaN is an error, and rows that the source lacks are counted.

mod arrivals;
mod counts;
mod first;
mod follow;
mod memory;
mod projector;
mod readings;
mod rows;
mod short;
mod spellings;
mod summary;
#[cfg(test)]
mod tests;
mod warped;

pub use summary::{Quality, Summary};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::alignment::Links;
use crate::artifact::distribution::{DistributionBuilder, Distributions, Projection};
use crate::artifact::rows::SampleCursor;
use crate::artifact::token_map::{self, MapRow};
use crate::artifact::tokens::{self, SampleTokens};
use crate::artifact::{Artifact, Kind, Part, Writer, Writing, parts};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::text;
use crate::units::Count;
use crate::vocab::Vocabularies;
use counts::PairCounts;
use first::FirstTokens;
use follow::Follow;
use projector::{Projected, Projector, Sample, Shared};
use spellings::Spellings;

/// Rows per batch written.
const BATCH_ROWS: usize = 4096;

/// What becomes of a reading that is all of the pivot token that it begins with, where longer
/// ones begin so: a digit, a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Short {
    /// Its weight is spread over the tokens that begin so, as the pivot itself sees them there.
    Pivot,
    /// It stays with that token.
    First,
    /// It joins the tail.
    Tail,
}

/// What stands where there is no distribution of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Fallback {
    /// Certainty about the next pivot token.
    #[default]
    OneHot,
    /// No row: `fuse` takes the pivot's own distribution.
    Pivot,
    /// A row with an empty list: no fusion loss.
    Skip,
}

/// Options of the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectOptions {
    /// What becomes of a letter or digit that longer pivot tokens begin with (default `pivot` where
    /// the pivot's `topk` is there, else `first`).
    #[arg(long, value_enum)]
    pub short: Option<Short>,
    /// What stands where there is no distribution.
    #[arg(long, value_enum, default_value_t = ProjectOptions::default().fallback)]
    pub fallback: Fallback,
    /// Share of the listed probability that must find a place in the pivot's vocabulary, in [0, 1];
    /// a position with less uses the fallback.
    #[arg(long, default_value_t = ProjectOptions::default().min_mass)]
    pub min_mass: f32,
    /// Probability of what has been read since the source's readings were one, in [0, 1];
    /// with less, what is left of its lists is thin, and the fallback stands.
    #[arg(long, default_value_t = ProjectOptions::default().min_read)]
    pub min_read: f64,
    /// Length of the lists, at least 1, besides the token that follows (default: that of the
    /// source's longest row).
    #[arg(long)]
    pub top_k: Option<usize>,
}

impl Default for ProjectOptions {
    fn default() -> Self {
        Self {
            short: None,
            fallback: Fallback::default(),
            min_mass: 0.3,
            min_read: 1e-12,
            top_k: None,
        }
    }
}

impl ProjectOptions {
    /// Fails if an option is out of range.
    ///
    /// # Errors
    /// `min_mass` or `min_read` outside [0, 1]; `top_k` of 0.
    pub fn validate(&self) -> Result<()> {
        let shares = [
            ("min_mass", f64::from(self.min_mass)),
            ("min_read", self.min_read),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::usage(format!(
                    "`{name}` is {share}, expected a probability between 0 and 1"
                )));
            }
        }
        if self.top_k == Some(0) {
            return Err(Error::usage("`top_k` is 0, expected 1 or more"));
        }
        Ok(())
    }

    /// What becomes of short readings, where the pivot's own rows are there or are not.
    pub fn short(&self, pivot_rows: bool) -> Short {
        self.short.unwrap_or(match pivot_rows {
            true => Short::Pivot,
            false => Short::First,
        })
    }

    /// The options that change rows; those that are not in use are left out. `warped` says
    /// whether the alignment is of `spans: dtw`.
    pub fn changing(&self, warped: bool, pivot_rows: bool) -> serde_json::Value {
        let mut used = serde_json::json!({
            "fallback": self.fallback,
            "min_mass": self.min_mass,
            "top_k": self.top_k,
        });
        if !warped {
            used["short"] = serde_json::json!(self.short(pivot_rows));
            used["min_read"] = serde_json::json!(self.min_read);
        }
        used
    }
}

/// The stage: a source's distributions and how its tokens belong to the pivot's, and what is
/// written.
pub struct Project<'a> {
    /// The source's `topk`.
    pub topk: PathBuf,
    /// The `alignment` of source and pivot.
    pub alignment: PathBuf,
    /// The `token_map`; its option `width` says how many ranks are followed.
    pub token_map: PathBuf,
    /// The pivot's `tokens`.
    pub pivot_tokens: PathBuf,
    /// The source's `tokens`.
    pub source_tokens: PathBuf,
    /// The `transcripts` of the pivot.
    pub transcripts: PathBuf,
    /// The vocabularies.
    pub vocabularies: Vocabularies<'a>,
    /// The pivot's own `topk`: for `short: pivot`, and to compare with in [`Summary`].
    pub pivot_topk: Option<PathBuf>,
    /// Whether the alignment is of `spans: dtw`.
    pub warped: bool,
    /// Folder of the `projected` to write.
    pub out: PathBuf,
    /// How.
    pub options: ProjectOptions,
}

/// How the positions were aligned, which decides what a link means.
#[derive(Debug)]
enum Matching {
    /// By bytes.
    Offsets,
    /// By warping: with how often each pair of tokens was linked, where the map counts (`ms`).
    Dtw(Option<PairCounts>),
}

/// The opened inputs.
struct Opened<'a> {
    stage: &'a Project<'a>,
    topk: Artifact,
    alignment: Artifact,
    tokens: Artifact,
    source_tokens: Artifact,
    transcripts: Artifact,
    pivot_topk: Option<Artifact>,
    map: Vec<MapRow>,
    follow: Follow,
    /// Whether the map says where tokens go, not the pivot's tokenizer.
    by_map: bool,
    matching: Matching,
}

impl Project<'_> {
    /// Writes `projected`.
    ///
    /// # Errors
    /// If the artifacts are not about the same samples, tokens or vocabularies, the pivot's `topk`
    /// is not there but asked for, a log-probability is not a number (naming sample and position),
    /// or `out` holds another result (see [`Existing`](crate::artifact::Existing)).
    ///
    /// # Memory
    /// The map, the spellings of both vocabularies and 16 bytes for each of their tokens, 4 bytes
    /// for each token of the source and each byte of it, with `spans: dtw` and `map: ms` 16 bytes for
    /// each distinct pair of linked tokens; and for each thread one part of both models' tokens (9
    /// bytes a token) and of the transcripts, the rows of one sample, 4,096 rows of output, and up
    /// to 131,072 distinct readings and as many ways in which they may go on.
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<Summary> {
        self.options.validate()?;
        let opened = Opened::open(self)?;
        let writer = stage::writer(self, Kind::Projected, &self.out, writing)?;
        let bar = Bar::new("project", opened.tokens.samples(), "samples");
        let (source, pivot) = (self.vocabularies.source, self.vocabularies.pivot);
        let spellings = (Spellings::new(source), Spellings::new(pivot));
        let first_token = &*self.vocabularies.first_token;
        let mut first = FirstTokens::new(first_token, &spellings.0, &spellings.1);
        if !opened.by_map {
            first.learn(&opened.map);
        }
        let shared = Shared {
            source,
            pivot,
            spellings: (&spellings.0, &spellings.1),
            first: &first,
            follow: &opened.follow,
            matching: &opened.matching,
            by_map: opened.by_map,
        };
        let done = parts::each_missing(opened.tokens.parts(), &writer, |part| {
            opened.project_part(part, &shared, &writer, &bar)
        })?;
        let mut summary = Summary::default();
        for part in &done {
            summary.add(part);
        }
        Ok(summary)
    }

    /// What becomes of short readings.
    fn short(&self) -> Short {
        self.options.short(self.pivot_topk.is_some())
    }
}

impl Stage for Project<'_> {
    fn name(&self) -> &'static str {
        "project"
    }

    fn reads(&self) -> Result<Reads> {
        let tokens = |dir: &Path| Item::artifact(Kind::Tokens, dir);
        let own = self.pivot_topk.as_deref();
        let own = own.filter(|_| !self.warped && self.short() == Short::Pivot);
        let digest = &self.vocabularies.pivot.digest;
        Ok(Reads::new()
            .vocabulary(Source::Known(digest.clone()))
            .model(Source::ModelOf(Item::artifact(Kind::Topk, &self.topk)))
            .input("topk", Item::artifact(Kind::Topk, &self.topk))
            .input(
                "alignment",
                Item::artifact(Kind::Alignment, &self.alignment),
            )
            .input("token_map", Item::artifact(Kind::TokenMap, &self.token_map))
            .input("pivot_tokens", tokens(&self.pivot_tokens))
            .input("source_tokens", tokens(&self.source_tokens))
            .input(
                "transcripts",
                Item::artifact(Kind::Transcripts, &self.transcripts),
            )
            .maybe("pivot_topk", own.map(|dir| Item::artifact(Kind::Topk, dir))))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Projected, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        self.options
            .changing(self.warped, self.pivot_topk.is_some())
    }

    fn size(&self) -> Size {
        Size::Like(Item::artifact(Kind::Topk, &self.topk))
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let summary = self.perform(writing)?;
        Ok(match summary.cross_entropies() {
            _ if summary.positions == 0 => UP_TO_DATE.to_owned(),
            Some((projected, own)) => format!(
                "{} positions, cross-entropy {projected:.3} nats, the pivot's own {own:.3}",
                Count(summary.positions)
            ),
            None => format!("{} positions", Count(summary.positions)),
        })
    }
}

impl<'a> Opened<'a> {
    fn open(stage: &'a Project<'a>) -> Result<Self> {
        let vocabularies = &stage.vocabularies;
        let tokens = Artifact::open(&stage.pivot_tokens, Kind::Tokens)?;
        tokens.check_vocabulary(&vocabularies.pivot.digest)?;
        let source_tokens = Artifact::open(&stage.source_tokens, Kind::Tokens)?;
        source_tokens.check_vocabulary(&vocabularies.source.digest)?;
        let transcripts = Artifact::open(&stage.transcripts, Kind::Transcripts)?;
        let topk = Artifact::open(&stage.topk, Kind::Topk)?;
        topk.check_vocabulary(&vocabularies.source.digest)?;
        if topk.holds_draws() {
            return Err(Error::file(
                topk.dir(),
                "it holds random draws, which projecting would not keep unbiased",
            )
            .remedy("score sources of another vocabulary with `mode: top`"));
        }
        let alignment = Artifact::open(&stage.alignment, Kind::Alignment)?;
        let map = Artifact::open(&stage.token_map, Kind::TokenMap)?;
        for artifact in [&alignment, &map] {
            vocabularies.check(artifact)?;
        }
        let pivot_topk = match (&stage.pivot_topk, stage.options.short) {
            (Some(dir), _) => Some(Artifact::open(dir, Kind::Topk)?),
            (None, Some(Short::Pivot)) => {
                return Err(Error::usage("`short: pivot` needs the pivot's own `topk`")
                    .remedy("score the pivot first, or use `short: first`"));
            }
            (None, _) => None,
        };
        for artifact in [&topk, &alignment, &source_tokens, &transcripts]
            .into_iter()
            .chain(&pivot_topk)
        {
            artifact.check_same_samples(&tokens)?;
        }
        check_made_from(&alignment, "pivot_tokens", &tokens, "align")?;
        check_made_from(&alignment, "source_tokens", &source_tokens, "align")?;
        check_made_from(&topk, "tokens", &source_tokens, "score")?;
        check_made_from(&tokens, "transcripts", &transcripts, "corpus")?;
        if let Some(pivot_topk) = &pivot_topk {
            pivot_topk.check_vocabulary(&vocabularies.pivot.digest)?;
            check_made_from(pivot_topk, "tokens", &tokens, "score")?;
        }
        let rows = token_map::read(&map)?;
        let follow = Follow::new(
            &map,
            &rows,
            vocabularies.source.len(),
            vocabularies.pivot.len(),
        )?;
        let option = |artifact: &Artifact, key: &str, value: &str| {
            artifact.provenance().options[key] == value
        };
        let matching = match is_warped(&alignment) {
            false => Matching::Offsets,
            true if option(&map, "method", "ms") => {
                Matching::Dtw(Some(PairCounts::of_alignment(&alignment)?))
            }
            true => Matching::Dtw(None),
        };
        Ok(Self {
            stage,
            by_map: !option(&map, "method", "prefix"),
            map: rows,
            topk,
            alignment,
            tokens,
            source_tokens,
            transcripts,
            pivot_topk,
            follow,
            matching,
        })
    }

    fn project_part(
        &self,
        part: &Part,
        shared: &Shared<'_>,
        writer: &Writer,
        bar: &Bar,
    ) -> Result<Summary> {
        let index = part.info().index as usize;
        let samples = tokens::read_part(part)?;
        tokens::check_ids(part, &samples, self.stage.vocabularies.pivot.len())?;
        let source_part = &self.source_tokens.parts()[index];
        let source_samples = tokens::read_part(source_part)?;
        tokens::check_ids(
            source_part,
            &source_samples,
            self.stage.vocabularies.source.len(),
        )?;
        let transcripts = text::read_transcripts(&self.transcripts.parts()[index])?;
        let mut alignment = SampleCursor::new(&self.alignment.parts()[index])?;
        let mut topk = SampleCursor::new(&self.topk.parts()[index])?;
        let mut pivot_topk = match &self.pivot_topk {
            Some(artifact) => Some(SampleCursor::new(&artifact.parts()[index])?),
            None => None,
        };
        let mut projector = Projector::new(shared, &self.stage.options, self.stage.short());
        let mut summary = Summary::default();
        let mut out = writer.part(part.info())?;
        let mut rows = DistributionBuilder::projected();
        for ((sample, source), text) in samples.iter().zip(&source_samples).zip(&transcripts) {
            check_interrupt()?;
            let id = sample.sample_id;
            let pivot_rows = match &mut pivot_topk {
                Some(cursor) => cursor.seek(id)?,
                None => None,
            };
            let pivot_rows = pivot_rows.as_ref().map(Distributions::new).transpose()?;
            let source_rows = topk.seek(id)?;
            let source_rows = source_rows.as_ref().map(Distributions::new).transpose()?;
            let source_rows = source_rows.map(|rows| rows.exact(self.topk.exact_targets()));
            self.check_rows(source_rows.as_ref(), index, id)?;
            let Some(links) = alignment.seek(id)? else {
                if !sample.ids.is_empty() {
                    return Err(self.stale(index, id));
                }
                bar.advance(1);
                continue;
            };
            let links = self.links(sample, &links, index)?;
            let mut write = |row: Projected<'_>| {
                let own = pivot_rows.as_ref().and_then(|rows| {
                    let at = rows.find(row.distribution.pos)?;
                    rows.exact_nll(at)
                });
                summary.count(&row, own);
                if row.written {
                    rows.push_projected(id, row.distribution, row.projection, row.origin);
                }
            };
            let all = Sample {
                tokens: sample,
                links: &links,
                rows: source_rows.as_ref(),
                source,
                text: text.transcript.text.as_bytes(),
                pivot_rows: pivot_rows.as_ref(),
            };
            projector.sample(&all, &mut write).map_err(|bad| {
                let dir = self.topk.parts()[index].path().display();
                Error::input(
                    format!("{dir} sample {id} position {}", bad.pos),
                    "a log-probability is not a number, or positive",
                )
                .remedy("run `score` again")
            })?;
            if rows.rows() >= BATCH_ROWS {
                out.write(&rows.finish()?)?;
            }
            bar.advance(1);
        }
        out.write(&rows.finish()?)?;
        out.finish()?;
        Ok(summary)
    }

    /// Fails if the source's rows of a sample have ids beyond its vocabulary.
    fn check_rows(&self, rows: Option<&Distributions<'_>>, part: usize, sample: u64) -> Result<()> {
        let size = self.stage.vocabularies.source.len();
        let Some((pos, token)) = rows.and_then(|rows| rows.beyond(size)) else {
            return Ok(());
        };
        let dir = self.topk.parts()[part].path().display();
        Err(Error::input(
            format!("{dir} sample {sample} position {pos}"),
            format!("id {token} is beyond the vocabulary of {size} tokens"),
        )
        .remedy("it was made with another model; run `score` again"))
    }

    /// The alignment of one sample, checked against its tokens.
    fn links<'b>(
        &self,
        sample: &SampleTokens,
        rows: &'b arrow::record_batch::RecordBatch,
        part: usize,
    ) -> Result<Links<'b>> {
        let links = Links::new(rows)?;
        let in_order = (0u32..).zip(links.positions()).all(|(at, pos)| at == *pos);
        if links.pivot_ids() == sample.ids && in_order {
            return Ok(links);
        }
        Err(self.stale(part, sample.sample_id))
    }

    fn stale(&self, part: usize, sample: u64) -> Error {
        let path = self.alignment.parts()[part].path().display();
        Error::input(
            format!("{path} sample {sample}"),
            "its rows are not those of the pivot's tokens",
        )
        .remedy("run `align` again")
    }
}

/// Whether an alignment was made with `spans: dtw`.
pub fn is_warped(alignment: &Artifact) -> bool {
    alignment.provenance().options["spans"] == "dtw"
}

/// Fails if an artifact says that it was made from another `input` than this one.
fn check_made_from(artifact: &Artifact, input: &str, from: &Artifact, stage: &str) -> Result<()> {
    let found = artifact.provenance().inputs.get(input);
    match found {
        Some(found) if *found != from.content() => Err(Error::file(
            artifact.dir(),
            format!(
                "was made from other {input} than `{}`",
                from.dir().display()
            ),
        )
        .remedy(format!(
            "run `{stage}` again, or name the ones that it was made from"
        ))),
        _ => Ok(()),
    }
}

/// Index of a projection in the order of [`Projection::ALL`].
fn index_of(projection: Projection) -> usize {
    projection as usize
}
