//! Positions aligned by warping (`spans: dtw`), as published.

use super::arrivals::Arrivals;
use super::counts::PairCounts;
use super::follow::{Follow, Way};
use super::projector::{Sample, Shared};
use super::readings::Lost;
use super::rows::{BadRow, SLACK};
use super::{Matching, ProjectOptions};
use crate::artifact::alignment::Link;
use crate::artifact::distribution::{Distribution, Distributions, Projection};
use crate::units::TokenId;
use crate::vocab::Vocabulary;

/// What the linked rows say, moved by the map.
pub(super) struct Warped<'a> {
    source: &'a Vocabulary,
    pivot: &'a Vocabulary,
    follow: &'a Follow,
    options: &'a ProjectOptions,
    /// How often each pair of tokens was linked, where the map counts (`ms`).
    counts: Option<&'a PairCounts>,
    /// Probabilities of the row in work, parallel to its ids.
    probs: Vec<f64>,
}

type Position = (Projection, Option<f32>);

impl<'a> Warped<'a> {
    /// None where positions are aligned by bytes.
    pub(super) fn new(shared: &Shared<'a>, options: &'a ProjectOptions) -> Option<Self> {
        match shared.matching {
            Matching::Offsets => None,
            Matching::Dtw(counts) => Some(Self {
                source: shared.source,
                pivot: shared.pivot,
                follow: shared.follow,
                options,
                counts: counts.as_ref(),
                probs: Vec::new(),
            }),
        }
    }

    /// Projects one position into `out`; an error asks for the fallback, or says that a row is
    /// missing.
    pub(super) fn position(
        &mut self,
        sample: &Sample<'_>,
        pos: usize,
        out: &mut Arrivals,
    ) -> Result<Position, Lost> {
        let link = sample.links.row(pos);
        let source_ids = sample.links.source_ids(pos);
        let pivot_id = sample.tokens.ids[pos];
        if let Some(source_pos) = link.source_pos
            && self.is_suffix(pivot_id, source_ids, pos)
        {
            let rows = sample.rows;
            let Some(row) = rows.and_then(|rows| Some(rows.row(rows.find(source_pos)?))) else {
                return Err(Lost::Missing);
            };
            out.start();
            let mapped = self.arrive(&row, 1.0, out)?;
            let done = self.list(mapped, row.ids.len(), out);
            let found = (Projection::SameEnd, Some(-row.target_logprob));
            return done.then_some(found).ok_or(Lost::Apart);
        }
        match self.counts {
            Some(counts) if link.source_end - link.source_begin > 1 => {
                self.averaged(pivot_id, &link, source_ids, sample.rows, counts, out)
            }
            _ => Err(Lost::Apart),
        }
    }

    /// Whether a pivot token and the source token linked to it end with the same text: one is a
    /// suffix of the other, or they are special tokens of the same role. Without a linked token,
    /// both have read their template up to a message.
    fn is_suffix(&self, pivot_id: TokenId, source_ids: &[TokenId], pos: usize) -> bool {
        let [source_id] = source_ids else {
            return source_ids.is_empty();
        };
        let (ours, theirs) = (self.pivot.token(pivot_id), self.source.token(*source_id));
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            return false;
        };
        if ours.special || theirs.special {
            // What begins a sequence is BOS to its model, whichever token it is.
            let mut roles = self.pivot.roles_of(pivot_id);
            return pos == 0
                || roles.any(|role| self.source.id_with_role(role) == Some(*source_id));
        }
        ours.bytes.ends_with(&theirs.bytes) || theirs.bytes.ends_with(&ours.bytes)
    }

    /// The mean of the distributions at the linked source positions, weighted by how often each
    /// source token was linked to the pivot token (FuseChat's statistics). Positions without a
    /// row, whose next token is not supervised, are left out.
    fn averaged(
        &mut self,
        pivot_id: TokenId,
        link: &Link,
        source_ids: &[TokenId],
        rows: Option<&Distributions<'_>>,
        counts: &PairCounts,
        out: &mut Arrivals,
    ) -> Result<Position, Lost> {
        out.start();
        let found = |pos| rows.and_then(|rows| Some(rows.row(rows.find(pos)?)));
        let members = || {
            let positions = (link.source_begin..link.source_end).zip(source_ids);
            positions.filter_map(|(pos, source_id)| {
                Some((found(pos)?, counts.of(*source_id, pivot_id) as f64))
            })
        };
        let total: f64 = members().map(|(_, count)| count).sum();
        if total <= 0.0 {
            return Err(Lost::Missing);
        }
        let (mut mapped, mut longest) = (0.0, 0);
        for (row, count) in members() {
            mapped += self.arrive(&row, count / total, out)?;
            longest = longest.max(row.ids.len());
        }
        if !self.list(mapped, longest, out) {
            return Err(Lost::Apart);
        }
        // What the source thinks of what follows the last of them.
        let last = found(link.source_end - 1).map(|row| -row.target_logprob);
        Ok((Projection::Averaged, last))
    }

    /// Moves the ids of a row by the map, with a share of their probability; returns how much
    /// of it arrives.
    fn arrive(
        &mut self,
        row: &Distribution<'_>,
        share: f64,
        out: &mut Arrivals,
    ) -> Result<f64, BadRow> {
        let scale = share / self.read(row)?;
        out.rest += prob(row.tail_logprob) * scale;
        let mut mapped = 0.0;
        for (id, prob) in row.ids.iter().zip(&self.probs) {
            let mass = prob * scale;
            match self.follow.of(*id) {
                Way::Nowhere => {
                    out.rest += mass;
                    continue;
                }
                Way::To(pivot_id) => out.add(pivot_id, mass),
                Way::Split(targets) => {
                    for (pivot_id, share) in targets {
                        out.add(*pivot_id, mass * f64::from(*share));
                    }
                }
            }
            mapped += mass;
        }
        Ok(mapped)
    }

    /// Takes the probabilities of a row; returns their sum: one, but for the rounding of the
    /// stored list.
    fn read(&mut self, row: &Distribution<'_>) -> Result<f64, BadRow> {
        self.probs.clear();
        let mut total = prob(row.tail_logprob);
        let mut sane = row.tail_logprob <= SLACK && row.target_logprob <= SLACK;
        for logprob in row.logprobs {
            let mass = prob(*logprob);
            sane &= *logprob <= SLACK;
            total += mass;
            self.probs.push(mass);
        }
        // NaN compares false above.
        match sane && total > 0.0 {
            true => Ok(total),
            false => Err(BadRow { pos: row.pos }),
        }
    }

    /// Makes the list of what arrived; false if `mapped`, all of it, is less than `min_mass`.
    fn list(&self, mapped: f64, source_k: usize, out: &mut Arrivals) -> bool {
        if mapped <= 0.0 || mapped < f64::from(self.options.min_mass) {
            return false;
        }
        out.list(self.options.top_k.unwrap_or(source_k), None);
        true
    }
}

fn prob(logprob: f32) -> f64 {
    f64::from(logprob.exp())
}
