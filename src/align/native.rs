//! Stretches of two transcripts that are the same text, where each model has a template of its own.
//!
//! A template may trim a message, leave it out, or add text, so the contents are matched, not
//! assumed equal: a message corresponds to the next one of the same role whose text is the same
//! but for blanks at its ends, or a part of it (a template may drop the thoughts of earlier
//! turns). What ends a turn corresponds where the messages do. The rest of a template
//! corresponds to nothing.

use super::Sample;
use super::offsets::links;
use crate::artifact::alignment::{Link, LinkKind};
use crate::artifact::tokens::SampleTokens;
use crate::text::{Span, Transcript};

/// A stretch of both texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// First byte in the pivot's transcript.
    pub(super) pivot: u32,
    /// First byte in the source's.
    pub(super) source: u32,
    /// Bytes.
    pub(super) length: u32,
    /// Whether both messages begin here, so that both models have read as much.
    pub(super) starts: bool,
    /// Whether both messages end here, so that both go on with the end of the turn.
    pub(super) ends: bool,
    /// What ends the turn of both, if something does: a span of the pivot's and one of the
    /// source's.
    pub(super) closers: Option<((u32, u32), (u32, u32))>,
}

/// The stretches that correspond, in order, and the number of the pivot's messages without one.
pub(super) fn segments(pivot: &Transcript, source: &Transcript) -> (Vec<Segment>, u64) {
    let theirs: Vec<(&Span, Option<&Span>)> = messages(source).collect();
    let mut rest = &theirs[..];
    let (mut found, mut unmatched) = (Vec::new(), 0);
    for (ours, our_closer) in messages(pivot) {
        let matched = rest.iter().enumerate().find_map(|(at, (span, closer))| {
            if span.role != ours.role {
                return None;
            }
            let common = common(text_of(pivot, ours), text_of(source, span))?;
            Some((at, *span, *closer, common))
        });
        let Some((at, span, their_closer, (from, theirs_from, length))) = matched else {
            unmatched += 1;
            continue;
        };
        rest = &rest[at + 1..];
        let place = |span: &Span| (span.byte_start, span.byte_end);
        let pivot_begin = ours.byte_start + from as u32;
        let source_begin = span.byte_start + theirs_from as u32;
        found.push(Segment {
            pivot: pivot_begin,
            source: source_begin,
            length: length as u32,
            starts: from == 0 && theirs_from == 0,
            ends: pivot_begin + length as u32 == ours.byte_end
                && source_begin + length as u32 == span.byte_end,
            closers: our_closer.map(place).zip(their_closer.map(place)),
        });
    }
    (found, unmatched)
}

/// The content spans of a transcript, each with what ends its turn.
fn messages(transcript: &Transcript) -> impl Iterator<Item = (&Span, Option<&Span>)> {
    let spans = &transcript.spans;
    let contents = spans
        .iter()
        .enumerate()
        .filter(|(_, span)| span.is_content());
    contents.map(move |(at, span)| {
        let mut after = spans[at + 1..].iter().take_while(|span| !span.is_content());
        (span, after.find(|span| span.role == "turn_end"))
    })
}

fn text_of<'a>(transcript: &'a Transcript, span: &Span) -> &'a str {
    let range = span.byte_start as usize..span.byte_end as usize;
    transcript.text.get(range).unwrap_or_default()
}

/// Where the same text is in both, and its length; none if they are different messages.
fn common(ours: &str, theirs: &str) -> Option<(usize, usize, usize)> {
    if ours == theirs {
        return Some((0, 0, ours.len()));
    }
    let (short, long) = match ours.trim().len() <= theirs.trim().len() {
        true => (ours, theirs),
        false => (theirs, ours),
    };
    let kernel = short.trim();
    let at = long.rfind(kernel).filter(|_| !kernel.is_empty())?;
    // A short answer may well occur in a long message that is another one.
    if 2 * kernel.len() < long.trim().len() && !long[..at].trim_end().ends_with("</think>") {
        return None;
    }
    let before = short.len() - short.trim_start().len();
    Some(match std::ptr::eq(short, ours) {
        true => (before, at, kernel.len()),
        false => (at, before, kernel.len()),
    })
}

