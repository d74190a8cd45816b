//! Vocabularies compared with the lists of tokens in GGUF files.

use std::path::Path;

use super::{Kind, Vocabulary};
use crate::checkpoint::{Gguf, is_gguf};
use crate::error::{Error, Result};

/// Compares the tokens of a GGUF file with a vocabulary; other models, and files without tokens, have
/// none to compare.
///
/// # Errors
/// The vocabulary has more tokens, or another one at some id: names the first such id.
pub fn check_tokens(model: &Path, vocabulary: &Vocabulary) -> Result<()> {
    if !is_gguf(model) {
        return Ok(());
    }
    let gguf = Gguf::open(model)?;
    let Some((count, mut listed)) = gguf.tokens()? else {
        return Ok(());
    };
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let found = listed.next();
        let same = |found: &[u8]| {
            found == token.display.as_bytes()
                || found == token.bytes
                || with_spaces(found) == with_spaces(token.display.as_bytes())
        };
        if token.kind == Kind::Hole || found.is_some_and(same) {
            continue;
        }
        let found = match found {
            Some(found) => format!("`{}`", String::from_utf8_lossy(found)),
            None => format!("only {count} tokens"),
        };
        return Err(Error::file(
            gguf.path(),
            format!(
                "the tokenizer has `{}` as token {id}, the file has {found}",
                token.display
            ),
        )
        .remedy("give the tokenizer of the model that the file was made from"));
    }
    Ok(())
}

/// A token's spelling with the mark of SentencePiece read as the space that it stands for.
fn with_spaces(token: &[u8]) -> String {
    String::from_utf8_lossy(token).replace('\u{2581}', " ")
}
