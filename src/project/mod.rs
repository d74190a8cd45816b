//! Projection: a source's top-k distributions in the pivot's vocabulary, at the pivot's positions.
//!
//! For each pivot position whose next token is supervised, the first case that applies:
//!
//! | case | distribution | `projection` |
//! |---|---|---|
//! | a source token ends at the same byte | that position's, ids moved by the map | `same_end` |
//! | `spans: dtw`: one source token is linked, and its bytes end the pivot token's or the reverse | the same | `same_end` |
//! | `spans: dtw`, `map: ms`: several source tokens are linked | the mean of theirs, weighted by how often each was linked to the pivot token | `averaged` |
//! | none does, `spans: offsets`, `inside: condition` | that of the last source position before, conditioned on the bytes read since | `conditioned` |
//! | less than `min_mass` of the probability arrives, or neither applies | the fallback | `one_hot`, `skipped`, or no row |
//! | the source has no row where it is needed | none | `missing` |
//!
//! *Row `pos` is the distribution of token `pos + 1`*: what answers the question of pivot
//! position i is the source position that ends where pivot token i ends.
//!
//! Ids that land on the same pivot id add their probabilities. Probability that finds no pivot
//! id, and what is cut to `top_k`, joins the tail, so that each row sums to one. Nothing is
//! repaired silently: NaN is an error, and rows that the source lacks are counted.

mod arrivals;
mod counts;
mod follow;
mod projector;
mod spellings;
mod summary;
#[cfg(test)]
mod tests;

pub use summary::{Quality, Summary};

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artifact::alignment::Links;
use crate::artifact::distribution::{DistributionBuilder, Distributions, Projection};
use crate::artifact::rows::SampleCursor;
use crate::artifact::tokens::{self, SampleTokens};
use crate::artifact::{Artifact, Existing, Kind, Part, Provenance, Writer, parts, token_map};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::units::TokenId;
use crate::vocab::Vocabulary;
use counts::PairCounts;
use follow::Follow;
use projector::{Matching, Projected, Projector};
use spellings::Spellings;

/// Rows per batch written.
const BATCH_ROWS: usize = 32 * 1024;

/// What is done where no source token ends at the same byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Inside {
    /// The distribution before the source token, conditioned on what has been read of it.
    #[default]
    Condition,
    /// The fallback.
    Fallback,
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
    /// What is done inside a source token (default `condition`).
    #[arg(long, value_enum, default_value_t = ProjectOptions::default().inside, hide_default_value = true)]
    pub inside: Inside,
    /// What stands where there is no distribution (default `one_hot`).
    #[arg(long, value_enum, default_value_t = ProjectOptions::default().fallback, hide_default_value = true)]
    pub fallback: Fallback,
    /// Probability that must arrive in the pivot's vocabulary, in [0, 1] (default 0.3); a
    /// position with less uses the fallback.
    #[arg(long, default_value_t = ProjectOptions::default().min_mass, hide_default_value = true)]
    pub min_mass: f32,
    /// Length of the lists, at least 1 (default: that of the source's row).
    #[arg(long)]
    pub top_k: Option<usize>,
}

impl Default for ProjectOptions {
    fn default() -> Self {
        Self {
            inside: Inside::default(),
            fallback: Fallback::default(),
            min_mass: 0.3,
            top_k: None,
        }
    }
}

impl ProjectOptions {
    /// Fails if an option is out of range.
    ///
    /// # Errors
    /// `min_mass` outside [0, 1]; `top_k` of 0.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.min_mass) {
            return Err(Error::usage(format!(
                "`min_mass` is {}, expected a probability between 0 and 1",
                self.min_mass
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::usage("`top_k` is 0, expected 1 or more"));
        }
        Ok(())
    }
}

/// What a projection is made from.
pub struct ProjectInputs<'a> {
    /// The source's `topk`.
    pub topk: &'a Path,
    /// The `alignment` of source and pivot.
    pub alignment: &'a Path,
    /// The `token_map`; its option `width` says how many ranks are followed.
    pub token_map: &'a Path,
    /// The pivot's `tokens`.
    pub pivot_tokens: &'a Path,
    /// The source's vocabulary.
    pub source: &'a Vocabulary,
    /// The pivot's vocabulary.
    pub pivot: &'a Vocabulary,
    /// The first token with which the pivot's tokenizer starts some bytes in mid-text
    /// ([`crate::vocab::Tokenizer::first_token`]).
    pub first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
    /// The pivot's own `topk`, to compare with in [`Summary`]; changes no row.
    pub pivot_topk: Option<&'a Path>,
}

