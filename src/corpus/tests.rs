use std::path::{Path, PathBuf};

use super::*;
use crate::artifact::tokens::read_part;
use crate::text::read_transcripts;
use crate::vocab::{Role, SpecialTokens};

/// Material outside the repository; tests that need it say so and pass where it is absent.
pub(super) fn shared(path: &str) -> Option<PathBuf> {
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

/// A tokenizer of single characters with a chat template.
fn letters(dir: &Path, template: &str) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let pieces = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let plain = (0x20..0x7F).map(|code: u8| char::from(code).to_string());
    let all = pieces.into_iter().chain(["\n".to_owned()]).chain(plain);
    for (id, piece) in (0u32..).zip(all) {
        vocab.insert(piece, id.into());
    }
    let added: Vec<_> = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "byte_fallback": false, "vocab": vocab, "merges": []}
    });
    std::fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    let config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>",
        "chat_template": template});
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir).unwrap()
}

const CHATML: &str = "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

struct Case {
    dir: tempfile::TempDir,
    pivot: Tokenizer,
    options: CorpusOptions,
}

impl Case {
    fn new(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pivot = letters(dir.path(), CHATML);
        let input = dir.path().join("chat.jsonl");
        std::fs::write(&input, lines).unwrap();
        let options = CorpusOptions {
            inputs: vec![input],
            ..CorpusOptions::default()
        };
        Self {
            dir,
            pivot,
            options,
        }
    }

    /// Where an artifact lies.
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("run").join(name)
    }

    fn run(&self, others: &[Model<'_>]) -> Result<Summary> {
        let mut models = vec![model("pivot", &self.pivot, None)];
        models.extend(others);
        let corpus = Corpus {
            options: self.options.clone(),
            models,
            samples: self.at("samples"),
            transcripts: self.at("transcripts"),
        };
        corpus.perform(Existing::Refuse)
    }

    fn tokenise(&self) -> TokenSummary {
        tokenise(self.at("transcripts"), &self.pivot, None, self.at("tokens"))
    }

    fn texts(&self) -> Vec<String> {
        let artifact = Artifact::open(&self.at("transcripts"), Kind::Transcripts).unwrap();
        let parts = artifact.parts().iter();
        let samples = parts.flat_map(|part| read_transcripts(part).unwrap());
        samples.map(|sample| sample.transcript.text).collect()
    }

    fn nothing_written(&self) -> bool {
        !self.dir.path().join("run").exists()
    }
}

fn tokenise(
    transcripts: PathBuf,
    tokenizer: &Tokenizer,
    made_by: Option<&Tokenizer>,
    out: PathBuf,
) -> TokenSummary {
    let tokenise = Tokenise {
        transcripts,
        tokenizer,
        made_by,
        special_tokens: SpecialTokens::Text,
        out,
    };
    tokenise.perform(Existing::Refuse).unwrap()
}

fn model<'a>(name: &'a str, tokenizer: &'a Tokenizer, context: Option<usize>) -> Model<'a> {
    Model {
        name,
        tokenizer,
        context,
        rows: tokenizer.vocabulary().len(),
    }
}

const TWO: &str = "{\"prompt\": \"Hi\", \"response\": \"Yes\"}\n{\"text\": \"plain text\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"only a question\"}]}\n";

#[test]
fn chats_and_texts_become_samples_with_tokens() {
    let mut case = Case::new(TWO);
    case.options.part_samples = 1;
    let summary = case.run(&[]).unwrap();
    assert_eq!(
        (summary.records, summary.samples, summary.skipped_silent),
        (3, 2, 1)
    );
    assert!(!summary.up_to_date);
    let tokenised = case.tokenise();
    assert!(!tokenised.up_to_date);
    assert_eq!(
        case.texts(),
        [
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n",
            "plain text"
        ]
    );
    let tokens = Artifact::open(&case.at("tokens"), Kind::Tokens).unwrap();
    assert_eq!(tokens.parts().len(), 2);
    let chat = &read_part(&tokens.parts()[0]).unwrap()[0];
    let vocabulary = case.pivot.vocabulary();
    let learned: String = chat
        .ids
        .iter()
        .zip(&chat.supervised)
        .filter(|(_, supervised)| **supervised)
        .map(|(id, _)| vocabulary.token(*id).unwrap().display.as_str())
        .collect();
    assert_eq!(learned, "Yes<|im_end|>");
    assert_eq!(Some(chat.ids[0]), vocabulary.id_with_role(Role::Bos));
    let text = &read_part(&tokens.parts()[1]).unwrap()[0];
    assert!(!text.supervised[0] && text.supervised[1..].iter().all(|s| *s));
    assert_eq!(text.byte_end, (0..=10).collect::<Vec<u32>>());
    assert_eq!(tokenised.tokens as usize, chat.ids.len() + text.ids.len());

    // Again: nothing to do. Without one part: only that part, with the same rows.
    assert!(case.run(&[]).unwrap().up_to_date && case.tokenise().up_to_date);
    for name in ["transcripts", "tokens"] {
        let lost = case.at(name).join("part-00001.parquet");
        let before = std::fs::read(&lost).unwrap();
        std::fs::remove_file(&lost).unwrap();
        let whole = case.run(&[]).unwrap().up_to_date && case.tokenise().up_to_date;
        assert!(!whole, "{name}");
        assert_eq!(std::fs::read(&lost).unwrap(), before);
    }
    // Other options do not overwrite what is there.
    case.options.max_tokens = 1000;
    assert!(matches!(case.run(&[]), Err(Error::Usage { .. })));
}

