mod first;
mod gguf;
mod hostile;
mod literal;
mod made;
mod normal;
mod reader;
mod spans;
mod special;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use self::made::load;
use super::*;
use crate::text::{Chat, ChatTemplate, Message, Transcript, transcript};

/// Material outside the repository; tests that need it say so and pass where it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FUSELM_TEST_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = root.join(path);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
    }
    path.exists().then_some(path)
}

/// The tokenizers in a folder of the shared material; the large ones are loaded once.
fn tokenizers(path: &str) -> &'static [(String, Tokenizer)] {
    static REAL: LazyLock<Vec<(String, Tokenizer)>> = LazyLock::new(|| {
        let root = shared("assets/tokenizers");
        root.map(|root| folders(&root)).unwrap_or_default()
    });
    static TINY: LazyLock<Vec<(String, Tokenizer)>> = LazyLock::new(|| {
        let root = shared("assets/models");
        root.map(|root| folders(&root)).unwrap_or_default()
    });
    match path {
        "assets/tokenizers" => &REAL,
        _ => &TINY,
    }
}

/// One of the real tokenizers, where they are.
fn real(name: &str) -> Option<&'static Tokenizer> {
    let all = tokenizers("assets/tokenizers").iter();
    { all }
        .find(|(folder, _)| folder == name)
        .map(|(_, tokenizer)| tokenizer)
}

/// The tokenizers of the sample models, a unigram one among them.
fn samples() -> Vec<(String, Tokenizer)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data-samples/models");
    match root.is_dir() {
        true => folders(&root),
        false => Vec::new(),
    }
}

fn folders(root: &Path) -> Vec<(String, Tokenizer)> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.join("tokenizer.json").is_file())
        .collect();
    folders.sort();
    let name = |dir: &Path| dir.file_name().unwrap().to_string_lossy().into_owned();
    folders
        .iter()
        .map(|dir| (name(dir), Tokenizer::load(dir).unwrap()))
        .collect()
}

const TEXTS: [&str; 32] = [
    "",
    " ",
    "a",
    " a",
    "  a",
    "a ",
    "Hello, world!",
    " leading",
    "   three leading",
    "trailing   ",
    "a\tb\t\tc",
    "line\r\nline\r\n\r\n",
    "\n\n\nx",
    "caf\u{e9} cafe\u{301} e\u{301}\u{323} q\u{307}\u{323}",
    "\u{301}starts with a mark",
    "\u{212b} \u{2126} \u{fb01}",
    "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af} \u{d55c}\u{ae00}",
    "\u{1f469}\u{200d}\u{1f680} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}\u{1f3fd}",
    "\u{1f1e9}\u{1f1ea}\u{fe0f}",
    "\u{7ffb}\u{8bd1}: na\u{ef}ve \u{4e2d}\u{6587}\u{5b57}\u{7b26}",
    "\u{645}\u{631}\u{62d}\u{628}\u{627} \u{200f}\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "\u{0}\u{1}\u{7}\u{7f}\u{85}\u{feff}",
    "\u{fffd}\u{fffe}\u{10ffff}\u{e000}",
    "▁ ▁▁a ▁b▁",
    "<0x41> <0x0A>",
    "<s>a</s> b <|endoftext|>c<|im_start|> d<|im_end|>",
    "<unk> <pad>",
    "                                        x                         y",
    "fn main() {\n    println!(\"{}\", 1_000);\n}\n",
    "3.14159 1234567890 \u{661}\u{662}\u{663} \u{bd}",
    "ĠĊ Ġthe âĢĻ",
    "I'll we've they're 'tis O'Neil",
];

/// The bytes that a byte-level spelling stands for.
fn bytes_of_spelling(text: &str) -> Vec<u8> {
    let spelled: Vec<String> = (0..=255u8)
        .map(|byte| pieces::byte_level_spelling(&[byte]))
        .collect();
    let byte = |char: char| {
        let place = spelled.iter().position(|one| one.chars().eq([char]));
        place.unwrap() as u8
    };
    text.chars().map(byte).collect()
}