/// The opened inputs.
struct Opened<'a> {
    inputs: &'a ProjectInputs<'a>,
    options: &'a ProjectOptions,
    topk: Artifact,
    alignment: Artifact,
    tokens: Artifact,
    pivot_topk: Option<Artifact>,
    follow: Follow,
    spellings: Spellings,
    matching: Matching,
}

/// Writes `projected` to `out_dir`.
///
/// # Errors
/// If the artifacts are not about the same samples or vocabularies, a log-probability is not a
/// number (naming sample and position), or `out_dir` holds another result (see [`Existing`]).
///
/// # Memory
/// The map and the spellings of the source's tokens, with `spans: dtw` and `map: ms` 16 bytes for
/// each distinct pair of linked tokens,
/// and for each thread one part of the pivot's tokens (9 bytes a token), the rows of
/// one sample, 32,768 rows of output, and the distinct remainders of tokens.
pub fn run(
    inputs: &ProjectInputs<'_>,
    out_dir: &Path,
    options: &ProjectOptions,
    existing: Existing,
) -> Result<Summary> {
    options.validate()?;
    let opened = Opened::open(inputs, options)?;
    let mut provenance = Provenance::new(Kind::Projected)
        .vocabulary(&inputs.pivot.digest)
        .input("topk", opened.topk.identity())
        .input("alignment", opened.alignment.identity())
        .input("pivot_tokens", opened.tokens.identity())
        .input("token_map", &opened.follow.identity)
        .options(serde_json::json!(options));
    if let Some(model) = &opened.topk.provenance().model {
        provenance = provenance.model(model);
    }
    let writer = Writer::create(out_dir, provenance, existing)?;
    let bar = Bar::new("project", opened.tokens.samples(), "samples");
    let done = parts::each_missing(opened.tokens.parts(), &writer, |part| {
        opened.project_part(part, &writer, &bar)
    })?;
    let mut summary = Summary::default();
    for part in &done {
        summary.add(part);
    }
    Ok(summary)
}

impl<'a> Opened<'a> {
    fn open(inputs: &'a ProjectInputs<'a>, options: &'a ProjectOptions) -> Result<Self> {
        let tokens = Artifact::open(inputs.pivot_tokens, Kind::Tokens)?;
        tokens.check_vocabulary(&inputs.pivot.digest)?;
        let topk = Artifact::open(inputs.topk, Kind::Topk)?;
        topk.check_vocabulary(&inputs.source.digest)?;
        if topk.holds_draws() {
            return Err(Error::file(
                topk.dir(),
                "it holds random draws, which conditioning and `min_mass` would not keep unbiased",
            )
            .remedy("score sources of another vocabulary with `mode: top`"));
        }
        let alignment = Artifact::open(inputs.alignment, Kind::Alignment)?;
        let map = Artifact::open(inputs.token_map, Kind::TokenMap)?;
        let pivot_topk = match inputs.pivot_topk {
            Some(dir) => Some(Artifact::open(dir, Kind::Topk)?),
            None => None,
        };
        for artifact in [&alignment, &map] {
            check_pair(artifact, inputs)?;
        }
        for artifact in [&topk, &alignment].into_iter().chain(&pivot_topk) {
            artifact.check_same_samples(&tokens)?;
        }
        if let Some(pivot_topk) = &pivot_topk {
            pivot_topk.check_vocabulary(&inputs.pivot.digest)?;
        }
        let follow = Follow::new(
            &map,
            &token_map::read(&map)?,
            inputs.source.len(),
            inputs.pivot.len(),
        )?;
        let option = |artifact: &Artifact, key: &str, value: &str| {
            let found = artifact.provenance().options.get(key);
            found.and_then(serde_json::Value::as_str) == Some(value)
        };
        let matching = match option(&alignment, "spans", "dtw") {
            false => Matching::Offsets,
            true if option(&map, "method", "ms") => {
                Matching::Dtw(Some(PairCounts::of_alignment(&alignment)?))
            }
            true => Matching::Dtw(None),
        };
        Ok(Self {
            inputs,
            options,
            topk,
            alignment,
            tokens,
            pivot_topk,
            follow,
            spellings: Spellings::new(inputs.source),
            matching,
        })
    }