#[test]
fn what_is_wrong_is_found_before_anything_is_written() {
    let mut case = Case::new(&format!("{TWO}{{\"text\": \"x\"\n"));
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(
        error.contains("chat.jsonl line 4: no valid JSON"),
        "{error}"
    );
    assert!(case.nothing_written());

    case = Case::new(TWO);
    case.options.strict = true;
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(error.contains("line 3: no assistant's turn"), "{error}");
    assert!(case.nothing_written());

    case = Case::new("\n");
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(error.contains("no sample in 0 records"), "{error}");

    case = Case::new(TWO);
    let small = Model {
        rows: 7,
        ..model("small", &case.pivot, None)
    };
    let error = case.run(&[small]).unwrap_err().to_string();
    assert!(
        error.contains("model `small`") && error.contains("7 rows"),
        "{error}"
    );

    case.options.inputs = vec![case.dir.path().join("no.jsonl")];
    assert!(matches!(case.run(&[]), Err(Error::Io { .. })));
    case.options.inputs.clear();
    assert!(matches!(case.run(&[]), Err(Error::Usage { .. })));
    case.options = CorpusOptions {
        date: "tomorrow".to_owned(),
        ..Case::new(TWO).options
    };
    assert!(
        case.run(&[])
            .unwrap_err()
            .to_string()
            .contains("2024-07-26")
    );
}

#[test]
fn pieces_too_long_for_a_source_stop_or_are_skipped() {
    let mut case = Case::new(TWO);
    let other = tempfile::tempdir().unwrap();
    let source = letters(other.path(), PLAIN);
    let error = case
        .run(&[model("src", &source, Some(20))])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1") && error.contains("model `src`"),
        "{error}"
    );
    assert!(case.nothing_written());
    case.options.too_long = TooLong::Skip;
    let summary = case.run(&[model("src", &source, Some(20))]).unwrap();
    assert_eq!((summary.samples, summary.skipped_too_long), (1, 1));
    assert_eq!(case.texts(), ["plain text"]);
}

#[test]
fn long_samples_are_split_by_the_pivot_alone() {
    let text = "One two three. Four five six.\\n\\nSeven eight nine ten.\\nEleven twelve thirteen fourteen";
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"first question\"}, {\"role\": \"assistant\", \"content\": \"first answer\"}, {\"role\": \"user\", \"content\": \"second question\"}, {\"role\": \"assistant\", \"content\": \"second answer\"}]}";
    let mut case = Case::new(&format!("{{\"text\": \"{text}\"}}\n{chat}\n"));
    case.options.max_tokens = 60;
    let summary = case.run(&[]).unwrap();
    assert_eq!(summary.split, 2);
    let texts = case.texts();
    assert_eq!(texts[0], "One two three. Four five six.\n\n");
    let whole = text.replace("\\n", "\n");
    let chats = texts
        .iter()
        .position(|text| text.contains("first"))
        .unwrap();
    assert_eq!(texts[..chats].concat(), whole);
    assert!(
        texts[chats + 1].starts_with("<|im_start|>user\nsecond"),
        "{texts:?}"
    );
    case.tokenise();
    let tokens = Artifact::open(&case.at("tokens"), Kind::Tokens).unwrap();
    for sample in read_part(&tokens.parts()[0]).unwrap() {
        assert!(sample.ids.len() <= 60);
    }
    let samples = Artifact::open(&case.at("samples"), Kind::Samples).unwrap();
    let messages = rows::read_chats(&samples.parts()[0]).unwrap();
    assert_eq!(
        messages[chats + 1].1.messages[0].content(),
        "second question"
    );
}

#[test]
fn native_templates_have_transcripts_of_their_own() {
    let mut case = Case::new(TWO);
    case.options.template = TemplateMode::Native;
    let other = tempfile::tempdir().unwrap();
    let source = letters(other.path(), PLAIN);
    case.run(&[model("src", &source, Some(100))]).unwrap();
    let out = case.at("transcripts-src");
    let transcribe = Transcribe {
        samples: case.at("samples"),
        tokenizer: &source,
        date: case.options.date().unwrap(),
        out: out.clone(),
    };
    assert_eq!(transcribe.perform(Existing::Refuse).unwrap(), 0);
    let artifact = Artifact::open(&out, Kind::Transcripts).unwrap();
    let samples = read_transcripts(&artifact.parts()[0]).unwrap();
    assert_eq!(
        samples[0].transcript.text,
        "[user] Hi</s>[assistant] Yes</s>"
    );
    let tokenise = || tokenise(out.clone(), &source, None, case.at("tokens-src"));
    let summary = tokenise();
    assert_eq!((summary.samples, summary.supervised), (2, 4 + 10));
    assert!(tokenise().up_to_date);
}

