//! Alignment by dynamic time warping over the spellings of tokens.

use std::sync::Arc;

use super::dtw::{Range, Table, table_bytes};
use super::offsets::links;
use super::pieces::{Pieces, costs};
use super::{AlignOptions, DtwTies};
use crate::artifact::alignment::{Link, LinkKind};
use crate::artifact::tokens::SampleTokens;
use crate::error::{Error, Result};
use crate::units::{Bytes, TokenId};
use crate::vocab::Vocabulary;

/// The largest table, in bytes: two sequences of 131,072 tokens.
const LARGEST: u64 = 1 << 32;

/// A run of tokens to align.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The tokens.
    pub ids: &'a [TokenId],
    /// Where each ends, in bytes; never falls.
    pub ends: &'a [u32],
    /// Whether the first token begins a transcript; it counts as BOS, whichever it is.
    pub begins: bool,
}

impl<'a> Sample<'a> {
    /// All tokens of a sample.
    pub fn whole(tokens: &'a SampleTokens) -> Self {
        Self {
            ids: &tokens.ids,
            ends: &tokens.byte_end,
            begins: true,
        }
    }
}

/// What it takes to align samples of two vocabularies, with scratch space that is used again
/// from sample to sample. A clone shares the pieces and has a scratch space of its own.
#[derive(Debug)]
pub struct Warp {
    pivot: Arc<Pieces>,
    source: Arc<Pieces>,
    ties: DtwTies,
    band: Option<u32>,
    table: Table,
}

impl Clone for Warp {
    fn clone(&self) -> Self {
        Self {
            pivot: Arc::clone(&self.pivot),
            source: Arc::clone(&self.source),
            ties: self.ties,
            band: self.band,
            table: Table::default(),
        }
    }
}

impl Warp {
    /// Between a pivot's vocabulary and a source's.
    ///
    /// # Errors
    /// A `vocab` artifact from before, which does not say how its tokens decode, for
    /// [`DtwText::Decoded`](super::DtwText::Decoded).
    pub fn new(pivot: &Vocabulary, source: &Vocabulary, options: &AlignOptions) -> Result<Self> {
        let pieces = |vocabulary| Pieces::new(vocabulary, options.dtw_text);
        Ok(Self::from_pieces(pieces(pivot)?, pieces(source)?, options))
    }

    pub(super) fn from_pieces(pivot: Pieces, source: Pieces, options: &AlignOptions) -> Self {
        Self {
            pivot: Arc::new(pivot),
            source: Arc::new(source),
            ties: options.dtw_ties,
            band: options.dtw_band,
            table: Table::default(),
        }
    }

    /// Fails if samples of `pivots` and `sources` tokens need a table that is too large.
    pub(super) fn check_size(&self, pivots: usize, sources: usize) -> Result<()> {
        // A band is as wide as what it lies around, which is little for real text.
        let bytes = table_bytes(pivots, sources);
        if self.band.is_some() || bytes <= LARGEST {
            return Ok(());
        }
        Err(Error::usage(format!(
            "warping {pivots} pivot tokens onto {sources} needs a table of {}, at most {} are used",
            Bytes(bytes),
            Bytes(LARGEST)
        ))
        .remedy("lower `max_tokens`, use `spans: offsets`, or set `dtw_band`"))
    }

    /// The source tokens that each pivot token is linked to on the cheapest path, and its cost.
    pub(super) fn path(&mut self, pivot: &Sample<'_>, source: &Sample<'_>) -> (Vec<Range>, u32) {
        let costs = costs((pivot, &self.pivot), (source, &self.source));
        let windows = match self.band {
            None => vec![(0, source.ids.len() as u32); pivot.ids.len()],
            Some(band) => windows(pivot.ends, source.ends, band),
        };
        self.table.path(&costs, &windows, self.ties)
    }

    /// The link of each pivot token. `source_pos` is the one linked source position, if it is
    /// one.
    pub fn links(&mut self, pivot: &Sample<'_>, source: &Sample<'_>) -> Vec<Link> {
        let (path, _) = self.path(pivot, source);
        let shared = |at: usize| {
            let (from, to) = path[at];
            let before = at.checked_sub(1).map(|before| path[before].1);
            let after = path.get(at + 1).map(|after| after.0);
            before.is_some_and(|end| end > from) || after.is_some_and(|begin| begin < to)
        };
        let link = |(at, (from, to)): (usize, &Range)| Link {
            source_begin: *from,
            source_end: *to,
            source_pos: (to - from == 1).then_some(*from),
            kind: match (to - from == 1, shared(at)) {
                (true, false) => LinkKind::OneToOne,
                (true, true) => LinkKind::ManyToOne,
                (false, false) => LinkKind::OneToMany,
                (false, true) => LinkKind::ManyToMany,
            },
        };
        path.iter().enumerate().map(link).collect()
    }
}

/// For each pivot token, the source tokens at the same bytes and `band` more on both sides.
fn windows(pivot: &[u32], source: &[u32], band: u32) -> Vec<Range> {
    let sources = source.len() as u32;
    let mut windows: Vec<Range> = links(pivot, source)
        .map(|link| {
            (
                link.source_begin.saturating_sub(band),
                (link.source_end + band).min(sources),
            )
        })
        .collect();
    if let Some(first) = windows.first_mut() {
        first.0 = 0;
    }
    if let Some(last) = windows.last_mut() {
        last.1 = sources;
    }
    // Neighbours share a token, whatever tokens of no width lie between them.
    let mut before = (0, 1);
    for window in &mut windows {
        window.0 = window.0.clamp(before.0, before.1 - 1);
        window.1 = window.1.max(before.1).max(window.0 + 1).min(sources);
        before = *window;
    }
    windows
}
