//! Projection of the rows of one sample.

use std::collections::HashMap;

use super::arrivals::Arrivals;
use super::counts::PairCounts;
use super::follow::{Follow, Way};
use super::spellings::Spellings;
use super::{Fallback, Inside, ProjectInputs, ProjectOptions};
use crate::artifact::alignment::{Link, LinkKind, Links};
use crate::artifact::distribution::{Distribution, Distributions, Projection};
use crate::artifact::tokens::SampleTokens;
use crate::units::TokenId;
use crate::vocab::Vocabulary;

/// A log-probability may be this much above 0, from rounding.
const SLACK: f32 = 1e-2;

/// One projected row.
pub(super) struct Projected<'a> {
    pub(super) distribution: Distribution<'a>,
    pub(super) projection: Projection,
    /// The source's own negative log-likelihood of what follows, where it is known.
    pub(super) source_nll: Option<f32>,
    /// Whether the row is stored: not where it is left to the pivot.
    pub(super) written: bool,
}

/// A row of the source that is no distribution.
#[derive(Debug)]
pub(super) struct BadRow {
    pub(super) pos: u32,
}

/// How the positions were aligned, which decides what a link means.
#[derive(Debug)]
pub(super) enum Matching {
    /// By bytes: a source position that ends at the same byte has read the same text.
    Offsets,
    /// By warping: with how often each pair of tokens was linked, where the map counts (`ms`).
    Dtw(Option<PairCounts>),
}

/// Projects rows; keeps its scratch space and what it has learnt about remainders of tokens.
pub(super) struct Projector<'a> {
    source: &'a Vocabulary,
    pivot: &'a Vocabulary,
    matching: &'a Matching,
    first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
    follow: &'a Follow,
    spellings: &'a Spellings,
    options: &'a ProjectOptions,
    /// The first pivot token of the bytes that remain of a source token.
    remainders: HashMap<Vec<u8>, Option<TokenId>>,
    /// Probabilities of the row in work, parallel to its ids.
    probs: Vec<f64>,
    /// Where its ids go, parallel to them.
    ways: Vec<Way<'a>>,
    out: Arrivals,
}

impl<'a> Projector<'a> {
    pub(super) fn new(
        inputs: &ProjectInputs<'a>,
        options: &'a ProjectOptions,
        follow: &'a Follow,
        spellings: &'a Spellings,
        matching: &'a Matching,
    ) -> Self {
        Self {
            source: inputs.source,
            pivot: inputs.pivot,
            matching,
            first_token: inputs.first_token,
            follow,
            spellings,
            options,
            remainders: HashMap::new(),
            probs: Vec::new(),
            ways: Vec::new(),
            out: Arrivals::default(),
        }
    }

