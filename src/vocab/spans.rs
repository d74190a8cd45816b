//! The byte of the text at which each token ends.
//!
//! Token bytes are walked against the text. Where they differ, a normaliser has changed the
//! text (NFC, dropped control characters, collapsed blanks) or the model knew no token for it;
//! then the tokens' joined text is laid beside the original character by character, and the
//! smallest stretch of the original that normalises to the differing characters is one *changed
//! stretch*. Bytes that a normaliser dropped or changed belong to the next token: a token that
//! ends inside a changed stretch ends where the stretch begins, the one that completes it gets
//! all of it.

use super::pieces::Prefix;

/// The longest changed stretch that is looked for, in characters of the original. Composition
/// and reordering act on a letter and its marks; thirty-two marks are more than any script has.
const STRETCH: usize = 32;

/// How many equal characters make two positions correspond again, where no stretch explains a
/// difference, and how far apart such positions may be.
const ANCHOR: usize = 4;
const REACH: usize = 256;

/// One token for [`ends`].
pub(super) struct Piece<'a> {
    /// The bytes that it stands for.
    pub(super) bytes: &'a [u8],
    /// It stands for text that the model does not know; `bytes` are ignored.
    pub(super) unknown: bool,
    /// A prefix may be added after it: an added token, taken out before normalisation.
    pub(super) separates: bool,
}

