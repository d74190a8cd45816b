//! Alignment by the bytes that tokens cover, in one pass.

use crate::artifact::alignment::{Link, LinkKind};

/// The link of each pivot token, from where the tokens of both sequences end (bytes, never
/// falling, equal at the end). O(n + m) time, constant memory.
///
/// * A token of no width is [`LinkKind::Unlinked`], except that position 0 (BOS) links to
///   position 0 where both have no width.
/// * `source_pos` is the *last* source position that ends at the same byte, so that a source's
///   zero-width prefix token has been read too; what follows it has width.
pub fn links<'a>(pivot_end: &'a [u32], source_end: &'a [u32]) -> impl Iterator<Item = Link> + 'a {
    // The first source token that ends after the pivot token's start.
    let mut first = 0usize;
    // One past the last source token that ends at or before the pivot token's end.
    let mut ended = 0usize;
    let mut start = 0u32;
    pivot_end.iter().enumerate().map(move |(pos, &end)| {
        while source_end.get(first).is_some_and(|e| *e <= start) {
            first += 1;
        }
        while source_end.get(ended).is_some_and(|e| *e <= end) {
            ended += 1;
        }
        let from = start;
        start = end;
        let last_ended = ended.checked_sub(1);
        let source_pos = last_ended.filter(|at| source_end[*at] == end);
        let link = |begin: usize, past: usize, kind| Link {
            source_begin: begin as u32,
            source_end: past as u32,
            source_pos: source_pos.map(|at| at as u32),
            kind,
        };
        if from == end {
            return if pos == 0 && source_end.first() == Some(&0) {
                link(0, 1, LinkKind::OneToOne)
            } else {
                link(ended, ended, LinkKind::Unlinked)
            };
        }
        // The overlapping tokens: those that end within the pivot token, and the one that goes
        // on beyond its end, if it began before.
        let last_end = last_ended.map_or(0, |at| source_end[at]);
        let goes_on = last_end < end && ended < source_end.len();
        let mut past = ended + usize::from(goes_on);
        if !goes_on {
            // Zero-width tokens at the very end lie after the pivot token.
            while past > first + 1 && source_end[past - 1] == source_end[past - 2] {
                past -= 1;
            }
        }
        let first_start = first.checked_sub(1).map_or(0, |at| source_end[at]);
        let kind = match past.saturating_sub(first) {
            0 => return link(first, first, LinkKind::Unlinked),
            1 if first_start == from && !goes_on => LinkKind::OneToOne,
            1 => LinkKind::ManyToOne,
            _ if first_start == from && !goes_on => LinkKind::OneToMany,
            _ => LinkKind::ManyToMany,
        };
        link(first, past, kind)
    })
}
