//! The source's readings of a text, carried from one pivot token to the next.
//!
//! At the end of a pivot token the source may be in the middle of a token of its own, and what it
//! has read may be cut in other ways than it cuts the text itself. All that its rows say about it
//! is kept, as weights that sum to one:
//!
//! * the *path*: the source's own tokens of the text;
//! * *live readings* beside it, which agree with the text so far and reach beyond it;
//! * what is *unknown*: readings that end here beside the path, of which no row says how they go
//!   on.
//!
//! To predict a pivot token v, the path is read on until it covers v. Each other token that a row
//! lists on the way becomes a reading. Then every reading gives its weight to the first token with
//! which the pivot's tokenizer begins it, the path gives its weight to v, and tails and the
//! unknown make the tail. After that only the readings that gave their weight to v are left. So
//! the product of p(v) over a text is the source's own probability of the text, whatever the two
//! vocabularies and however short the lists.

use super::arrivals::Arrivals;
use super::first::{Ahead, First, FirstTokens, Remembered};
use super::follow::{Follow, Way};
use super::rows::{BadRow, SourceRow};
use super::short::{Shares, ShortReading, ShortRule};
use super::spellings::Spellings;
use crate::artifact::tokens::SampleTokens;
use crate::units::TokenId;

/// What readings are made of, for all samples.
pub(super) struct Languages<'a> {
    pub(super) source: &'a Spellings,
    pub(super) pivot: &'a Spellings,
    pub(super) first: &'a FirstTokens<'a>,
    pub(super) follow: &'a Follow,
    /// Whether the map says where a reading of one token goes, not the pivot's tokenizer.
    pub(super) by_map: bool,
    /// The source's token for what it does not know.
    pub(super) unknown: Option<TokenId>,
}

/// One sample, as both models read it.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// The transcript of the pivot.
    pub(super) text: &'a [u8],
    /// The source's tokens.
    pub(super) source: &'a SampleTokens,
}

impl<'a> Reader<'a> {
    fn slice(&self, from: u32, to: u32) -> &'a [u8] {
        self.text
            .get(from as usize..to as usize)
            .unwrap_or_default()
    }
}

/// A pivot token with width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) token: TokenId,
    /// Its bytes in the pivot's transcript, half-open.
    pub(super) begin: u32,
    pub(super) end: u32,
    /// The source tokens that it may be made of; beyond them its message ends.
    pub(super) sources: (u32, u32),
    /// Whether it is one source token, of whatever bytes (what closes a turn may be spelled in
    /// other ways).
    pub(super) whole: bool,
}

/// A reading beside the path: text up to `to`, then the bytes of a source token from `offset` on.
#[derive(Clone, Copy, Debug)]
struct Reading {
    weight: f64,
    to: u32,
    token: TokenId,
    offset: u32,
}

/// How far the source has read, and what it thinks that it has read.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    /// The next source token of the path.
    next: u32,
    /// Where the path's last token ends, in the pivot's transcript.
    end: u32,
    /// The pivot's place of a byte less the source's.
    shift: i64,
    path: f64,
    live: Vec<Reading>,
    unknown: f64,
    /// Probability of what has been read since the path was alone and ended with a pivot token.
    read: f64,
    /// Length of the last row that was read.
    k: usize,
}

/// What is said of the next pivot token, besides where probability arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Prediction {
    /// Rows of the source that were read for it.
    pub(super) rows: u32,
    /// Whether it begins within a source token.
    pub(super) inside: bool,
    /// Probability of v.
    pub(super) prob: f64,
    /// Negative log-likelihood of the source tokens that begin within v.
    pub(super) source_nll: f64,
    /// Negative log of the path's weight, after v.
    pub(super) owed: f64,
    /// Share that is unknown.
    pub(super) unknown: f64,
    /// Share of short readings.
    pub(super) short: f64,
    /// Share of the listed probability that has a place in the pivot's vocabulary.
    pub(super) placed: f64,
    /// Whether the pivot begins the path's bytes with v.
    pub(super) named: bool,
    /// Whether the source's readings were one before v, and ended where v begins.
    pub(super) clean: bool,
    /// Probability of what had been read before v since that was so.
    pub(super) read: f64,
    /// Length of the longest row behind it.
    pub(super) k: usize,
}

