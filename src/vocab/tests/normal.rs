//! A text beside its normal form, with a small normaliser of every kind of trouble.

use std::cell::Cell;

use proptest::prelude::*;

use crate::vocab::normal::{Stretch, fragment, stretches};

/// Small, without bells and soft signs; blanks squeezed into one, `e'` composed, `&` two
/// letters, `^` and what follows it swapped.
fn normalize(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{7}' => {}
            ' ' if out.ends_with(' ') => {}
            '\'' if out.ends_with('e') => {
                out.pop();
                out.push('\u{e9}');
            }
            '&' => out.push_str("et"),
            '^' => {
                out.extend(chars.next());
                out.push('^');
            }
            _ => out.extend(char.to_lowercase()),
        }
    }
    out
}

fn found(text: &str) -> Vec<(&str, String)> {
    let normal = normalize(text);
    let mut at = (0, 0);
    let mut parts = Vec::new();
    for stretch in stretches(text, &normal, &normalize).unwrap() {
        let end = (stretch.text_end, stretch.normal_end);
        parts.push((&text[at.0..end.0], normal[at.1..end.1].to_owned()));
        let (part, made) = parts.last().unwrap();
        assert_eq!(stretch.same, part == made, "{text:?} {part:?}");
        at = end;
    }
    assert_eq!(at, (text.len(), normal.len()), "{text:?}");
    parts
}

#[test]
fn stretches_are_the_smallest() {
    let parts = |text| {
        let parts = found(text).into_iter();
        parts
            .map(|(part, made)| format!("{part}|{made}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(parts("ab"), ["ab|ab"]);
    assert_eq!(parts("aBc"), ["a|a", "B|b", "c|c"]);
    assert_eq!(parts("e'"), ["e'|\u{e9}"]);
    assert_eq!(parts("xee'e"), ["xe|xe", "e'|\u{e9}", "e|e"]);
    assert_eq!(parts("a   b"), ["a|a", "   | ", "b|b"]);
    assert_eq!(parts("a\u{7}\u{7}b"), ["a|a", "\u{7}|", "\u{7}|", "b|b"]);
    assert_eq!(parts("a&b"), ["a|a", "&|et", "b|b"]);
    assert_eq!(parts("a^bc"), ["a|a", "^b|b^", "c|c"]);
    assert_eq!(parts(""), [""; 0]);
}

#[test]
fn prefixes_and_stripped_ends() {
    let blank = |char: char| char.is_whitespace();
    let ends = |text: &str, normal: &str| -> Option<Vec<(usize, usize, bool)>> {
        let found = fragment(text, normal, &normalize, &blank).unwrap()?;
        let of = |stretch: &Stretch| (stretch.text_end, stretch.normal_end, stretch.same);
        Some(
            found
                .iter()
                .map(of)
                .filter(|(text, normal, _)| text + normal > 0)
                .collect(),
        )
    };
    assert_eq!(
        ends("ab", "_ab").unwrap()[..2],
        [(0, 1, false), (2, 3, true)]
    );
    assert_eq!(ends("ab", "ab").unwrap(), [(2, 2, true)]);
    // One blank is left of two; it is stripped, on both sides.
    let stripped = ends("  aB ", "ab").unwrap();
    assert_eq!(stripped[0], (2, 0, false));
    assert!(stripped.contains(&(3, 1, true)) && stripped.contains(&(4, 2, false)));
    assert_eq!(stripped.last(), Some(&(5, 2, false)));
    assert_eq!(
        ends(" ab", "_ab").unwrap()[..3],
        [(0, 1, false), (1, 1, false), (3, 3, true)]
    );
    assert_eq!(ends("ab", "ac"), None);
    assert_eq!(ends("ab", "a"), None);
}

proptest! {
    #[test]
    fn every_stretch_is_its_normal_form(text in "[aeBE' &^\u{7}\u{e9}]{0,40}") {
        for (part, made) in found(&text) {
            // Neighbours that nothing changed are one stretch, whatever is between them.
            let each: String = part.chars().map(|char| normalize(&char.to_string())).collect();
            let own = if part == made { each } else { normalize(part) };
            prop_assert_eq!(own, made, "{:?} {:?}", text, part);
        }
    }
}

#[test]
fn the_work_grows_with_the_text() {
    // Each of these was quadratic once: the bytes that are normalised, by those of the text.
    for text in [
        "e'", " ", "x ", "\u{7}", "^", "e'\u{7} ", "B&   ", "^e'", "'", "ab   ",
    ] {
        let cost = |times: usize| {
            let text = text.repeat(times);
            let bytes = Cell::new(0);
            let counting = |part: &str| {
                bytes.set(bytes.get() + part.len());
                normalize(part)
            };
            stretches(&text, &normalize(&text), &counting).unwrap();
            bytes.get() / text.len()
        };
        let (short, long) = (cost(1_000), cost(30_000));
        assert!(long <= 2 * short + 60, "{text:?}: {short} {long}");
    }
}
