//! The bytes that tokens stand for, with tokenizers of every shape.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};

use super::TEXTS;
use super::made::{load, made};
use super::reader::Reader;
use crate::vocab::Tokenizer;

const HARD: [&str; 22] = [
    "Hello,  World! The caf\u{e9} and the cafe\u{301} of Gr\u{f6}\u{df}e.",
    "\u{200b}The dog",
    "\u{feff}\u{200b} the \u{7}dog\u{200b}",
    "o\u{fb03}ce \u{fb03}\u{fb03} x\u{fb03}y \u{337f} \u{fdfa}!",
    "e\u{301}a\u{308}\u{200b} e\u{301}\u{323} e\u{323}\u{301} o\u{323}\u{308}\u{301}x",
    "\u{4e2d}\u{6587}\u{5b57}\u{7b26} \u{3042}\u{30ab}\u{3099}\u{ff76}\u{ff9e}\u{fb4f}",
    "\u{ff21}\u{ff42}\u{3000}\u{ff43}\u{a0}\u{a0}d  e\t\tf\r\n\r\ng",
    "\u{1f600} a b \u{1f600}\u{1f600} the\u{1f469}\u{200d}\u{1f680} dog",
    "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af} \u{d55c}\u{ae00}",
    "\u{130}stanbul \u{1e9e} \u{3a3}\u{391}\u{3a3} \u{132}",
    "<unk> [UNK] the <unk>\u{1f600}[UNK] a",
    "   the   dog   ",
    "  ",
    "a  b    c      d",
    "x  =  1\n  y = 2\n    return  0\n",
    "\u{2581}the \u{2581}\u{2581} dog\u{2581}",
    "</s> the</s>  dog</s></s>",
    "the [SEP]dog  [MASK]  <mask> quick<mask>",
    "<extra_id_0>  the  <extra_id_0> dog <|end|>   fox",
    "``the'' ##ing the##dog </w> the</w>",
    "Yesterday yesterday, YESTERDAY hello world Hello  World",
    "12345 3.14159 \u{bd} \u{2460} x\u{b2} don't DON'T",
];

#[test]
fn runs_of_tokens_stand_for_their_text() {
    let made = made();
    assert!(made.len() >= 30, "{}", made.len());
    let word = prop_oneof![
        any::<char>().prop_map(|char| char.to_string()),
        "[a-zA-Z ]{1,6}",
        "(the|dog|quick|hello|World|Gr\u{f6}\u{df}e|[ ]|  ){1,4}",
        "[ \\n\\t\\r\u{a0}\u{3000}\u{200b}]{1,5}",
        "[\u{300}-\u{345}]{1,3}",
        "[ea\u{301}\u{308}\u{323}]{1,6}",
        "[\u{1100}-\u{11ff}]{1,4}",
        "[\u{4e00}-\u{4e40}\u{ff00}-\u{ffef}]{1,4}",
        "[\u{1f300}-\u{1f6ff}\u{200d}]{1,4}",
        (0..HARD.len()).prop_map(|at| HARD[at].to_owned()),
    ];
    let random = proptest::collection::vec(word, 1..6);
    for made in made {
        let reader = Reader::new(made.name, &made.tokenizer, &made.spec);
        for text in TEXTS.iter().chain(&HARD) {
            reader.check(text);
        }
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..CASES {
            let tree = random.new_tree(&mut runner).unwrap();
            reader.check(&tree.current().concat());
        }
    }
}

/// Random texts for each tokenizer.
const CASES: usize = 150;

/// The texts of the tokens.
fn spans(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let mut at = 0;
    let ends = tokenizer.encode(text).unwrap().byte_end;
    let span = |end: u32| {
        let span = &text.as_bytes()[at..end as usize];
        at = end as usize;
        String::from_utf8_lossy(span).into_owned()
    };
    ends.into_iter().map(span).collect()
}

fn of_shape(name: &str) -> &'static Tokenizer {
    let made = made().iter().find(|made| made.name == name);
    &made.unwrap().tokenizer
}

#[test]
fn words_end_where_they_end() {
    // Each of these is what some tokens stand for together, whatever the pieces are.
    for (shape, words) in [
        ("words", &["the", "  \u{4e00}\u{4e01}", " dog", "! "][..]),
        (
            "words, lower case",
            &["The", "  caf\u{e9}", " GR\u{d6}\u{df}E", " \u{1f600}"],
        ),
        ("bpe of words", &["the", "  \u{4e00}", "\u{4e01}", " dog"]),
        (
            "bpe of words, unknown dropped",
            &["the", "  \u{4e00}\u{4e01} dog", " fox\u{4e00}"],
        ),
        (
            "bert, uncased",
            &[
                "The",
                " caf\u{e9}",
                "  \u{4e2d}",
                "\u{6587}",
                " DOG",
                ",",
                " a\u{7}",
            ],
        ),
        ("bert, cased", &["The", " \u{4e2d}", "\u{6587}", "  dog"]),
        ("clip", &["The", "  caf\u{e9}", " cafe\u{301}", " DOG", "."]),
        (
            "openai-gpt",
            &["The", "  quick", " \u{5b57}", "\u{7b26}", " DOG"],
        ),
        (
            "t5",
            &[
                "\u{200b}The",
                "  \u{4e00}\u{4e01}",
                " o",
                "\u{fb03}",
                "c",
                "e",
                "\u{3000}dog",
            ],
        ),
        (
            "xlm-r",
            &[
                "\u{feff}the",
                " \u{4e00}\u{4e01}",
                " \u{ff21}\u{ff21}",
                " fox",
            ],
        ),
        (
            "albert",
            &[
                "The",
                "  \u{4e00}\u{4e01}",
                " caf\u{e9}",
                " \u{fdfa}",
                " \u{ff24}og",
            ],
        ),
        (
            "unigram with bytes",
            &["\u{4e00}", "\u{4e01}", "\u{fb03}", "\u{4e00}"],
        ),
        (
            "stripped, with a prefix",
            &["  \u{4e00}", "</s>", "  fox quick \t"],
        ),
        ("blanks squeezed", &["the", "      dog", " cafe\u{301}"]),
        ("qwen", &["the", " cafe\u{301}", " \u{1f600}", " dog"]),
        (
            "falcon",
            &[
                "the",
                " \u{4e2d}",
                " 123",
                "45",
                " \u{1f600}\u{1f600}",
                "!!",
                " x",
            ],
        ),
        ("xlm-r", &["the", " <mask>", " dog"]),
        ("t5", &["the", "  <extra_id_0>  ", "dog"]),
        ("roberta", &["the", " <mask>", " dog", "<mask>", "\n", "x"]),
        ("llama-2", &["the", "<|user|>  \n", "dog", "</s>", " fox"]),
    ] {
        let text = words.concat();
        let tokenizer = of_shape(shape);
        let ends = tokenizer.encode(&text).unwrap().byte_end;
        let mut end = 0;
        for word in words {
            end += word.len() as u32;
            assert!(
                ends.contains(&end),
                "{shape}: {word:?} of {text:?}: {:?}",
                spans(tokenizer, &text)
            );
        }
    }
}