    fn project_part(&self, part: &Part, writer: &Writer, bar: &Bar) -> Result<Summary> {
        let index = part.info().index as usize;
        let samples = tokens::read_part(part)?;
        tokens::check_ids(part, &samples, self.inputs.pivot.len())?;
        let mut alignment = SampleCursor::new(&self.alignment.parts()[index])?;
        let mut topk = SampleCursor::new(&self.topk.parts()[index])?;
        let mut pivot_topk = match &self.pivot_topk {
            Some(artifact) => Some(SampleCursor::new(&artifact.parts()[index])?),
            None => None,
        };
        let mut projector = Projector::new(
            self.inputs,
            self.options,
            &self.follow,
            &self.spellings,
            &self.matching,
        );
        let mut summary = Summary::default();
        let mut out = writer.part(part.info())?;
        let mut rows = DistributionBuilder::projected();
        for sample in &samples {
            check_interrupt()?;
            let id = sample.sample_id;
            let pivot_rows = match &mut pivot_topk {
                Some(cursor) => cursor.seek(id)?,
                None => None,
            };
            let pivot_rows = pivot_rows.as_ref().map(Distributions::new).transpose()?;
            let source_rows = topk.seek(id)?;
            let source_rows = source_rows.as_ref().map(Distributions::new).transpose()?;
            let size = self.inputs.source.len();
            if let Some((pos, token)) = source_rows.as_ref().and_then(|rows| rows.beyond(size)) {
                let dir = self.topk.parts()[index].path().display();
                return Err(Error::input(
                    format!("{dir} sample {id} position {pos}"),
                    format!("id {token} is beyond the vocabulary of {size} tokens"),
                )
                .remedy("it was made with another model; run `score` again"));
            }
            if let Some(links) = alignment.seek(id)? {
                let links = self.links(sample, &links, index)?;
                let mut write = |row: Projected<'_>| {
                    let own = pivot_rows.as_ref().and_then(|rows| {
                        let at = rows.find(row.distribution.pos)?;
                        rows.own_nll(at)
                    });
                    summary.count(&row, own);
                    if row.written {
                        rows.push_projected(id, row.distribution, row.projection, row.source_nll);
                    }
                };
                projector
                    .sample(sample, &links, source_rows.as_ref(), &mut write)
                    .map_err(|bad| {
                        let dir = self.topk.parts()[index].path().display();
                        Error::input(
                            format!("{dir} sample {id} position {}", bad.pos),
                            "a log-probability is not a number, or positive",
                        )
                        .remedy("run `score` again")
                    })?;
            } else if !sample.ids.is_empty() {
                return Err(self.stale(index, id));
            }
            if rows.rows() >= BATCH_ROWS {
                out.write(&rows.finish()?)?;
            }
            bar.advance(1);
        }
        out.write(&rows.finish()?)?;
        out.finish()?;
        Ok(summary)
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

/// Fails unless an alignment or map is between these two vocabularies.
fn check_pair(artifact: &Artifact, inputs: &ProjectInputs<'_>) -> Result<()> {
    artifact.check_vocabulary(&inputs.pivot.digest)?;
    let found = artifact.provenance().inputs.get("source_vocabulary");
    if found == Some(&inputs.source.digest) {
        return Ok(());
    }
    Err(Error::file(
        artifact.dir(),
        format!(
            "it belongs to the source vocabulary `{}`, expected `{}`",
            found.map_or("unknown", String::as_str),
            inputs.source.digest
        ),
    )
    .remedy("it was made with another tokenizer; run that stage again with this one"))
}

/// Index of a projection in the order of [`Projection::ALL`].
fn index_of(projection: Projection) -> usize {
    projection as usize
}
