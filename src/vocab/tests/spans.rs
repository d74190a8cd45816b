//! The bytes that tokens stand for, with tokenizers of every shape.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::made::{load, made};
use super::{TEXTS, shared};
use crate::vocab::{Encoded, Tokenizer};

/// The parts of a normaliser, a pre-tokenizer or a decoder.
fn parts<'a>(part: &'a Value, found: &mut Vec<&'a Value>) {
    for key in ["normalizers", "pretokenizers"] {
        for inner in part[key].as_array().into_iter().flatten() {
            parts(inner, found);
        }
    }
    if part["type"].is_string() && part["type"] != "Sequence" {
        found.push(part);
    }
}

/// What the property needs of a tokenizer, read from its file beside the code under test.
struct Reader<'a> {
    name: &'a str,
    tokenizer: &'a Tokenizer,
    normalizers: Vec<NormalizerWrapper>,
    /// Some step drops blanks.
    drops_blanks: bool,
    /// Other text can be dropped: the model has no token for what it does not know.
    drops_more: bool,
    /// What a space is spelled as, by the normaliser.
    space: bool,
    /// Bytes are spelled by the normaliser.
    spelled: bool,
    unknown: Option<u32>,
    added: Vec<u32>,
}

impl<'a> Reader<'a> {
    fn new(name: &'a str, tokenizer: &'a Tokenizer, spec: &Value) -> Self {
        let (mut norms, mut pres) = (Vec::new(), Vec::new());
        parts(&spec["normalizer"], &mut norms);
        parts(&spec["pre_tokenizer"], &mut pres);
        let kind = |part: &&Value, kinds: &[&str]| {
            kinds.contains(&part["type"].as_str().unwrap_or_default())
        };
        let dropping = [
            "BertPreTokenizer",
            "Whitespace",
            "WhitespaceSplit",
            "CharDelimiterSplit",
        ];
        let model = &spec["model"];
        let unknown = match model["unk_token"].as_str() {
            Some(name) => model["vocab"][name].as_u64(),
            None => model["unk_id"].as_u64(),
        };
        // A prefix and stripped ends are no part of what a stretch of a text becomes.
        let local = norms
            .iter()
            .filter(|part| !kind(part, &["Prepend", "Strip"]));
        Self {
            name,
            tokenizer,
            normalizers: local
                .map(|part| serde_json::from_value((*part).clone()).unwrap())
                .collect(),
            drops_blanks: pres
                .iter()
                .any(|part| kind(part, &dropping) || part["behavior"] == "Removed")
                || norms.iter().any(|part| kind(part, &["Strip"])),
            // One pre-tokenizer drops what is of no script at the start of a text.
            drops_more: unknown.is_none() && model["byte_fallback"] != true
                || pres.iter().any(|part| kind(part, &["UnicodeScripts"])),
            space: norms
                .iter()
                .chain(&pres)
                .any(|part| kind(part, &["Metaspace"]) || part["content"] == "▁"),
            spelled: norms.iter().any(|part| kind(part, &["ByteLevel"])),
            unknown: unknown.map(|id| id as u32),
            added: spec["added_tokens"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|token| token["id"].as_u64().unwrap() as u32)
                .collect(),
        }
    }

    /// The normal form of a part of a text, as tokens have it.
    fn normal(&self, part: &str) -> String {
        let mut string = NormalizedString::from(part);
        for normalizer in &self.normalizers {
            normalizer.normalize(&mut string).unwrap();
        }
        let normal = string.get().to_owned();
        match self.space {
            true => normal.replace('▁', " "),
            false => normal,
        }
    }

    /// Whether the text may be cut here.
    fn border(&self, text: &str, at: usize) -> bool {
        text.is_char_boundary(at)
            && self.normal(&text[..at]) + &self.normal(&text[at..]) == self.normal(text)
    }