    /// Calls `write` for each position of `tokens` whose next token is supervised. `links` has
    /// one row for each token; `rows` are the source's, of the same sample.
    pub(super) fn sample(
        &mut self,
        tokens: &SampleTokens,
        links: &Links<'_>,
        rows: Option<&Distributions<'_>>,
        write: &mut dyn FnMut(Projected<'_>),
    ) -> Result<(), BadRow> {
        for pos in tokens.predicted() {
            let next = tokens.ids[pos + 1];
            let (projection, source_nll) = self.position(tokens, links, rows, pos)?;
            let written = match projection {
                Some(Projection::Missing) => {
                    self.out.nothing();
                    true
                }
                Some(_) => true,
                None => self.fall_back(next),
            };
            let projection = projection.unwrap_or(match self.options.fallback {
                Fallback::OneHot => Projection::OneHot,
                Fallback::Pivot | Fallback::Skip => Projection::Skipped,
            });
            let out = &self.out;
            let tail_logprob = out.rest.ln() as f32;
            let listed = out.ids.iter().position(|id| *id == next);
            write(Projected {
                distribution: Distribution {
                    pos: pos as u32,
                    target_id: next,
                    target_logprob: listed.map_or(tail_logprob, |at| out.logprobs[at]),
                    tail_logprob,
                    ids: &out.ids,
                    logprobs: &out.logprobs,
                },
                projection,
                source_nll,
                written,
            });
        }
        Ok(())
    }

    /// Projects one position into `out`; `None` asks for the fallback.
    fn position(
        &mut self,
        tokens: &SampleTokens,
        links: &Links<'_>,
        rows: Option<&Distributions<'_>>,
        pos: usize,
    ) -> Result<(Option<Projection>, Option<f32>), BadRow> {
        let link = links.row(pos);
        let row_at = |source_pos: u32| {
            let rows = rows?;
            rows.find(source_pos).map(|at| rows.row(at))
        };
        let same_end = match self.matching {
            Matching::Offsets => link.source_pos,
            Matching::Dtw(_) => link
                .source_pos
                .filter(|_| self.is_suffix(tokens.ids[pos], links.source_ids(pos), pos)),
        };
        if let Some(source_pos) = same_end {
            let Some(row) = row_at(source_pos) else {
                return Ok((Some(Projection::Missing), None));
            };
            let done = self.same_end(&row)?;
            return Ok(if done {
                (Some(Projection::SameEnd), Some(-row.target_logprob))
            } else {
                (None, None)
            });
        }
        if let Matching::Dtw(counts) = self.matching {
            let several = link.source_end - link.source_begin > 1;
            return match counts {
                Some(counts) if several => {
                    self.averaged(tokens.ids[pos], &link, links.source_ids(pos), rows, counts)
                }
                _ => Ok((None, None)),
            };
        }
        if self.options.inside == Inside::Fallback || link.kind == LinkKind::Unlinked {
            return Ok((None, None));
        }
        // The source token that goes on beyond the pivot token's end, and the position before.
        let inside = link.source_end.saturating_sub(1);
        let Some(before) = inside.checked_sub(1) else {
            return Ok((None, None));
        };
        let Some(row) = row_at(before) else {
            return Ok((Some(Projection::Missing), None));
        };
        let length = self.spellings.of(row.target_id).len();
        let Some(read) = bytes_read(tokens, links, pos, inside, length) else {
            return Ok((None, None));
        };
        Ok(match self.conditioned(&row, read)? {
            Some(nll) => (Some(Projection::Conditioned), Some(nll)),
            None => (None, None),
        })
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

    /// Moves all ids of a row by the map; false if too little arrives.
    fn same_end(&mut self, row: &Distribution<'_>) -> Result<bool, BadRow> {
        self.out.start();
        let mapped = self.arrive(row, 1.0)?;
        Ok(self.list(mapped, row.ids.len()))
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
    ) -> Result<(Option<Projection>, Option<f32>), BadRow> {
        self.out.start();
        let found = |pos| rows.and_then(|rows| Some(rows.row(rows.find(pos)?)));
        let members = || {
            let positions = (link.source_begin..link.source_end).zip(source_ids);
            positions.filter_map(|(pos, source_id)| {
                Some((found(pos)?, counts.of(*source_id, pivot_id) as f64))
            })
        };
        let total: f64 = members().map(|(_, count)| count).sum();
        if total <= 0.0 {
            return Ok((Some(Projection::Missing), None));
        }
        let (mut mapped, mut longest) = (0.0, 0);
        for (row, count) in members() {
            mapped += self.arrive(&row, count / total)?;
            longest = longest.max(row.ids.len());
        }
        if !self.list(mapped, longest) {
            return Ok((None, None));
        }
        // What the source thinks of what follows the last of them.
        let last = found(link.source_end - 1).map(|row| -row.target_logprob);
        Ok((Some(Projection::Averaged), last))
    }

    /// Moves the ids of a row by the map, with a share of their probability; returns how much
    /// of it arrives.
    fn arrive(&mut self, row: &Distribution<'_>, share: f64) -> Result<f64, BadRow> {
        let scale = share / self.read(row)?;
        self.out.rest += prob(row.tail_logprob) * scale;
        let follow = self.follow;
        self.ways.clear();
        self.ways.extend(row.ids.iter().map(|id| follow.of(*id)));
        let mut mapped = 0.0;
        for (way, prob) in self.ways.iter().zip(&self.probs) {
            let mass = prob * scale;
            match way {
                Way::Nowhere => {
                    self.out.rest += mass;
                    continue;
                }
                Way::To(pivot_id) => self.out.add(*pivot_id, mass),
                Way::Split(targets) => {
                    for (pivot_id, share) in *targets {
                        self.out.add(*pivot_id, mass * f64::from(*share));
                    }
                }
            }
            mapped += mass;
        }
        Ok(mapped)
    }

    /// Keeps the candidates that begin with the `read` first bytes of the token that follows
    /// `row` and are longer, and sends each to the first pivot token of its remaining bytes.
    /// Returns the source's negative log-likelihood of that token given those bytes; `None` if
    /// too little remains.
    ///
    /// The probability outside the source's list is taken to begin with those bytes as often as
    /// the listed does, so that it stays in the tail in the same proportion.
    fn conditioned(&mut self, row: &Distribution<'_>, read: usize) -> Result<Option<f32>, BadRow> {
        let scale = 1.0 / self.read(row)?;
        let tail = prob(row.tail_logprob) * scale;
        let spellings = self.spellings;
        let Some(prefix) = spellings.of(row.target_id).get(..read) else {
            return Ok(None);
        };
        self.out.start();
        let (mut kept, mut mapped) = (0.0, 0.0);
        let mut target_listed = false;
        for (at, id) in row.ids.iter().enumerate() {
            let Some(remaining) = spellings.after(prefix, *id) else {
                continue;
            };
            let mass = self.mass(at) * scale;
            kept += mass;
            target_listed |= *id == row.target_id;
            match self.first_of(remaining) {
                Some(pivot_id) => {
                    mapped += mass;
                    self.out.add(pivot_id, mass);
                }
                None => self.out.rest += mass,
            }
        }
        if kept <= 0.0 || kept < f64::from(self.options.min_mass) {
            return Ok(None);
        }
        let share = (1.0 - tail) / kept;
        self.out.scale(share);
        self.out.rest += tail;
        if !self.list(mapped * share, row.ids.len()) {
            return Ok(None);
        }
        let target = prob(row.target_logprob);
        let all = if target_listed { kept } else { kept + target };
        let nll = all.ln() as f32 - row.target_logprob;
        Ok(Some(nll.max(0.0)))
    }

    fn first_of(&mut self, remaining: &[u8]) -> Option<TokenId> {
        if let Some(known) = self.remainders.get(remaining) {
            return *known;
        }
        let first = (self.first_token)(remaining);
        self.remainders.insert(remaining.to_vec(), first);
        first
    }

    /// The probability of an entry of the row in work; a list that is too short has none.
    fn mass(&self, at: usize) -> f64 {
        self.probs.get(at).copied().unwrap_or(0.0)
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
        if sane && total > 0.0 {
            return Ok(total);
        }
        Err(BadRow { pos: row.pos })
    }

    /// Makes the list of what arrived; false if `mapped`, all of it, is less than `min_mass`.
    fn list(&mut self, mapped: f64, source_k: usize) -> bool {
        if mapped <= 0.0 || mapped < f64::from(self.options.min_mass) {
            return false;
        }
        self.out.list(self.options.top_k.unwrap_or(source_k));
        true
    }

    /// Puts the fallback in place; false if the position is left to the pivot.
    fn fall_back(&mut self, next: TokenId) -> bool {
        match self.options.fallback {
            Fallback::OneHot => self.out.only(next),
            Fallback::Skip | Fallback::Pivot => self.out.nothing(),
        }
        self.options.fallback != Fallback::Pivot
    }
}

/// How many bytes of source token `inside` (which has `length`) have been read where pivot token
/// `pos` ends within it. Counted from the token's end if a pivot token ends there, which holds
/// also where the token has an added prefix or lost bytes to a normaliser; from its beginning if
/// one ends there; else unknown.
fn bytes_read(
    tokens: &SampleTokens,
    links: &Links<'_>,
    pos: usize,
    inside: u32,
    length: usize,
) -> Option<usize> {
    let end = tokens.byte_end[pos];
    let ending = |at: usize| Some((links.row(at).source_pos?, tokens.byte_end[at]));
    let after = (pos + 1..links.len())
        .take_while(|at| links.row(*at).source_begin <= inside)
        .find_map(ending)
        .filter(|(source_pos, _)| *source_pos == inside)
        .map(|(_, token_end)| length.checked_sub((token_end - end) as usize));
    let read = after.or_else(|| {
        (0..pos)
            .rev()
            .find_map(ending)
            .filter(|(source_pos, _)| source_pos + 1 == inside)
            .map(|(_, token_start)| Some((end - token_start) as usize))
    });
    read.flatten().filter(|read| (1..length).contains(read))
}

fn prob(logprob: f32) -> f64 {
    f64::from(logprob.exp())
}
