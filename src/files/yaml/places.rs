//! Where words stand in a YAML document.

use granit_parser::{Event, Parser};

/// A key or plain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key at the top that it is, or that it stands below.
    pub section: String,
    /// Its text.
    pub word: String,
    /// Its line, from 1.
    pub line: usize,
}

/// What comes next in a list or mapping that is open.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Entry,
    Key,
    Value,
}

/// All keys and plain values, in order; of broken YAML those before the fault.
pub fn places(text: &str) -> Vec<Place> {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut open: Vec<Next> = Vec::new();
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        match event {
            Event::Scalar(word, ..) => {
                if open == [Next::Key] {
                    section = word.to_string();
                }
                found.push(Place {
                    section: section.clone(),
                    word: word.into(),
                    line: span.start.line(),
                });
            }
            Event::MappingStart(..) => {
                open.push(Next::Key);
                continue;
            }
            Event::SequenceStart(..) => {
                open.push(Next::Entry);
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            Event::Alias(_) => {}
            _ => continue,
        }
        // A key, value or entry is complete.
        if let Some(next) = open.last_mut() {
            *next = match *next {
                Next::Key => Next::Value,
                Next::Value => Next::Key,
                Next::Entry => Next::Entry,
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_with_their_sections() {
        let text = "# b: c\na: &x {b: [c, {d: e}], *x : f}\nb:\n  - c: 'd # e'\n  - f\ng: [";
        let found = places(text);
        let found = found
            .iter()
            .map(|p| format!("{}/{} {}", p.section, p.word, p.line));
        let expected =
            "a/a 2, a/b 2, a/c 2, a/d 2, a/e 2, a/f 2, b/b 3, b/c 4, b/d # e 4, b/f 5, g/g 6";
        assert_eq!(found.collect::<Vec<_>>().join(", "), expected);
    }
}
