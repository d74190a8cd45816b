//! Where statements end: at a `;` that is in no string, name or comment.

/// Takes the first statement, with its `;`, out of what was typed; none if it has no end yet.
pub(super) fn take_statement(typed: &mut String) -> Option<String> {
    let end = parts(typed).find_map(|(at, part)| (part == Part::End).then_some(at))?;
    let rest = typed.split_off(end + 1);
    let statement = std::mem::replace(typed, rest);
    match is_blank(statement.trim_end_matches(';')) {
        // A `;` alone.
        true => take_statement(typed),
        false => Some(statement),
    }
}

/// Whether there is nothing but blanks and whole comments.
pub(super) fn is_blank(typed: &str) -> bool {
    parts(typed).next().is_none()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The `;` of a statement.
    End,
    /// Anything else that is no blank and no comment; one that has no end counts, too.
    Other,
}

/// The parts of a text, each with where it begins.
fn parts(text: &str) -> impl Iterator<Item = (usize, Part)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &text[at..];
            let first = rest.chars().next()?;
            let begin = at;
            if rest.starts_with("--") {
                at += rest.find('\n').map_or(rest.len(), |end| end + 1);
            } else if rest.starts_with("/*") {
                match comment(rest) {
                    Some(length) => at += length,
                    None => {
                        at = text.len();
                        return Some((begin, Part::Other));
                    }
                }
            } else if first.is_whitespace() {
                at += first.len_utf8();
            } else if first == ';' {
                at += 1;
                return Some((begin, Part::End));
            } else if matches!(first, '\'' | '"' | '`') {
                // Two of them stand for one: the second then begins another string.
                at += 1 + rest[1..].find(first).map_or(rest.len() - 1, |end| end + 1);
                return Some((begin, Part::Other));
            } else {
                at += first.len_utf8();
                return Some((begin, Part::Other));
            }
        }
    })
}

/// Bytes of the comment that a text begins with; comments may hold others.
fn comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let rest = &text[at..];
        let (open, close) = (rest.starts_with("/*"), rest.starts_with("*/"));
        depth = match (open, close) {
            (true, _) => depth + 1,
            (_, true) => depth - 1,
            _ => depth,
        };
        at += match open || close {
            true => 2,
            false => rest.chars().next()?.len_utf8(),
        };
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> (Vec<String>, String) {
        let mut rest = text.to_owned();
        let statements = std::iter::from_fn(|| take_statement(&mut rest)).collect();
        (statements, rest)
    }

    #[test]
    fn statements_end_where_no_string_or_comment_is() {
        let (found, rest) =
            all("SELECT ';', \"a;b\" -- c;\n;; SELECT 'it''s;' /* ; /* ; */ */; SEL");
        assert_eq!(
            found,
            [
                "SELECT ';', \"a;b\" -- c;\n;",
                " SELECT 'it''s;' /* ; /* ; */ */;"
            ]
        );
        assert_eq!(rest, " SEL");
        for unfinished in ["SELECT 'a;", "SELECT \"a;", "/* ;", "SELECT 1 -- ;"] {
            let (found, rest) = all(unfinished);
            assert!(found.is_empty() && !is_blank(&rest), "{unfinished}");
        }
        for blank in ["", " \n", "-- a;\n", "/* ; */ -- b"] {
            let (found, rest) = all(blank);
            assert!(found.is_empty() && is_blank(&rest), "{blank}");
        }
    }
}