/// What must hold of the spans of any text.
fn check(name: &str, tokenizer: &Tokenizer, text: &str) {
    let encoded = tokenizer.encode(text).unwrap();
    assert_eq!(encoded.ids.len(), encoded.byte_end.len());
    let mut at = 0;
    let mut wrong = Vec::new();
    let mut joined = Vec::new();
    for (id, end) in encoded.ids.iter().zip(&encoded.byte_end) {
        let end = *end as usize;
        assert!(
            end >= at && end <= text.len(),
            "{name} {text:?}: {encoded:?}"
        );
        let bytes = tokenizer.vocabulary().bytes(*id);
        joined.extend_from_slice(bytes);
        let span = &text.as_bytes()[at..end];
        // A prefix that the tokenizer added is the only difference without a normaliser.
        if span != bytes && bytes.strip_prefix(b" ") != Some(span) {
            wrong.push((*id, String::from_utf8_lossy(span).into_owned()));
        }
        at = end;
    }
    if !encoded.ids.is_empty() {
        assert_eq!(at, text.len(), "{name} {text:?}: {encoded:?}");
    }
    // Where no normaliser changed anything, no span may differ.
    let joined = String::from_utf8_lossy(&joined).into_owned();
    let same = joined == text || joined.strip_prefix(' ') == Some(text);
    assert!(!same || wrong.is_empty(), "{name} {text:?}: {wrong:?}");
}

#[test]
fn spans_partition_nasty_texts() {
    for (name, tokenizer) in tokenizers("assets/tokenizers")
        .iter()
        .chain(tokenizers("assets/models"))
        .chain(&samples())
    {
        for text in TEXTS {
            check(name, tokenizer, text);
        }
        let all = TEXTS.join("\n");
        check(name, tokenizer, &all);
        let random = proptest::collection::vec(
            prop_oneof![
                any::<char>().prop_map(|c| c.to_string()),
                "[a-z ]{1,6}",
                "[ \\n\\t\\r]{1,8}",
                (0..TEXTS.len()).prop_map(|i| TEXTS[i].to_owned()),
                "[\u{300}-\u{345}]{1,3}",
                "[\u{1100}-\u{11ff}]{1,4}",
                "[\u{1f300}-\u{1f6ff}\u{200d}]{1,4}",
            ],
            0..12,
        );
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..120 {
            let tree = random.new_tree(&mut runner).unwrap();
            check(name, tokenizer, &tree.current().concat());
        }
    }
}

#[test]
fn a_normalisers_changes_stay_local() {
    let Some(tokenizer) = real("qwen2") else {
        return;
    };
    // Decomposed text: each word's tokens cover exactly its own bytes.
    let text = "cafe\u{301} au lait, re\u{301}sume\u{301}, \u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}.";
    let encoded = tokenizer.encode(text).unwrap();
    for border in [" au", " lait", ",", "."].map(|part| text.find(part).unwrap() as u32) {
        assert!(encoded.byte_end.contains(&border), "{border}: {encoded:?}");
    }
}

#[test]
fn prefixes_and_special_tokens_keep_their_bytes() {
    for (name, text, pieces) in [
        ("llama-2", "<s>a</s> b", &["<s>", "a", "</s>", "", " b"][..]),
        ("llama-2", " a", &["", " a"]),
        ("mistral-v3", "a</s>b", &["a", "</s>", "b"]),
        ("gpt-2", " a<|endoftext|>b", &[" a", "<|endoftext|>", "b"]),
        ("qwen2", "cafe\u{301}!", &["ca", "fe\u{301}", "!"]),
    ] {
        let Some(tokenizer) = real(name) else {
            return;
        };
        let encoded = tokenizer.encode(text).unwrap();
        let mut at = 0;
        let spans = encoded.byte_end.iter().map(|end| {
            let span = &text[at..*end as usize];
            at = *end as usize;
            span
        });
        let spans: Vec<&str> = spans.collect();
        assert_eq!(spans, pieces, "{name} {text:?} {encoded:?}");
    }
}