/// The end of each token in `text`; ends never decrease and the last is the text's length.
///
/// `normalize` does to a fragment of the text what the tokenizer does, without adding a prefix.
pub(super) fn ends(
    text: &str,
    pieces: &[Piece<'_>],
    prefix: Prefix,
    normalize: &dyn Fn(&str) -> String,
) -> Vec<u32> {
    let mut ends =
        walk(text, pieces, prefix).unwrap_or_else(|| aligned(text, pieces, prefix, normalize));
    if let Some(last) = ends.last_mut() {
        *last = text.len() as u32;
    }
    ends
}

/// Ends by equality alone; none where some token's bytes are not the text's.
fn walk(text: &str, pieces: &[Piece<'_>], prefix: Prefix) -> Option<Vec<u32>> {
    let mut rest = text.as_bytes();
    let mut begins = true;
    let mut ends = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if piece.unknown {
            return None;
        }
        let bytes = without_prefix(piece, rest, begins, prefix);
        rest = rest.strip_prefix(bytes)?;
        begins = piece.separates;
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
            Prefix::Missing => rest.first() != Some(&b' '),
        };
    match piece.bytes.split_first() {
        Some((b' ', after)) if added => after,
        _ => piece.bytes,
    }
}

/// Ends by laying the tokens' text beside the original.
fn aligned(
    text: &str,
    pieces: &[Piece<'_>],
    prefix: Prefix,
    normalize: &dyn Fn(&str) -> String,
) -> Vec<u32> {
    // The tokens' text, and where each token ends in it.
    let mut made: Vec<u8> = Vec::with_capacity(text.len());
    let mut cuts = Vec::with_capacity(pieces.len());
    let mut begins = true;
    for piece in pieces {
        if piece.unknown {
            made.extend_from_slice(UNKNOWN.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            // Whether a missing prefix was added shows in the text only at its very start;
            // after an added token the two spellings differ by one blank, which resolves itself.
            let rest = if made.is_empty() {
                text.as_bytes()
            } else {
                b""
            };
            made.extend_from_slice(without_prefix(piece, rest, begins, prefix));
        }
        begins = piece.separates;
        cuts.push(made.len());
    }
    let made = String::from_utf8_lossy(&made);
    let map = correspondence(&made, text, normalize);
    let mut highest = 0;
    cuts.iter()
        .map(|cut| {
            let end = map.get(*cut).copied().unwrap_or(text.len());
            highest = end.max(highest);
            highest as u32
        })
        .collect()
}

/// Stands for a token without known text; never a character of a text.
const UNKNOWN: char = '\u{10FFFF}';

/// For every byte boundary of `made`, the byte of `text` at which what is before it ends.
fn correspondence(made: &str, text: &str, normalize: &dyn Fn(&str) -> String) -> Vec<usize> {
    let a: Vec<(usize, char)> = made.char_indices().collect();
    let b: Vec<(usize, char)> = text.char_indices().collect();
    let at_a = |i: usize| a.get(i).map_or(made.len(), |(at, _)| *at);
    let at_b = |j: usize| b.get(j).map_or(text.len(), |(at, _)| *at);
    let mut map = vec![0; made.len() + 1];
    let (mut i, mut j) = (0, 0);
    while i < a.len() {
        let (di, dj) = if a[i].1 == UNKNOWN {
            unknown_run(&a[i..], &b[j.min(b.len())..])
        } else if j < b.len() && a[i].1 == b[j].1 {
            // Equal characters correspond byte by byte; the boundary before them is not touched,
            // since what was dropped there belongs to this character's token.
            for offset in 1..=a[i].1.len_utf8() {
                map[at_a(i) + offset] = at_b(j) + offset;
            }
            (i, j) = (i + 1, j + 1);
            continue;
        } else {
            changed(&a[i..], &b[j.min(b.len())..], normalize)
                .unwrap_or_else(|| resynchronise(&a[i..], &b[j.min(b.len())..]))
        };
        // Nothing inside the stretch has an end of its own.
        for boundary in map.iter_mut().take(at_a(i + di)).skip(at_a(i) + 1) {
            *boundary = at_b(j);
        }
        (i, j) = (i + di, (j + dj).min(b.len()));
        if di > 0 {
            map[at_a(i)] = at_b(j);
        }
    }
    map
}

/// The extent of an unknown token: each of several takes one character, the last all that
/// follows until the next known character.
fn unknown_run(a: &[(usize, char)], b: &[(usize, char)]) -> (usize, usize) {
    match a.get(1) {
        Some((_, UNKNOWN)) => (1, 1),
        Some((_, next)) => {
            let until = b.iter().skip(1).position(|(_, char)| char == next);
            (1, until.map_or(b.len(), |until| until + 1))
        }
        None => (1, b.len()),
    }
}

/// The smallest stretch of `b` that normalises to what `a` begins with: characters of both.
fn changed(
    a: &[(usize, char)],
    b: &[(usize, char)],
    normalize: &dyn Fn(&str) -> String,
) -> Option<(usize, usize)> {
    let mut stretch = String::new();
    for (taken, (_, char)) in b.iter().take(STRETCH).enumerate() {
        stretch.push(*char);
        let normal = normalize(&stretch);
        let length = normal.chars().count();
        let fits = length <= a.len() && normal.chars().zip(a).all(|(x, (_, y))| x == *y);
        if !fits {
            continue;
        }
        // The next character must not change it any further.
        let stable = b.get(taken + 1).is_none_or(|(_, next)| {
            let mut longer = stretch.clone();
            longer.push(*next);
            normalize(&longer).starts_with(&normal)
        });
        if stable {
            return Some((length, taken + 1));
        }
    }
    None
}

/// The nearest pair of positions at which both go on with the same characters.
fn resynchronise(a: &[(usize, char)], b: &[(usize, char)]) -> (usize, usize) {
    let same = |di: usize, dj: usize| {
        let (x, y) = (&a[di..], &b[dj..]);
        let length = ANCHOR.min(x.len()).min(y.len());
        length > 0 && (0..length).all(|k| x[k].1 == y[k].1)
    };
    for distance in 1..=REACH {
        // Dropped text first: it is what normalisers do most.
        for di in 0..=distance.min(a.len()) {
            let dj = distance - di;
            if dj <= b.len() && same(di, dj) {
                return (di, dj);
            }
        }
    }
    (a.len(), b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(parts: &'a [&'a [u8]]) -> Vec<Piece<'a>> {
        parts
            .iter()
            .map(|bytes| Piece {
                bytes,
                unknown: *bytes == b"?",
                separates: false,
            })
            .collect()
    }

    fn squeeze(text: &str) -> String {
        let mut out = String::new();
        for char in text.chars().filter(|char| *char != '\u{7}') {
            if !(char == ' ' && out.ends_with(' ')) {
                out.push(char);
            }
        }
        out
    }

    fn run(text: &str, parts: &[&[u8]], prefix: Prefix) -> Vec<u32> {
        ends(text, &pieces(parts), prefix, &squeeze)
    }

    #[test]
    fn a_prefix_has_no_width() {
        assert_eq!(run("foo", &[b" ", b"foo"], Prefix::Always), [0, 3]);
        assert_eq!(run(" foo", &[b" ", b" foo"], Prefix::Always), [0, 4]);
        assert_eq!(run(" foo", &[b"  ", b"foo"], Prefix::Always), [1, 4]);
        assert_eq!(run(" foo", &[b" foo"], Prefix::Missing), [4]);
        assert_eq!(run("foo", &[b" foo"], Prefix::Missing), [3]);
    }

    #[test]
    fn dropped_bytes_belong_to_the_next_token() {
        assert_eq!(run("a\u{7}b", &[b"a", b"b"], Prefix::None), [1, 3]);
        assert_eq!(run("a    b", &[b"a", b" b"], Prefix::None), [1, 6]);
        assert_eq!(run("ab\u{7}", &[b"a", b"b"], Prefix::None), [1, 3]);
    }

    #[test]
    fn unknown_tokens_cover_what_is_not_known() {
        assert_eq!(
            run("a\u{4e00}\u{4e01}b", &[b"a", b"?", b"b"], Prefix::None),
            [1, 7, 8]
        );
        assert_eq!(run("\u{4e00}\u{4e01}", &[b"?", b"?"], Prefix::None), [3, 6]);
    }
}
