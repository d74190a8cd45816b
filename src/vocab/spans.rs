//! The byte of the text at which each token ends.
//!
//! Token bytes are walked against the text ([`walk`]). Where they differ, a step of the tokenizer
//! has changed the text or dropped some of it, or the model knew no token for it; then the steps
//! are run again ([`super::trace`]), the text is laid beside its normal form
//! ([`super::normal`]), and every token ends where the text that it was made of does ([`ends`]).
//! Bytes that were dropped belong to the next token. Where several tokens share a stretch that the
//! normaliser changed, those that end inside it end where it begins, and the one that completes it
//! gets all of it.

use std::ops::Range;

use super::normal::Stretch;
use super::pieces::Prefix;
use super::trace::Place;

/// One token for [`walk`].
pub(super) struct Piece<'a> {
    /// The bytes that it stands for.
    pub(super) bytes: &'a [u8],
    /// A prefix may be added after it: an added token, taken out before normalisation.
    pub(super) separates: bool,
}

/// The end of each token where their bytes, one after another, are the text; none where some
/// token's bytes are not the text's.
pub(super) fn walk(text: &str, pieces: &[Piece<'_>], prefix: Prefix) -> Option<Vec<u32>> {
    let mut rest = text.as_bytes();
    let mut begins = true;
    let prefix_again = prefix != Prefix::First;
    let mut ends = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let bytes = without_prefix(piece, rest, begins, prefix);
        rest = rest.strip_prefix(bytes)?;
        begins = piece.separates && prefix_again;
        ends.push((text.len() - rest.len()) as u32);
    }
    rest.is_empty().then_some(ends)
}

/// A token's bytes without the space that the tokenizer added before the text.
fn without_prefix<'a>(piece: &Piece<'a>, rest: &[u8], begins: bool, prefix: Prefix) -> &'a [u8] {
    let added = begins
        && !piece.separates
        && match prefix {
            Prefix::None => false,
            Prefix::Always => true,
            Prefix::Missing | Prefix::First => rest.first() != Some(&b' '),
        };
    match piece.bytes.split_first() {
        Some((b' ', after)) if added => after,
        _ => piece.bytes,
    }
}

/// The end of each token in a text of `length` bytes: `tokens` in the normalised text, whose
/// stretches are `stretches`. Ends never decrease; the last is the text's length.
pub(super) fn ends(length: usize, tokens: &[Place], stretches: &[Stretch]) -> Vec<u32> {
    let mut position = Position {
        stretches,
        text: 0,
        normal: 0,
    };
    let mut highest = 0;
    let mut ends: Vec<u32> = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let end = if token.normal.is_empty() {
            position.begin_of(token.normal.start)
        } else {
            let next = tokens.get(at + 1).map(|next| next.normal.start);
            position.end_of(&token.normal, next.unwrap_or(usize::MAX))
        };
        highest = highest.max(end.unwrap_or(length)).min(length);
        ends.push(highest as u32);
    }
    if let Some(last) = ends.last_mut() {
        *last = length as u32;
    }
    ends
}

/// Goes through the stretches, and never back.
struct Position<'a> {
    /// Those that are not passed.
    stretches: &'a [Stretch],
    /// Where the first of them begins.
    text: usize,
    normal: usize,
}