/// Why there is no prediction.
#[derive(Debug)]
pub(super) enum Lost {
    /// The source has no row where one is needed, or no more tokens.
    Missing,
    /// The text no longer corresponds: another message, or no text at all.
    Apart,
    /// A row of the source is no distribution.
    Bad(BadRow),
}

impl From<BadRow> for Lost {
    fn from(bad: BadRow) -> Self {
        Lost::Bad(bad)
    }
}

/// Where probability arrives, and scratch space; used again for every row.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) out: Arrivals,
    remembered: Remembered,
    survivors: Vec<Reading>,
    row: SourceRow,
    short: Vec<ShortReading>,
    shares: Shares,
}

/// The rows of the source.
pub(super) trait Rows {
    /// Puts the row of a position into `row`; whether there is one.
    fn read(&mut self, pos: u32, row: &mut SourceRow) -> Result<bool, BadRow>;
}

impl Readings {
    /// Both models have read the same text: the source its tokens before `next`, which end at
    /// byte `end` of the pivot's transcript and `source_end` of its own.
    pub(super) fn start(&mut self, next: u32, end: u32, source_end: u32) {
        self.next = next;
        self.end = end;
        self.shift = i64::from(end) - i64::from(source_end);
        self.path = 1.0;
        self.live.clear();
        self.unknown = 0.0;
        self.read = 1.0;
    }

    /// Predicts a pivot token and reads it: `scratch.out` gets all that arrives anywhere, as shares
    /// of one.
    pub(super) fn predict<R: Rows>(
        &mut self,
        with: &Languages<'_>,
        reader: &Reader<'_>,
        next: &Next,
        rows: &mut R,
        short: &mut ShortRule<'_>,
        scratch: &mut Scratch,
    ) -> Result<Prediction, Lost> {
        scratch.out.start();
        scratch.survivors.clear();
        scratch.short.clear();
        let inside = self.end > next.begin;
        let text = reader.slice(next.begin, next.end);
        let mut step = Step {
            with,
            reader: *reader,
            next,
            scratch,
            prefixed: has_added_blank(with.pivot, next.token, text),
            found: Prediction {
                inside,
                clean: !inside && self.live.is_empty() && self.unknown <= 0.0,
                read: self.read,
                k: if inside { self.k } else { 0 },
                ..Prediction::default()
            },
            ended: 0.0,
            unplaced: 0.0,
        };
        for reading in self.live.drain(..) {
            let ahead = step.ahead(reading.to);
            step.route(reading, ahead);
        }
        while self.end < next.end {
            self.read_row(&mut step, rows)?;
        }
        step.found.named = step.names(self);
        step.settle(short);
        Ok(self.advance(step))
    }

    /// Reads the next token of the path; what else its row lists becomes readings.
    fn read_row<R: Rows>(&mut self, step: &mut Step<'_, '_>, rows: &mut R) -> Result<(), Lost> {
        let tokens = step.reader.source;
        let at = self.next as usize;
        let (Some(token), Some(end)) = (tokens.ids.get(at), tokens.byte_end.get(at)) else {
            return Err(Lost::Missing);
        };
        let Some(before) = self.next.checked_sub(1) else {
            return Err(Lost::Missing);
        };
        if tokens.byte_start(at) == *end {
            // A token without width says nothing.
            self.next += 1;
            return Ok(());
        }
        if !(step.next.sources.0..step.next.sources.1).contains(&self.next) {
            return Err(Lost::Apart);
        }
        let mut row = std::mem::take(&mut step.scratch.row);
        let there = rows.read(before, &mut row);
        let known = matches!(there, Ok(true)) && row.target == *token && row.target_prob > 0.0;
        if known {
            if step.next.whole && self.end == step.next.begin {
                self.shift = i64::from(step.next.end) - i64::from(*end);
            }
            let begin = self.end;
            self.end = u32::try_from(i64::from(*end) + self.shift).unwrap_or(0);
            step.spread(&row, self.path, begin, self.end);
            step.found.rows += 1;
            step.found.source_nll -= row.target_prob.ln();
            step.found.k = step.found.k.max(row.k);
            self.k = row.k;
            self.path *= row.target_prob;
            self.next += 1;
        }
        step.scratch.row = row;
        there?;
        match known {
            true => Ok(()),
            false => Err(Lost::Missing),
        }
    }