    /// The text of a token; none where it stands for anything.
    fn text(&self, id: u32, span: &[u8]) -> Option<Vec<u8>> {
        let token = self.tokenizer.vocabulary().token(id).unwrap();
        let span = String::from_utf8_lossy(span);
        let added = self.added.contains(&id);
        // A text can spell a token out: an added one, which is not normalised and can take blanks
        // along; Gemma's `▁▁`, which is made of blanks else; `<0x41>`.
        let spelled = [token.display.as_str(), span.trim()];
        if added && spelled[0].trim() == spelled[1] || spelled[0] == span {
            return Some(self.normal(&span).into_bytes());
        }
        if Some(id) == self.unknown {
            return None;
        }
        let content = std::str::from_utf8(&token.bytes).ok().filter(|_| added);
        Some(content.map_or(token.bytes.clone(), |text| self.normal(text).into_bytes()))
    }

    /// Whether tokens can have been made of a normalised run of the text.
    fn fits(&self, tokens: &[Option<Vec<u8>>], run: &str, prefixed: bool, more: bool) -> bool {
        let mut pattern: Vec<Option<u8>> = Vec::new();
        for token in tokens {
            match token {
                Some(bytes) => pattern.extend(bytes.iter().copied().map(Some)),
                None => pattern.push(None),
            }
        }
        let mut run = run.as_bytes().to_vec();
        if self.spelled {
            let spelled = String::from_utf8(run).unwrap();
            run = crate::vocab::tests::bytes_of_spelling(&spelled);
        }
        if self.drops_blanks {
            let text = String::from_utf8_lossy(&run).into_owned();
            run = text.split_whitespace().collect::<String>().into_bytes();
            pattern = squeezed(&pattern);
        }
        if matches(&pattern, &run, more) {
            return true;
        }
        let bare = pattern.strip_prefix(&[Some(b' ')]);
        prefixed && bare.is_some_and(|bare| matches(bare, &run, more))
    }

    /// The property: the bytes of each shortest run of tokens that begins and ends at borders of
    /// characters and of the normaliser, normalised, are the run's text.
    fn check(&self, text: &str) -> Encoded {
        let name = self.name;
        let encoded = self.tokenizer.encode(text).unwrap();
        let Encoded { ids, byte_end } = &encoded;
        assert_eq!(ids.len(), byte_end.len(), "{name} {text:?}");
        assert!(byte_end.is_sorted(), "{name} {text:?}: {encoded:?}");
        if let Some(last) = byte_end.last() {
            assert_eq!(*last as usize, text.len(), "{name} {text:?}");
        }
        let mut start = 0;
        let mut at = 0;
        let mut run: Vec<Option<Vec<u8>>> = Vec::new();
        // A space can be added after an added token, and before a word whose blank was dropped.
        let mut prefixed = true;
        let mut first_prefixed = true;
        for (position, (id, end)) in ids.iter().zip(byte_end).enumerate() {
            let end = *end as usize;
            if run.is_empty() {
                first_prefixed = prefixed;
            }
            run.push(self.text(*id, &text.as_bytes()[at..end]));
            at = end;
            prefixed = self.added.contains(id);
            let last = position + 1 == ids.len();
            if !last && !self.border(text, end) {
                continue;
            }
            let blank = |bytes: &Option<Vec<u8>>| bytes.as_deref() == Some(b" ");
            if end == start && first_prefixed && run.iter().all(blank) {
                // An added space.
                prefixed = true;
            } else if end == start
                || !self.fits(
                    &run,
                    &self.normal(&text[start..end]),
                    first_prefixed,
                    self.drops_more,
                )
            {
                // It may end inside the text's next stretch, which another token completes.
                let inside = !last && self.is_inside(text, start..end, &run, first_prefixed);
                let (span, run) = (&text[start..end], shown(&run));
                assert!(
                    inside,
                    "{name} {text:?}: {span:?} is not {run:?}; {}",
                    self.shown(text, &encoded)
                );
                continue;
            }
            run.clear();
            start = end;
        }
        encoded
    }