impl Position<'_> {
    /// The stretch with this byte of the normalised text.
    fn with(&mut self, byte: usize) -> Option<Stretch> {
        while let Some((first, rest)) = self.stretches.split_first() {
            if first.normal_end > byte {
                return Some(*first);
            }
            (self.text, self.normal) = (first.text_end, first.normal_end);
            self.stretches = rest;
        }
        None
    }

    /// Where the text of this byte of the normalised text begins.
    fn begin_of(&mut self, byte: usize) -> Option<usize> {
        let stretch = self.with(byte)?;
        Some(match stretch.same {
            true => self.text + byte.saturating_sub(self.normal),
            false => self.text,
        })
    }

    /// Where the text of a token ends, if the next token begins at `next`.
    fn end_of(&mut self, token: &Range<usize>, next: usize) -> Option<usize> {
        let stretch = self.with(token.end.saturating_sub(1))?;
        Some(if stretch.same {
            self.text + token.end.saturating_sub(self.normal)
        } else if next >= stretch.normal_end {
            stretch.text_end
        } else if token.start < self.normal {
            self.text
        } else {
            // It has no text of its own; what was dropped before it goes with the stretch.
            0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(text: &str, parts: &[&[u8]], prefix: Prefix) -> Option<Vec<u32>> {
        let piece = |bytes| Piece {
            bytes,
            separates: false,
        };
        let pieces: Vec<Piece<'_>> = parts.iter().copied().map(piece).collect();
        walk(text, &pieces, prefix)
    }

    #[test]
    fn a_prefix_has_no_width() {
        for (text, parts, prefix, ends) in [
            ("foo", &[&b" "[..], b"foo"][..], Prefix::Always, [0, 3]),
            (" foo", &[b" ", b" foo"], Prefix::Always, [0, 4]),
            (" foo", &[b"  ", b"foo"], Prefix::Always, [1, 4]),
            (" foo", &[b" f", b"oo"], Prefix::Missing, [2, 4]),
            ("foo", &[b" f", b"oo"], Prefix::Missing, [1, 3]),
        ] {
            assert_eq!(walked(text, parts, prefix), Some(ends.to_vec()), "{text}");
        }
        // Other text, and less and more of it.
        for parts in [&[&b"fog"[..]][..], &[b"fo"], &[b"foo", b"o"]] {
            assert_eq!(walked("foo", parts, Prefix::None), None);
        }
    }

    fn stretches(all: &[(usize, usize, bool)]) -> Vec<Stretch> {
        let stretch = |(text_end, normal_end, same): &(usize, usize, bool)| Stretch {
            text_end: *text_end,
            normal_end: *normal_end,
            same: *same,
        };
        all.iter().map(stretch).collect()
    }

    fn placed(length: usize, places: &[(usize, usize)], all: &[(usize, usize, bool)]) -> Vec<u32> {
        let place = |(start, end): &(usize, usize)| Place {
            id: 0,
            normal: *start..*end,
        };
        let places: Vec<Place> = places.iter().map(place).collect();
        ends(length, &places, &stretches(all))
    }

    #[test]
    fn dropped_bytes_belong_to_the_next_token() {
        // "a\u{7}b" as "ab"; "a b" without its blank; the same with an added space before b.
        let bell = [(1, 1, true), (2, 1, false), (3, 2, true)];
        assert_eq!(placed(3, &[(0, 1), (1, 2)], &bell), [1, 3]);
        assert_eq!(placed(3, &[(0, 1), (2, 3)], &[(3, 3, true)]), [1, 3]);
        let spaced = [(0, 1), (2, 2), (2, 3)];
        assert_eq!(placed(3, &spaced, &[(3, 3, true)]), [1, 2, 3]);
        // The end of the text as well.
        assert_eq!(placed(3, &[(0, 1)], &[(3, 3, true)]), [3]);
    }

    #[test]
    fn a_shared_stretch_belongs_to_the_token_that_completes_it() {
        // "x\u{fb03}y" as "xffiy".
        let ligature = [(1, 1, true), (4, 4, false), (5, 5, true)];
        let of = |places: &[(usize, usize)]| placed(5, places, &ligature);
        assert_eq!(of(&[(0, 2), (2, 5)]), [1, 5]);
        assert_eq!(of(&[(0, 1), (1, 2), (2, 4), (4, 5)]), [1, 1, 4, 5]);
        // A blank that was dropped before it goes with it: "x \u{fb03}" as "x ffi".
        let spaced = [(2, 2, true), (5, 5, false)];
        assert_eq!(placed(5, &[(0, 1), (2, 4), (4, 5)], &spaced), [1, 1, 5]);
        // What is left of it was dropped: the token completes it.
        assert_eq!(of(&[(0, 1), (1, 3), (4, 5)]), [1, 4, 5]);
        // The bytes of an unchanged character are told apart.
        let pieces = [(0, 1), (1, 3), (3, 4)];
        assert_eq!(placed(4, &pieces, &[(4, 4, true)]), [1, 3, 4]);
    }
}
