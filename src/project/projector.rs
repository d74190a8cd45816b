//! Projection of the rows of one sample.

use super::first::FirstTokens;
use super::follow::Follow;
use super::readings::{Languages, Lost, Next, Prediction, Reader, Readings, Rows, Scratch};
use super::rows::{BadRow, SourceRow};
use super::short::{Continuations, ShortRule};
use super::spellings::Spellings;
use super::warped::Warped;
use super::{Fallback, Matching, ProjectOptions, Short};
use crate::artifact::alignment::{LinkKind, Links};
use crate::artifact::distribution::{Distribution, Distributions, Origin, Projection};
use crate::artifact::tokens::SampleTokens;
use crate::units::TokenId;
use crate::vocab::{Role, Vocabulary};

/// Where more than this is unknown, a row is thin.
const MOST_UNKNOWN: f64 = 0.5;

/// One projected row.
pub(super) struct Projected<'a> {
    pub(super) distribution: Distribution<'a>,
    pub(super) projection: Projection,
    pub(super) origin: Origin,
    /// Whether the row is stored: not where it is left to the pivot.
    pub(super) written: bool,
}

/// What is known of one sample.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a> {
    /// The pivot's tokens.
    pub(super) tokens: &'a SampleTokens,
    /// One row for each of them.
    pub(super) links: &'a Links<'a>,
    /// The source's rows.
    pub(super) rows: Option<&'a Distributions<'a>>,
    /// The source's tokens.
    pub(super) source: &'a SampleTokens,
    /// The pivot's transcript.
    pub(super) text: &'a [u8],
    /// The pivot's own rows.
    pub(super) pivot_rows: Option<&'a Distributions<'a>>,
}

/// What all threads share.
pub(super) struct Shared<'a> {
    pub(super) source: &'a Vocabulary,
    pub(super) pivot: &'a Vocabulary,
    pub(super) spellings: (&'a Spellings, &'a Spellings),
    pub(super) first: &'a FirstTokens<'a>,
    pub(super) follow: &'a Follow,
    pub(super) matching: &'a Matching,
    /// Whether the map says where readings of one token go (`em`, `mined`, `ms`).
    pub(super) by_map: bool,
}

/// Projects rows; keeps its scratch space and what it has learnt about readings.
pub(super) struct Projector<'a> {
    options: &'a ProjectOptions,
    short: Short,
    with: Languages<'a>,
    warped: Option<Warped<'a>>,
    scratch: Scratch,
    continuations: Continuations,
    readings: Readings,
}

/// A position whose row is in the scratch space.
struct Carried {
    projection: Projection,
    origin: Origin,
    /// Probability of the token that follows, where it is known.
    prob: Option<f64>,
}

impl<'a> Projector<'a> {
    pub(super) fn new(shared: &Shared<'a>, options: &'a ProjectOptions, short: Short) -> Self {
        let (source, pivot) = shared.spellings;
        Self {
            options,
            short,
            with: Languages {
                source,
                pivot,
                first: shared.first,
                follow: shared.follow,
                by_map: shared.by_map,
                unknown: shared.source.id_with_role(Role::Unk),
            },
            warped: Warped::new(shared, options),
            scratch: Scratch::default(),
            continuations: Continuations::default(),
            readings: Readings::default(),
        }
    }