#[test]
fn tokens_without_text_have_no_width() {
    for (shape, text, expected) in [
        ("words", "the dog", &["the", " dog"][..]),
        // A space that is added before a text, and one in place of a blank that was dropped.
        (
            "t5",
            "\u{1f600} \u{1f600}",
            &["", "\u{1f600}", " ", "\u{1f600}"],
        ),
        (
            "xlm-r",
            "\u{1f600}<mask>\u{1f600}",
            &["", "\u{1f600}", "<mask>", "", "\u{1f600}"],
        ),
        ("mistral", "</s>", &["", "<", "/", "s", ">"]),
        // The token that completes a stretch gets all of it.
        (
            "t5",
            "\u{1f600}\u{fb03} \u{1f600}",
            &["", "\u{1f600}", "", "", "\u{fb03}", " ", "\u{1f600}"],
        ),
    ] {
        assert_eq!(spans(of_shape(shape), text), expected, "{shape} {text:?}");
    }
}

#[test]
fn blanks_that_are_added_tokens() {
    let tokenizer = of_shape("gemma");
    let tokens = &tokenizer.vocabulary().tokens;
    let piece = |spelling: &str| {
        tokens
            .iter()
            .find(|token| token.display == spelling)
            .unwrap()
    };
    for (text, expected) in [
        ("a  b", &["a", "  ", "b"][..]),
        ("a\u{2581}\u{2581}b", &["a", "\u{2581}\u{2581}", "b"]),
        ("x    y\n  z", &["x", "    ", "y", "\n", "  ", "z"]),
    ] {
        let found = spans(tokenizer, text);
        let is_blank = |part: &str| part.trim_matches([' ', '\u{2581}']).is_empty();
        let found: Vec<String> = found.into_iter().filter(|part| is_blank(part)).collect();
        let expected = expected.iter().filter(|part| is_blank(part));
        assert_eq!(found, expected.copied().collect::<Vec<_>>(), "{text:?}");
    }
    assert_eq!(piece("\u{2581}\u{2581}").bytes, b"  ");
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    // The bytes of a character are there, the next one's are not: the library puts the unknown
    // token after the bytes of the character that follows.
    let bytes = json!({"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
        "vocab": {"<unk>": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3}, "merges": []});
    // What the normaliser makes of a text is no longer that with something added before it.
    let prefix = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "_"},
        {"type": "Replace", "pattern": {"String": "_a"}, "content": "bc"}]});
    let words = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1}});
    for (model, normalizer, text, problem) in [
        (bytes, Value::Null, "a\u{4e00}\u{e9}", "token 2, `<0xC3>`"),
        (words, prefix, "a", "normaliser"),
    ] {
        let spec = json!({"added_tokens": [], "normalizer": normalizer, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": model});
        let tokenizer = load(&spec).unwrap();
        let error = tokenizer.encode(text).unwrap_err().to_string();
        assert!(
            error.contains("tokenizer.json: ") && error.contains(problem),
            "{error}"
        );
        assert!(error.contains("leave this model out"), "{error}");
    }
}

#[test]
fn hostile_texts_are_no_trouble() {
    // Minutes each, once; what must hold of the spans holds here too.
    for (shape, unit, times) in [
        ("bert, uncased", "\u{1f600} a b ", 18_000),
        ("t5", "e\u{301}a\u{308}\u{200b} ", 8_000),
        ("blanks squeezed", " ", 100_000),
        ("clip", "e\u{301}\u{323}", 20_000),
        ("albert", "\u{4e00}\u{fdfa}", 5_000),
    ] {
        let tokenizer = of_shape(shape);
        let text = unit.repeat(times);
        let encoded = tokenizer.encode(&text).unwrap();
        assert!(encoded.byte_end.is_sorted(), "{shape}");
        assert_eq!(
            encoded.byte_end.last().copied(),
            Some(text.len() as u32),
            "{shape}"
        );
        // Every repetition ends a token, as the first one does.
        let ends = |at: usize| {
            encoded
                .byte_end
                .binary_search(&((at * unit.len()) as u32))
                .is_ok()
        };
        assert!(
            unit == " " || (1..times).all(|at| ends(at) == ends(1)),
            "{shape}"
        );
    }
}