    /// Reads v: what gave its weight to it is left.
    fn advance(&mut self, step: Step<'_, '_>) -> Prediction {
        let Step {
            next,
            scratch,
            mut found,
            ended,
            unplaced,
            ..
        } = step;
        let out = &mut scratch.out;
        out.add(next.token, self.path);
        out.rest += self.unknown;
        let placed = out.total();
        let total = placed + out.rest;
        let alive: f64 = scratch.survivors.iter().map(|reading| reading.weight).sum();
        let here = self.path + ended + alive;
        found.placed = placed / (placed + unplaced);
        found.prob = (here / total).min(1.0);
        found.unknown = self.unknown / total;
        out.scale(1.0 / total);
        found.short = scratch.short.iter().map(|short| short.weight).sum::<f64>() / total;
        self.path /= here;
        self.unknown = ended / here;
        self.live.append(&mut scratch.survivors);
        self.live
            .iter_mut()
            .for_each(|reading| reading.weight /= here);
        found.owed = 0.0 - self.path.ln();
        let alone = self.live.is_empty() && self.unknown <= 0.0 && self.end == next.end;
        self.read = if alone { 1.0 } else { found.read * found.prob };
        found
    }
}

/// A prediction in work.
struct Step<'s, 'a> {
    with: &'s Languages<'a>,
    reader: Reader<'a>,
    next: &'s Next,
    scratch: &'s mut Scratch,
    /// Whether v begins a text and its tokenizer put a blank before, as it would before a reading.
    prefixed: bool,
    found: Prediction,
    /// What arrived at v beside the path and does not go on beyond it.
    ended: f64,
    /// What was listed and has no place in the pivot's vocabulary.
    unplaced: f64,
}