#[test]
fn ids_match_reference_vectors() {
    let Some(root) = shared("assets/tokenizers") else {
        return;
    };
    for (vectors, folder) in [
        ("gpt-2", "gpt-2"),
        ("llama-bpe", "llama-3"),
        ("llama-spm", "llama-2"),
        ("mpt", "mpt"),
        ("qwen2", "qwen2"),
    ] {
        let tokenizer = real(folder).unwrap();
        let read = |ext: &str| {
            std::fs::read_to_string(root.join(format!("_vectors/{vectors}.{ext}"))).unwrap()
        };
        let (inputs, outputs) = (read("inp"), read("out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let mut cases = 0;
        for (input, output) in inputs.iter().zip(outputs.lines()) {
            let expected: Vec<u32> = output
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            assert_eq!(
                tokenizer.encode(input).unwrap().ids,
                expected,
                "{vectors}: {input:?}"
            );
            check(vectors, tokenizer, input);
            cases += 1;
        }
        assert!(cases > 40, "{vectors}: {cases}");
    }
}

#[test]
fn roles_are_read_from_the_configuration_and_the_template() {
    let expected = |name: &str| match name {
        "llama-2" | "mistral-v1" | "mistral-v3" => (Some("<s>"), "</s>", Some("</s>"), None),
        "llama-3" => (
            Some("<|begin_of_text|>"),
            "<|eot_id|>",
            Some("<|eot_id|>"),
            Some("<|start_header_id|>"),
        ),
        "qwen2" => (None, "<|im_end|>", Some("<|im_end|>"), Some("<|im_start|>")),
        "internlm2" => (
            Some("<s>"),
            "</s>",
            Some("<|im_end|>"),
            Some("<|im_start|>"),
        ),
        "gpt-2" => (Some("<|endoftext|>"), "<|endoftext|>", None, None),
        "mpt" => (
            Some("<|endoftext|>"),
            "<|endoftext|>",
            Some("<|im_end|>"),
            Some("<|im_start|>"),
        ),
        _ => panic!("{name}"),
    };
    for (name, tokenizer) in tokenizers("assets/tokenizers") {
        let vocabulary = tokenizer.vocabulary();
        let spelling = |role| {
            let token = vocabulary.token(vocabulary.id_with_role(role)?)?;
            Some(token.display.as_str())
        };
        let found = (
            spelling(Role::Bos),
            spelling(Role::Eos).unwrap(),
            spelling(Role::TurnEnd),
            spelling(Role::TurnStart),
        );
        if name == "mpt" && found.2.is_none() {
            continue;
        }
        assert_eq!(found, expected(name), "{name}");
    }
}

#[test]
fn equal_tokenizers_have_equal_digests() {
    let all = tokenizers("assets/models");
    let digest = |name: &str| {
        let found = all.iter().find(|(folder, _)| folder == name);
        found.map(|(_, tokenizer)| tokenizer.vocabulary().digest.clone())
    };
    if let Some(stories) = digest("stories260K") {
        assert_eq!(Some(&stories), digest("llama2xs").as_ref());
        assert_ne!(Some(&stories), digest("stories3M").as_ref());
        assert_ne!(Some(&stories), digest("aidreams260K").as_ref());
    }
}

#[test]
fn the_first_token_in_mid_text() {
    for (name, tokenizer) in tokenizers("assets/tokenizers") {
        let vocabulary = tokenizer.vocabulary();
        let first = |bytes: &[u8]| {
            let id = tokenizer.first_token(bytes);
            id.map(|id| vocabulary.bytes(id).to_vec())
        };
        assert_eq!(first(b"the").unwrap(), b"the", "{name}");
        assert_eq!(first(b" the").unwrap(), b" the", "{name}");
        assert_eq!(first(b""), None, "{name}");
        // A continuation byte alone, and a character cut short.
        for bytes in [&[0x9Fu8, 0x91][..], &[0xE4, 0xB8]] {
            let found = first(bytes).unwrap();
            assert!(
                !found.is_empty() && bytes.starts_with(&found),
                "{name} {found:?}"
            );
        }
        // Any token's own bytes begin with the token found for them.
        for id in (300..vocabulary.len() as u32).step_by(997) {
            let token = vocabulary.token(id).unwrap();
            if token.special || token.bytes.is_empty() {
                continue;
            }
            let Some(found) = first(&token.bytes) else {
                panic!("{name}: {token:?}");
            };
            let normal = std::str::from_utf8(&token.bytes).is_ok_and(str::is_ascii);
            assert!(
                !normal || token.bytes.starts_with(&found),
                "{name}: {token:?} {found:?}"
            );
        }
    }
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn chat(template: &ChatTemplate) -> Transcript {
    let messages = [message("user", "Hi 中"), message("assistant", "Yes, well.")];
    transcript(&Chat::new(messages), Some(template))
        .unwrap()
        .transcript
}

#[test]
fn special_tokens_are_exchanged_by_role() {
    let Some(pivot) = real("qwen2") else {
        return;
    };
    let transcript = chat(pivot.template().unwrap());
    let end = transcript
        .spans
        .iter()
        .find(|s| s.role == "turn_end")
        .unwrap();
    let own = pivot
        .encode_transcript(&transcript, None, SpecialTokens::Text)
        .unwrap();
    for name in [
        "qwen2",
        "llama-3",
        "llama-2",
        "mistral-v3",
        "internlm2",
        "gpt-2",
    ] {
        let source = real(name).unwrap();
        let row = source
            .encode_transcript(&transcript, Some(pivot), SpecialTokens::Text)
            .unwrap();
        assert_eq!(row.byte_end[0], 0);
        assert_eq!(row.ids[0], source.first_id().unwrap());
        assert_eq!(
            *row.byte_end.last().unwrap() as usize,
            transcript.text.len()
        );
        assert!(row.byte_end.is_sorted());
        assert_eq!(row.ids.len(), row.supervised.len());
        // The pivot's end of turn is its EOS as well; a source without turns uses its own EOS.
        let roles = [Role::TurnEnd, Role::Eos].into_iter();
        let close = { roles }.find_map(|role| source.vocabulary().id_with_role(role));
        let at = row
            .byte_end
            .iter()
            .position(|e| *e == end.byte_end)
            .unwrap();
        match close {
            Some(close) => {
                assert_eq!(row.ids[at], close, "{name}");
                assert_eq!(row.byte_end[at - 1], end.byte_start, "{name}");
                assert!(row.supervised[at], "{name}");
            }
            None => assert!(!row.supervised[at], "{name}"),
        }
        // The answer is supervised, the question is not.
        let answer = transcript.text.find("Yes").unwrap() as u32 + 3;
        let yes = row.byte_end.iter().position(|e| *e >= answer).unwrap();
        assert!(row.supervised[yes] && !row.supervised[1], "{name}");
        if name == "qwen2" {
            assert_eq!(row, own);
        }
    }
}

#[test]
fn broken_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no `tokenizer.json`"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), "{\"model\": 3}").unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: "), "{error}");
    assert!(Tokenizer::load(Path::new("no/such")).is_err());
}

#[test]
fn a_tokenizer_must_fit_its_model() {
    for (name, tokenizer) in tokenizers("assets/models") {
        let rows = tokenizer.vocabulary().len();
        tokenizer.fits(name, rows).unwrap();
        tokenizer.fits(name, rows + 100).unwrap();
        let error = tokenizer.fits(name, rows - 1).unwrap_err().to_string();
        assert!(error.contains(&format!("{} rows", rows - 1)), "{error}");
    }
}

#[test]
fn the_artifact_keeps_everything() {
    let tokens = vec![
        Token {
            display: "<|end|>".to_owned(),
            bytes: b"<|end|>".to_vec(),
            special: true,
            role: Some(Role::Bos),
            kind: Kind::Added,
        },
        Token::hole(),
        Token {
            display: "<0xFF>".to_owned(),
            bytes: vec![0xFF],
            special: false,
            role: None,
            kind: Kind::Byte,
        },
        Token {
            display: "▁a".to_owned(),
            bytes: b" a".to_vec(),
            special: false,
            role: None,
            kind: Kind::Ordinary,
        },
        Token {
            display: "    ".to_owned(),
            bytes: b"    ".to_vec(),
            special: false,
            role: None,
            kind: Kind::Added,
        },
    ];
    let vocabulary = Vocabulary::new(tokens, "digest".to_owned(), [(Role::Eos, 0)]);
    assert_eq!(vocabulary.id_with_role(Role::Bos), Some(0));
    assert_eq!(vocabulary.roles_of(0).count(), 2);
    assert!(vocabulary.token(1).is_none() && vocabulary.bytes(1).is_empty());
    let dir = tempfile::tempdir().unwrap();
    let refuse = crate::artifact::Existing::Refuse;
    vocabulary.write(dir.path(), refuse).unwrap();
    vocabulary.write(dir.path(), refuse).unwrap();
    assert_eq!(Vocabulary::read(dir.path()).unwrap(), vocabulary);
    let other = Vocabulary::new(Vec::new(), "other".to_owned(), []);
    assert!(other.write(dir.path(), refuse).is_err());

    for (name, tokenizer) in tokenizers("assets/tokenizers") {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.vocabulary().write(dir.path(), refuse).unwrap();
        let read = Vocabulary::read(dir.path()).unwrap();
        // The kind of a special token is not kept: it is an added one, whatever it was.
        for (a, b) in read.tokens.iter().zip(&tokenizer.vocabulary().tokens) {
            assert_eq!(
                (&a.display, &a.bytes, a.special, a.role),
                (&b.display, &b.bytes, b.special, b.role),
                "{name}"
            );
            assert!(a.kind == b.kind || a.special, "{name}: {a:?} {b:?}");
        }
        assert_eq!(read.digest, tokenizer.vocabulary().digest);
    }
}

/// A token alone is what the decoder of its tokenizer makes of it, after it was stored too.
#[test]
fn tokens_decode_as_their_decoder_does() {
    let sets = [tokenizers("assets/tokenizers"), tokenizers("assets/models")];
    let (mut dropped, mut kept) = (0, 0);
    for (name, tokenizer) in sets.into_iter().flatten().chain(&samples()) {
        let dir = tempfile::tempdir().unwrap();
        let refuse = crate::artifact::Existing::Refuse;
        tokenizer.vocabulary().write(dir.path(), refuse).unwrap();
        let stored = Vocabulary::read(dir.path()).unwrap();
        for (id, token) in (0u32..).zip(&tokenizer.vocabulary().tokens) {
            if token.kind == Kind::Hole {
                continue;
            }
            let alone = tokenizer.inner.decode(&[id], false).unwrap();
            let text = tokenizer.vocabulary().decoded(id);
            assert_eq!(text.as_deref(), Some(&*alone), "{name} {id} {token:?}");
            assert_eq!(stored.decoded(id), text, "{name} {id}");
            let blank = token.bytes.starts_with(b" ") && token.kind == Kind::Ordinary;
            *(if alone.starts_with(' ') {
                &mut kept
            } else {
                &mut dropped
            }) += u32::from(blank);
        }
    }
    assert!(shared("assets/tokenizers").is_none() || (dropped > 10_000 && kept > 10_000));
}
