//! What the Tab key offers at the prompt.

use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Result, Validator};

/// Words of SQL that are worth completing.
const KEYWORDS: [&str; 42] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "HAVING",
    "QUALIFY",
    "JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "CROSS JOIN",
    "USING",
    "ON",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS NULL",
    "IS NOT NULL",
    "LIKE",
    "ILIKE",
    "BETWEEN",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST",
    "DISTINCT",
    "ASC",
    "DESC",
    "UNION ALL",
    "WITH",
    "OVER",
    "PARTITION BY",
    "EXPLAIN",
    "DESCRIBE",
    "CREATE VIEW",
];

/// The names that a session knows.
#[derive(Default, Helper, Highlighter, Hinter, Validator)]
pub(super) struct Names {
    /// Tables and views.
    pub tables: Vec<String>,
    /// Columns of all of them.
    pub columns: Vec<String>,
    /// Named queries.
    pub queries: Vec<String>,
    /// Functions.
    pub functions: Vec<String>,
}

impl Names {
    /// Where the word before `end` begins, and what it may become.
    fn candidates(&self, line: &str, end: usize) -> (usize, Vec<&str>) {
        let head = line.get(..end).unwrap_or(line);
        let begin = head
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\\'))
            .map_or(0, |at| {
                at + head[at..].chars().next().map_or(1, char::len_utf8)
            });
        let word = head[begin..].to_lowercase();
        let first = head.split_whitespace().next().unwrap_or_default();
        let offered: Vec<&str> = match first {
            "\\d" => self.tables.iter().map(String::as_str).collect(),
            "\\r" => self.queries.iter().map(String::as_str).collect(),
            _ if word.is_empty() => Vec::new(),
            _ => {
                let names = self.tables.iter().chain(&self.columns);
                let names = names.chain(&self.functions).map(String::as_str);
                names.chain(KEYWORDS).collect()
            }
        };
        let fits = |name: &&str| name.to_lowercase().starts_with(&word);
        (begin, offered.into_iter().filter(fits).collect())
    }
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(&self, line: &str, end: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let (begin, names) = self.candidates(line, end);
        let pair = |name: &str| Pair {
            display: name.to_owned(),
            replacement: name.to_owned(),
        };
        Ok((begin, names.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_names_of_the_right_kind() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        let names = Names {
            tables: words(&["tokens", "topk"]),
            columns: words(&["target_id", "top1"]),
            queries: words(&["top_mappings"]),
            functions: words(&["array_length", "avg"]),
        };
        let offered = |line: &str| names.candidates(line, line.len());
        assert_eq!(offered("SELECT TO"), (7, vec!["tokens", "topk", "top1"]));
        assert_eq!(offered("select a, t.tar"), (12, vec!["target_id"]));
        assert_eq!(offered("\\d to"), (3, vec!["tokens", "topk"]));
        assert_eq!(offered("\\r "), (3, vec!["top_mappings"]));
        assert_eq!(offered("gro"), (0, vec!["GROUP BY"]));
        assert_eq!(offered("SELECT av"), (7, vec!["avg"]));
        assert_eq!(offered("SELECT ").1, [""; 0]);
        assert_eq!(offered("WHERE x = 'é").1, [""; 0]);
    }
}