    /// Calls `write` for each position whose next token is supervised.
    pub(super) fn sample(
        &mut self,
        sample: &Sample<'_>,
        write: &mut dyn FnMut(Projected<'_>),
    ) -> Result<(), BadRow> {
        let tokens = sample.tokens;
        // Whether the source's readings reach up to the position.
        let mut carried = false;
        for pos in 0..tokens.ids.len().saturating_sub(1) {
            let next = pos + 1;
            // What has no width stands for no text: it changes nothing, and no reading predicts it.
            let has_width = tokens.byte_end[pos] < tokens.byte_end[next];
            if !tokens.supervised[next] {
                carried &= !has_width;
                continue;
            }
            let found = match &mut self.warped {
                _ if !has_width => Err(Lost::Apart),
                Some(warped) => warped.position(sample, pos, &mut self.scratch.out).map(
                    |(projection, source_nll)| Carried {
                        projection,
                        origin: Origin {
                            source_nll,
                            ..Origin::default()
                        },
                        prob: None,
                    },
                ),
                None => self.carry(sample, pos, &mut carried),
            };
            self.finish(tokens.ids[next], pos, found, write)?;
        }
        Ok(())
    }

    /// Predicts the token after `pos` by the source's readings.
    fn carry(
        &mut self,
        sample: &Sample<'_>,
        pos: usize,
        carried: &mut bool,
    ) -> Result<Carried, Lost> {
        let started = *carried || self.start(sample, pos)?;
        *carried = false;
        if !started {
            return Err(Lost::Apart);
        }
        let prediction = self.predict(sample, pos)?;
        let options = self.options;
        let thin = prediction.read < options.min_read || prediction.unknown > MOST_UNKNOWN;
        if thin && !prediction.clean {
            return Err(Lost::Apart);
        }
        if prediction.placed < f64::from(options.min_mass) {
            return Err(Lost::Apart);
        }
        *carried = true;
        let projection = match prediction {
            Prediction { inside: true, .. } => Projection::Conditioned,
            Prediction { rows: 0..=1, .. } => Projection::SameEnd,
            _ => Projection::Followed,
        };
        let next = sample.tokens.ids[pos + 1];
        self.scratch
            .out
            .list(options.top_k.unwrap_or(prediction.k), Some(next));
        let origin = Origin {
            source_nll: Some(prediction.source_nll as f32),
            owed: prediction.owed as f32,
            unknown: prediction.unknown as f32,
            short: prediction.short as f32,
            named: Some(prediction.named),
        };
        Ok(Carried {
            projection,
            origin,
            prob: Some(prediction.prob),
        })
    }

    /// Starts where both tokenizations end. Where what is supervised begins within a source
    /// token, that is before it, and the tokens up to it are read without a row.
    fn start(&mut self, sample: &Sample<'_>, pos: usize) -> Result<bool, BadRow> {
        let Sample {
            tokens,
            links,
            source,
            ..
        } = *sample;
        let mut from = pos;
        let source_pos = loop {
            if let Some(source_pos) = links.row(from).source_pos {
                break source_pos;
            }
            if tokens.supervised[from] || from == 0 {
                return Ok(false);
            }
            from -= 1;
        };
        let Some(source_end) = source.byte_end.get(source_pos as usize) else {
            return Ok(false);
        };
        self.readings
            .start(source_pos + 1, tokens.byte_end[from], *source_end);
        for before in from..pos {
            let width = tokens.byte_end[before] < tokens.byte_end[before + 1];
            if width {
                match self.predict(sample, before) {
                    Ok(_) => {}
                    Err(Lost::Bad(bad)) => return Err(bad),
                    Err(Lost::Missing | Lost::Apart) => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    fn predict(&mut self, sample: &Sample<'_>, pos: usize) -> Result<Prediction, Lost> {
        let tokens = sample.tokens;
        let (begin, end) = (tokens.byte_end[pos], tokens.byte_end[pos + 1]);
        if begin == end {
            return Err(Lost::Apart);
        }
        let link = sample.links.row(pos + 1);
        let next = Next {
            token: tokens.ids[pos + 1],
            begin,
            end,
            sources: (link.source_begin, link.source_end),
            whole: link.kind == LinkKind::OneToOne,
        };
        let own = sample.pivot_rows.and_then(|rows| {
            let row = rows.row(rows.find(pos as u32)?);
            Some((row.ids, row.logprobs))
        });
        let mut rule = match (self.short, own) {
            (Short::Tail, _) => ShortRule::Tail,
            (Short::Pivot, Some((ids, logprobs))) => ShortRule::Pivot {
                ids,
                logprobs,
                continuations: &mut self.continuations,
            },
            (Short::First, _) | (Short::Pivot, None) => ShortRule::First,
        };
        let reader = Reader {
            text: sample.text,
            source: sample.source,
        };
        let mut rows = StoredRows(sample.rows);
        self.readings.predict(
            &self.with,
            &reader,
            &next,
            &mut rows,
            &mut rule,
            &mut self.scratch,
        )
    }

    /// Hands a row to `write`: what was found, or the fallback.
    fn finish(
        &mut self,
        next: TokenId,
        pos: usize,
        found: Result<Carried, Lost>,
        write: &mut dyn FnMut(Projected<'_>),
    ) -> Result<(), BadRow> {
        let mut written = true;
        let without = |projection| Carried {
            projection,
            origin: Origin::default(),
            prob: None,
        };
        let found = match found {
            Ok(carried) => carried,
            Err(Lost::Bad(bad)) => return Err(bad),
            Err(Lost::Missing) => {
                self.scratch.out.nothing();
                without(Projection::Missing)
            }
            Err(Lost::Apart) => {
                written = self.fall_back(next);
                without(match self.options.fallback {
                    Fallback::OneHot => Projection::OneHot,
                    Fallback::Pivot | Fallback::Skip => Projection::Skipped,
                })
            }
        };
        let out = &self.scratch.out;
        let listed = || {
            let at = out.ids.iter().position(|id| *id == next);
            at.map_or(f32::NEG_INFINITY, |at| out.logprobs[at])
        };
        write(Projected {
            distribution: Distribution {
                pos: pos as u32,
                target_id: next,
                target_logprob: found.prob.map_or_else(listed, |prob| prob.ln() as f32),
                tail_logprob: out.rest.max(0.0).ln() as f32,
                ids: &out.ids,
                logprobs: &out.logprobs,
            },
            projection: found.projection,
            origin: found.origin,
            written,
        });
        Ok(())
    }

    /// Puts the fallback in place; false if the position is left to the pivot.
    fn fall_back(&mut self, next: TokenId) -> bool {
        match self.options.fallback {
            Fallback::OneHot => self.scratch.out.only(next),
            Fallback::Skip | Fallback::Pivot => self.scratch.out.nothing(),
        }
        self.options.fallback != Fallback::Pivot
    }
}

/// The rows of a sample as they are stored.
struct StoredRows<'a>(Option<&'a Distributions<'a>>);

impl Rows for StoredRows<'_> {
    fn read(&mut self, pos: u32, row: &mut SourceRow) -> Result<bool, BadRow> {
        let Some((rows, at)) = self.0.and_then(|rows| Some((rows, rows.find(pos)?))) else {
            return Ok(false);
        };
        row.read(&rows.row(at))?;
        Ok(rows.exact_nll(at).is_some())
    }
}