#[test]
fn stories_for_three_models() {
    let (Some(models), Some(text)) = (
        shared("assets/models"),
        shared("assets/text/domains/stories_train.jsonl"),
    ) else {
        return;
    };
    let load = |name: &str| Tokenizer::load(&models.join(name)).unwrap();
    let (pivot, source, twin) = (load("stories260K"), load("stories3M"), load("llama2xs"));
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let options = CorpusOptions {
        inputs: vec![text],
        max_tokens: 256,
        part_samples: 500,
        ..CorpusOptions::default()
    };
    let corpus = Corpus {
        options,
        models: vec![
            model("stories260K", &pivot, Some(512)),
            model("stories3M", &source, Some(256)),
            model("llama2xs", &twin, Some(256)),
        ],
        samples: at("samples"),
        transcripts: at("transcripts"),
    };
    let summary = corpus.perform(Existing::Refuse).unwrap();
    assert_eq!(summary.records, 721);
    assert!(summary.samples > 1500 && summary.split > 500, "{summary:?}");
    let (out, own) = (at("tokens-stories3M"), at("tokens"));
    let tokens = tokenise(at("transcripts"), &source, Some(&pivot), out.clone());
    assert_eq!(tokens.samples, summary.samples);
    let ours = tokenise(at("transcripts"), &pivot, None, own.clone());
    assert!(tokens.tokens < ours.tokens);
    let (a, b) = (
        Artifact::open(&out, Kind::Tokens).unwrap(),
        Artifact::open(&own, Kind::Tokens).unwrap(),
    );
    a.check_same_samples(&b).unwrap();
    // Every sample of both ends at the end of its transcript.
    let texts = Artifact::open(&at("transcripts"), Kind::Transcripts).unwrap();
    for ((a, b), text) in a.parts().iter().zip(b.parts()).zip(texts.parts()) {
        let texts = read_transcripts(text).unwrap();
        for (tokens, text) in read_part(a).unwrap().iter().zip(&texts) {
            assert_eq!(
                *tokens.byte_end.last().unwrap() as usize,
                text.transcript.text.len()
            );
        }
        for tokens in read_part(b).unwrap() {
            assert!(tokens.ids.len() <= 256);
        }
    }
}

#[test]
fn bad_records_are_left_out_and_counted() {
    let lines = [
        r#"{"prompt": "Hi", "response": "Yes", "id": 1}"#,
        r#"{"prompt": "#,
        r#"{"question": "x"}"#,
        r#"{"messages": [{"role": "assistant", "content": 3}]}"#,
        r#"{"messages": [{"role": "system", "content": "no"}, {"role": "assistant", "content": "x"}]}"#,
        r#"{"messages": [{"role": "pope", "content": "x"}, {"role": "assistant", "content": "x"}]}"#,
    ];
    let mut case = Case::new(&lines.join("\n"));
    case.pivot = letters(case.dir.path(), PLAIN);
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(error.contains("chat.jsonl line 2"), "{error}");
    assert!(case.nothing_written());
    case.options.bad_records = BadRecords::Skip;
    let summary = case.run(&[]).unwrap();
    let all = [
        BadReason::Json,
        BadReason::Shape,
        BadReason::Field,
        BadReason::Template,
    ];
    assert_eq!(summary.bad_records, all.map(|reason| (reason, 1)).into());
    assert_eq!((summary.records, summary.samples), (6, 2));
    let noticed = serde_json::to_value(&summary.noticed).unwrap();
    assert_eq!(
        noticed,
        serde_json::json!({
            "unread": [{"field": "id", "owner": "record", "format": "prompt", "count": 1}],
            "roles": {"pope": 1},
        })
    );
    assert!(
        serde_json::to_string(&summary)
            .unwrap()
            .contains(r#""bad_records":{"json":1"#)
    );

    // What `strict` forbids is bad too; and a corpus with nothing else is none.
    let mut case = Case::new(lines[0]);
    case.options.strict = true;
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(
        error.contains("line 1: a field \"id\", which shape \"prompt\" does not read; name it in `corpus.fields`"),
        "{error}"
    );
    case.options.bad_records = BadRecords::Skip;
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(
        error.contains("no sample in 1 records") && error.contains("1 of no use"),
        "{error}"
    );
    case.options.fields.ignore("id");
    assert_eq!(case.run(&[]).unwrap().samples, 1);
    // A file that cannot be read on stops all the same.
    std::fs::remove_dir_all(case.dir.path().join("run")).unwrap();
    let packed = zstd::encode_all(TWO.as_bytes(), 1).unwrap();
    std::fs::write(&case.options.inputs[0], &packed[..packed.len() - 2]).unwrap();
    let error = case.run(&[]).unwrap_err().to_string();
    assert!(error.contains("is cut short"), "{error}");
}