    /// Whether tokens end inside the stretch of the text that follows theirs: with it, they and
    /// something more fit.
    fn is_inside(
        &self,
        text: &str,
        span: std::ops::Range<usize>,
        run: &[Option<Vec<u8>>],
        prefixed: bool,
    ) -> bool {
        let borders = (span.end + 1..=text.len()).filter(|end| self.border(text, *end));
        let mut stretches = borders.map(|end| self.normal(&text[span.start..end]));
        let before = self.normal(&text[span.clone()]);
        let Some(normal) = stretches.find(|normal| normal.trim() != before.trim()) else {
            return false;
        };
        let mut longer = run.to_vec();
        longer.push(None);
        let unknown = run.contains(&None);
        self.fits(&longer, &normal, prefixed, self.drops_more)
            && (unknown || !self.fits(run, &normal, prefixed, false))
    }

    fn shown(&self, text: &str, encoded: &Encoded) -> String {
        let mut at = 0;
        let tokens = encoded.ids.iter().zip(&encoded.byte_end).map(|(id, end)| {
            let span = String::from_utf8_lossy(&text.as_bytes()[at..*end as usize]).into_owned();
            at = *end as usize;
            let display = self.tokenizer.vocabulary().token(*id).map(|t| &t.display);
            format!("{display:?} {span:?}")
        });
        tokens.collect::<Vec<_>>().join(", ")
    }
}

fn shown(run: &[Option<Vec<u8>>]) -> Vec<String> {
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "<unk>".to_owned(),
    };
    run.iter().map(text).collect()
}

/// A pattern without blanks.
fn squeezed(pattern: &[Option<u8>]) -> Vec<Option<u8>> {
    // Unknown tokens part the text; blanks are characters of several bytes too.
    let mut out = Vec::new();
    for (at, part) in pattern.split(Option::is_none).enumerate() {
        if at > 0 {
            out.push(None);
        }
        let bytes: Vec<u8> = part.iter().flatten().copied().collect();
        for chunk in bytes.utf8_chunks() {
            let text: String = chunk.valid().split_whitespace().collect();
            out.extend(
                text.bytes()
                    .chain(chunk.invalid().iter().copied())
                    .map(Some),
            );
        }
    }
    out
}

/// Whether a text is what a pattern says, where none stands for anything; with `dropped`, there
/// may be more in the text.
fn matches(pattern: &[Option<u8>], text: &[u8], dropped: bool) -> bool {
    // For each length of the text, whether the pattern so far can be it.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        let mut any = false;
        for at in 0..=text.len() {
            any |= reached[at];
            match part {
                None => next[at] = any,
                Some(byte) if at > 0 && text[at - 1] == *byte => {
                    next[at] = match dropped {
                        true => reached[..at].contains(&true),
                        false => reached[at - 1],
                    };
                }
                Some(_) => {}
            }
        }
        reached = next;
    }
    reached[text.len()] || dropped && reached.contains(&true)
}

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

/// Folders of tokenizers that must be the same in all but the file: `right.json` has `models`
/// with `same_as`.
#[test]
fn pieces_that_are_added_tokens_too_are_what_the_model_makes_of_them() {
    let Some(root) = shared("cases") else {
        return;
    };
    let mut folders = vec![root];
    let mut compared = 0;
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap();
        folders.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_dir()),
        );
        let Ok(right) = std::fs::read_to_string(folder.join("right.json")) else {
            continue;
        };
        let right: Value = serde_json::from_str(&right).unwrap();
        for (model, like) in right["models"].as_object().into_iter().flatten() {
            let has = |key: &str| {
                let of = right["of"].as_array().into_iter().flatten();
                { of }.any(|name| name == key)
            };
            let Some(other) = like["same_as"].as_str().filter(|_| has("byte_end")) else {
                continue;
            };
            let one = Tokenizer::load(&folder.join(model)).unwrap();
            let other = Tokenizer::load(&folder.join(other)).unwrap();
            for (a, b) in one
                .vocabulary()
                .tokens
                .iter()
                .zip(&other.vocabulary().tokens)
            {
                assert_eq!(
                    (&a.bytes, a.kind),
                    (&b.bytes, b.kind),
                    "{}",
                    folder.display()
                );
            }
            let data = std::fs::read_to_string(folder.join("data.jsonl")).unwrap();
            for line in data.lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                let text = record["text"].as_str().unwrap();
                let encoded = one.encode(text).unwrap();
                assert_eq!(encoded, other.encode(text).unwrap(), "{text:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 0);
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
