//! How Python cuts texts.

use super::python::is_space;

/// Without white space, or these characters, at its ends.
pub(super) fn strip<'a>(own: &'a str, name: &str, chars: Option<&str>) -> &'a str {
    let taken = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    match name {
        "lstrip" => own.trim_start_matches(taken),
        "rstrip" => own.trim_end_matches(taken),
        _ => own.trim_matches(taken),
    }
}

pub(super) fn split<'a>(own: &'a str, separator: &str, most: Option<usize>) -> Vec<&'a str> {
    match most {
        Some(most) => own.splitn(most.saturating_add(1), separator).collect(),
        None => own.split(separator).collect(),
    }
}

pub(super) fn rsplit<'a>(own: &'a str, separator: &str, most: Option<usize>) -> Vec<&'a str> {
    let mut parts: Vec<&str> = match most {
        Some(most) => own.rsplitn(most.saturating_add(1), separator).collect(),
        None => own.rsplit(separator).collect(),
    };
    parts.reverse();
    parts
}

pub(super) fn split_blanks(own: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = own.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest
            .find(is_space)
            .filter(|_| most.is_none_or(|most| parts.len() < most));
        let end = end.unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

pub(super) fn rsplit_blanks(own: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = own.trim_end_matches(is_space);
    while !rest.is_empty() {
        let start = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = start.filter(|_| most.is_none_or(|most| parts.len() < most));
        let start = start.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

pub(super) fn lines(own: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut parts = Vec::new();
    let mut rest = own;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let mut next = rest[end..].chars();
        let len = match (next.next(), next.next()) {
            (Some('\r'), Some('\n')) => 2,
            (Some(c), _) => c.len_utf8(),
            (None, _) => 0,
        };
        parts.push(&rest[..if keep { end + len } else { end }]);
        rest = &rest[end + len..];
    }
    parts
}

/// The range that `start` and `stop` mean, of `len` items.
pub(super) fn clip(len: usize, start: Option<i64>, stop: Option<i64>) -> (usize, usize) {
    let length = i64::try_from(len).unwrap_or(i64::MAX);
    let clip = |at: i64| {
        let at = if at < 0 {
            at.saturating_add(length).max(0)
        } else {
            at.min(length)
        };
        usize::try_from(at).unwrap_or(0)
    };
    (start.map_or(0, clip), stop.map_or(len, clip))
}

/// The part of a text between two of its characters, with the number of those before it; none if
/// the start lies after the text or after the stop.
pub(super) fn part(own: &str, start: Option<i64>, stop: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && stop.is_none() {
        return Some((0, own));
    }
    let len = own.chars().count();
    if start.is_some_and(|start| usize::try_from(start).is_ok_and(|start| start > len)) {
        return None;
    }
    let (start, stop) = clip(len, start, stop);
    let byte = |at: usize| {
        own.char_indices()
            .nth(at)
            .map_or(own.len(), |(byte, _)| byte)
    };
    (start <= stop).then(|| (start, &own[byte(start)..byte(stop)]))
}