impl<'a> Step<'_, 'a> {
    /// Makes readings of what a row lists beside the path, whose next token covers these bytes.
    fn spread(&mut self, row: &SourceRow, path: f64, begin: u32, end: u32) {
        self.scratch.out.rest += row.tail * path;
        let stripped = has_added_blank(self.with.source, row.target, self.reader.slice(begin, end));
        let ahead = self.ahead(begin);
        for &(token, prob) in &row.others {
            let weight = prob * path;
            if self.with.first.is_special(token) {
                self.special(token, weight, begin);
                continue;
            }
            let blank = stripped && self.with.source.of(token).starts_with(b" ");
            let reading = Reading {
                weight,
                to: begin,
                token,
                offset: u32::from(blank),
            };
            self.route(reading, ahead);
        }
    }

    /// A special token instead of text: where text is ahead, it ends there.
    fn special(&mut self, token: TokenId, weight: f64, begin: u32) {
        if Some(token) == self.with.unknown {
            self.scratch.out.rest += weight;
        } else if begin <= self.next.begin {
            self.by_map(token, weight, None);
        } else {
            let first = self.first_of_text(begin);
            self.arrive(first.map(|first| first.token), weight, None);
        }
    }

    /// Gives the weight of a reading to the pivot token that it begins with; `ahead` is what it
    /// has before its token.
    #[inline]
    fn route(&mut self, reading: Reading, ahead: Option<Ahead<'a>>) {
        let Reading {
            weight,
            token,
            offset,
            ..
        } = reading;
        if self.with.by_map && reading.to <= self.next.begin && offset == 0 {
            return self.by_map(token, weight, Some(reading));
        }
        let first = match ahead {
            None => self.with.first.of_token(token, offset),
            Some(ahead) => {
                let remembered = &mut self.scratch.remembered;
                remembered.of(self.with.first, ahead, Some((token, offset)))
            }
        };
        let short = first.filter(|first| first.short);
        self.scratch.short.extend(short.map(|first| ShortReading {
            weight,
            token: first.token,
            last: token,
        }));
        // Nothing is left of a short one.
        let rest = Some(reading).filter(|_| short.is_none());
        self.arrive(first.map(|first| first.token), weight, rest);
    }

    /// Moves the weight of short readings to where `rule` says.
    fn settle(&mut self, rule: &mut ShortRule<'_>) {
        if self.scratch.short.is_empty() || !rule.begin(self.with.pivot, &mut self.scratch.shares) {
            return;
        }
        let mut shares = std::mem::take(&mut self.scratch.shares);
        for at in 0..self.scratch.short.len() {
            let short = self.scratch.short[at];
            let moved = rule.shares(&short, self.with.source, self.with.pivot, &mut shares);
            if !moved {
                continue;
            }
            self.arrive(Some(short.token), -short.weight, None);
            for (token, share) in &shares.list {
                self.arrive(Some(*token), short.weight * share, None);
            }
            if shares.list.is_empty() {
                self.scratch.out.rest += short.weight;
            }
        }
        self.scratch.shares = shares;
    }

    /// Sends a token where the map says; what begins otherwise than v does not go on.
    fn by_map(&mut self, token: TokenId, weight: f64, reading: Option<Reading>) {
        let text = self.reader.slice(self.next.begin, self.next.end);
        let goes_on = self.with.source.of(token).starts_with(text);
        let reading = reading.filter(|_| goes_on);
        let part = |weight: f64| reading.map(|reading| Reading { weight, ..reading });
        match self.with.follow.of(token) {
            Way::Nowhere => self.arrive(None, weight, None),
            Way::To(pivot_id) => self.arrive(Some(pivot_id), weight, part(weight)),
            Way::Split(targets) => {
                for (pivot_id, share) in targets {
                    let weight = weight * f64::from(*share);
                    self.arrive(Some(*pivot_id), weight, part(weight));
                }
            }
        }
    }

    /// Weight for a pivot token; if it is v, the reading that it comes from goes on.
    #[inline]
    fn arrive(&mut self, token: Option<TokenId>, weight: f64, reading: Option<Reading>) {
        let Some(token) = token else {
            self.scratch.out.rest += weight;
            self.unplaced += weight;
            return;
        };
        self.scratch.out.add(token, weight);
        if token == self.next.token {
            match reading.and_then(|reading| self.beyond(reading)) {
                Some(reading) => self.scratch.survivors.push(reading),
                None => self.ended += weight,
            }
        }
    }

    /// What is left of a reading when v has been read; none if it ends with v.
    fn beyond(&self, mut reading: Reading) -> Option<Reading> {
        let end = self.next.end;
        reading.offset += end.saturating_sub(reading.to.max(self.next.begin));
        reading.to = reading.to.max(end);
        let all = self.with.source.of(reading.token).len() as u32;
        (reading.to > end || reading.offset < all).then_some(reading)
    }

    /// The text up to `to` that a reading begins with, if any.
    fn ahead(&mut self, to: u32) -> Option<Ahead<'a>> {
        let begin = self.next.begin;
        (to > begin || self.prefixed).then(|| {
            let text = self.reader.slice(begin, to);
            self.scratch.remembered.ahead(self.prefixed, text)
        })
    }

    /// The first token of the text up to `to`.
    fn first_of_text(&mut self, to: u32) -> Option<First> {
        let ahead = self.ahead(to)?;
        self.scratch.remembered.of(self.with.first, ahead, None)
    }

    /// Whether v is what the pivot begins the path's bytes with.
    fn names(&mut self, path: &Readings) -> bool {
        let ids = &self.reader.source.ids;
        let last = path.next.checked_sub(1).and_then(|at| ids.get(at as usize));
        let one = last.filter(|_| self.found.rows <= 1);
        let whole = one.filter(|_| !self.found.inside);
        if let Some(token) = whole
            && (self.with.by_map || self.with.source.is_special(*token))
        {
            return match self.with.follow.of(*token) {
                Way::To(pivot_id) => pivot_id == self.next.token,
                Way::Split(targets) => targets.iter().any(|way| way.0 == self.next.token),
                Way::Nowhere => false,
            };
        }
        let ahead = self.reader.slice(self.next.begin, path.end);
        let offset = one.and_then(|token| {
            let spelling = self.with.source.of(*token);
            let offset = spelling.len().checked_sub(ahead.len())?;
            (!self.prefixed && spelling.ends_with(ahead)).then_some((*token, offset as u32))
        });
        let first = match offset {
            Some((token, offset)) => self.with.first.of_token(token, offset),
            None => self.first_of_text(path.end),
        };
        first.is_some_and(|first| first.token == self.next.token)
    }
}

/// Whether a token has a blank that its text lacks: it begins a text, and its tokenizer puts a
/// blank before.
fn has_added_blank(spellings: &Spellings, token: TokenId, text: &[u8]) -> bool {
    let spelling = spellings.of(token);
    spelling.len() == text.len() + 1 && spelling.first() == Some(&b' ') && &spelling[1..] == text
}
