//! What follows a word's blank changes no token before it, where no token goes on beyond one.

use std::path::PathBuf;

use super::*;
use crate::vocab::Tokenizer;

fn tokenizers() -> Vec<(String, Tokenizer)> {
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let samples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data-samples/models");
    let assets = PathBuf::from(shared).join("assets");
    let roots = [samples, assets.join("tokenizers"), assets.join("models")];
    let folders = roots.iter().filter_map(|root| std::fs::read_dir(root).ok());
    folders
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("tokenizer.json").is_file())
        .map(|folder| {
            let tokenizer = Tokenizer::load(&folder).unwrap();
            (folder.display().to_string(), tokenizer)
        })
        .collect()
}

#[test]
fn a_blank_ends_a_word() {
    let words = [
        "the", " str", "ength", "x", "7", " 1234", "don't", "it's", "9s", "Größe", " naïve", "A",
        " SELECT", "e.id", " 北京a", "ﬁn",
    ];
    let next = [
        " the",
        "  ",
        " ",
        " Skorskar",
        " 1",
        " (",
        " 's",
        " \n",
        " é",
        " 🚀",
        " \u{301}",
        " of the",
    ];
    let mut found = 0;
    for (name, tokenizer) in tokenizers() {
        let ends = Spellings::new(tokenizer.vocabulary()).blanks_end_words();
        // It joins names with the word before.
        assert!(!ends || !name.ends_with("wide"), "{name}");
        if !ends {
            continue;
        }
        found += 1;
        for word in words {
            let expected = tokenizer.first_token(format!("{word} ").as_bytes());
            for next in next {
                let text = format!("{word}{next}");
                let first = tokenizer.first_token(text.as_bytes());
                assert_eq!(first, expected, "{name} `{text}`");
            }
        }
    }
    assert!(found >= 4, "{found}");
}
