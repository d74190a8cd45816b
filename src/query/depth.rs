//! How deep a statement may be: the engine walks its plan by recursion, a level for each operator.

use std::panic::resume_unwind;
use std::thread;

use datafusion::sql::sqlparser::dialect::DuckDbDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::{Context, Error, Result};

/// The stack of threads that plan and run statements: several times what the deepest need.
pub(super) const STACK: usize = 64 << 20;

/// Most operators in a statement.
const MOST_OPERATORS: usize = 2_000;

/// Most queries in a statement, subqueries and parts of a `UNION` included.
const MOST_QUERIES: usize = 500;

/// Fails where a statement may be deeper than the stack.
///
/// # Errors
/// [`Error::Usage`]: too many operators or queries.
pub(super) fn check(sql: &str) -> Result<()> {
    // What cannot be divided into tokens, the parser explains.
    let Ok(tokens) = Tokenizer::new(&DuckDbDialect {}, sql).tokenize() else {
        return Ok(());
    };
    let (mut operators, mut queries) = (0, 0);
    let mut after_value = false;
    for token in &tokens {
        match token {
            Token::Whitespace(_) => continue,
            Token::Word(word) if word.keyword == Keyword::SELECT => queries += 1,
            Token::Word(word) if is_operator(word.keyword) => operators += 1,
            Token::Word(_) | Token::Number(..) | Token::RParen | Token::RBracket => {}
            Token::Comma | Token::LParen | Token::LBracket | Token::Period | Token::SemiColon => {}
            // A sign stands before its number, a star alone.
            Token::Plus | Token::Minus | Token::Mul if !after_value => {}
            Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => {}
            _ => operators += 1,
        }
        let begins = [Token::Comma, Token::LParen, Token::LBracket];
        after_value = !begins.contains(token);
    }
    for (found, most, what) in [
        (operators, MOST_OPERATORS, "operators"),
        (queries, MOST_QUERIES, "queries"),
    ] {
        if found > most {
            return Err(Error::usage(format!(
                "SQL: a statement with {found} {what}, expected at most {most}"
            ))
            .remedy("use `IN (...)` or a join instead of a long chain, or divide the statement"));
        }
    }
    Ok(())
}

fn is_operator(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::CASE
            | Keyword::WHEN
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::JOIN
    )
}

/// Works on a thread with a stack that is deep enough.
pub(super) fn deeply<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("fuselm-plan".to_owned());
        let thread = builder.stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.during(|| "starting the thread that plans a statement".to_owned())?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
