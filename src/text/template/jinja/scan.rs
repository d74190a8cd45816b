//! Where tags stand in a template's text, and which blanks they take away.

use super::python::is_space;
use super::tokens::Token;

pub(super) fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// A name that a `set` gives a namespace.
pub(super) fn namespace(tokens: &[Token]) -> Option<String> {
    use Token::{Name, Operator};
    match tokens {
        [
            Name(set),
            Name(name),
            Operator("="),
            Name(call),
            Operator("("),
            ..,
        ] if set == "set" && call == "namespace" => Some(name.clone()),
        _ => None,
    }
}

/// Where the next tag begins.
pub(super) fn next_tag(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = text[from..].find('{') {
        let at = from + found;
        if matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Text before a tag without the blanks that the tag takes away.
pub(super) fn stripped(text: &str, sign: Option<char>, output: bool, line_starts: bool) -> &str {
    match sign {
        Some('-') => text.trim_end_matches(is_space),
        Some(_) => text,
        None if output => text,
        None => {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = text[line..].chars().all(is_space);
            match (line > 0 || line_starts) && blank {
                true => &text[..line],
                false => text,
            }
        }
    }
}

/// The rest of a tag that holds a name only: its length and the sign at its end.
pub(super) fn basic_tag(text: &str, name: &str) -> Option<(usize, Option<char>)> {
    let rest = text.trim_start_matches(is_space).strip_prefix(name)?;
    let rest = rest.trim_start_matches(is_space);
    let sign = rest.chars().next().filter(|c| "-+".contains(*c));
    let rest = &rest[usize::from(sign.is_some())..];
    let rest = rest.strip_prefix("%}")?;
    Some((text.len() - rest.len(), sign))
}