/// Links by `align` within each segment: it gets the two runs of tokens, with their ends counted
/// from the segment's beginning.
pub(super) fn links_of(
    pivot: &SampleTokens,
    source: &SampleTokens,
    segments: &[Segment],
    mut align: impl FnMut(&Sample<'_>, &Sample<'_>) -> Vec<Link>,
) -> Vec<Link> {
    let nothing = Link {
        source_begin: 0,
        source_end: 0,
        source_pos: None,
        kind: LinkKind::Unlinked,
    };
    let mut all = vec![nothing; pivot.ids.len()];
    if pivot.byte_end.first() == Some(&0) && source.byte_end.first() == Some(&0) {
        all[0] = Link {
            source_end: 1,
            kind: LinkKind::OneToOne,
            ..nothing
        };
    }
    for segment in segments {
        let ours = run_of(pivot, segment.pivot, segment.length);
        let theirs = run_of(source, segment.source, segment.length);
        let found = align(&ours.sample(pivot), &theirs.sample(source));
        let whole = segment.ends && ours.ends_with_it && theirs.ends_with_it;
        for (at, (link, end)) in found.into_iter().zip(&ours.ends).enumerate() {
            let shifted = |pos: u32| pos + theirs.first as u32;
            all[ours.first + at] = Link {
                source_begin: shifted(link.source_begin),
                source_end: shifted(link.source_end),
                source_pos: link
                    .source_pos
                    .filter(|_| whole || *end < segment.length)
                    .map(shifted),
                kind: link.kind,
            };
        }
        // What was read last before the message: both are about to say its first token.
        if segment.starts && ours.starts_with_it && theirs.starts_with_it {
            let before = (ours.first.checked_sub(1), theirs.first.checked_sub(1));
            if let (Some(ours), Some(theirs)) = before {
                all[ours].source_pos = Some(theirs as u32);
            }
        }
        if let Some((ours, theirs)) = segment.closers {
            close(pivot, source, ours, theirs, &mut all);
        }
    }
    all
}

/// Links what ends a turn, where both models have one token for it.
fn close(
    pivot: &SampleTokens,
    source: &SampleTokens,
    ours: (u32, u32),
    theirs: (u32, u32),
    all: &mut [Link],
) {
    let only = |tokens: &SampleTokens, (start, end): (u32, u32)| {
        let run = run_of(tokens, start, end - start);
        (run.ends.len() == 1).then_some(run.first)
    };
    if let (Some(pos), Some(source_pos)) = (only(pivot, ours), only(source, theirs)) {
        all[pos] = Link {
            source_begin: source_pos as u32,
            source_end: source_pos as u32 + 1,
            source_pos: Some(source_pos as u32),
            kind: LinkKind::OneToOne,
        };
    }
}

/// The tokens that overlap a stretch.
struct Run {
    first: usize,
    /// Where each ends, counted from the beginning of the stretch and cut at its end.
    ends: Vec<u32>,
    /// Whether a token begins where the stretch does, and one ends where it ends.
    starts_with_it: bool,
    ends_with_it: bool,
}

impl Run {
    fn sample<'a>(&'a self, tokens: &'a SampleTokens) -> Sample<'a> {
        Sample {
            ids: &tokens.ids[self.first..self.first + self.ends.len()],
            ends: &self.ends,
            begins: false,
        }
    }
}

fn run_of(tokens: &SampleTokens, start: u32, length: u32) -> Run {
    let ends = &tokens.byte_end;
    let first = ends.partition_point(|end| *end <= start);
    let past = (ends.partition_point(|end| *end < start + length) + 1).min(ends.len());
    let covered = ends.get(first..past).unwrap_or_default();
    Run {
        first,
        ends: covered
            .iter()
            .map(|end| (*end).min(start + length) - start)
            .collect(),
        starts_with_it: first < ends.len() && tokens.byte_start(first) == start,
        ends_with_it: covered.last() == Some(&(start + length)),
    }
}

/// Links by the bytes of a segment.
pub(super) fn by_offsets(ours: &Sample<'_>, theirs: &Sample<'_>) -> Vec<Link> {
    links(ours.ends, theirs.ends).collect()
}
