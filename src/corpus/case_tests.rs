//! Small inputs after public bug reports, kept outside the repository: every folder whose
//! `right.json` says, by input file, what is read from it.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Parser;
use serde_json::Value;

use super::tests::shared;
use super::*;
use crate::text::read_transcripts;

/// `arguments` of a case: options of `fuselm corpus`.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: CorpusOptions,
}

/// What came of an input file, sample by sample.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Role, text, and whether it is learnt.
    messages: Vec<(String, String, bool)>,
    text: String,
    /// The stretches that are learnt.
    learned: Vec<String>,
}

/// Keys of a `right.json` that are no input files.
const KEYS: [&str; 3] = ["template", "specials", "arguments"];

#[test]
fn cases_after_public_reports() {
    let Some(cases) = shared("cases/text") else {
        return;
    };
    let mut done = 0;
    let mut folders: Vec<_> = std::fs::read_dir(cases)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    folders.sort_unstable();
    for folder in folders {
        let Ok(right) = std::fs::read(folder.join("right.json")) else {
            continue;
        };
        let right: Value = serde_json::from_slice(&right).unwrap();
        let right = right.as_object().unwrap();
        let is_input =
            |name: &&String| !KEYS.contains(&name.as_str()) && folder.join(name.as_str()).is_file();
        let templates = right.get("templates").and_then(Value::as_object);
        if templates.is_none() && !right.keys().any(|name| is_input(&name)) {
            eprintln!("skipped: {} is of another kind", folder.display());
            continue;
        }
        let pivot = Pivot::new(&folder, right.get("template").and_then(Value::as_str));
        let inputs = right.keys().filter(is_input);
        let seen: BTreeMap<&str, Result<Vec<Seen>, String>> = inputs
            .map(|name| {
                (
                    name.as_str(),
                    pivot.read(&folder.join(name), right.get("arguments")),
                )
            })
            .collect();
        for (name, found) in &seen {
            let place = format!("{} {name}: {found:?}", folder.display());
            check(&right[*name], found, &seen, &place);
            done += 1;
        }
        for (name, same) in templates.into_iter().flatten() {
            let read = |name: &str| {
                Pivot::new(&folder, Some(name))
                    .read(&folder.join("data.jsonl"), None)
                    .unwrap()
            };
            let as_name = same["same_as"].as_str().unwrap();
            assert_eq!(read(name), read(as_name), "{} {name}", folder.display());
            done += 1;
        }
    }
    assert!(done > 0);
}

fn check(
    right: &Value,
    found: &Result<Vec<Seen>, String>,
    seen: &BTreeMap<&str, Result<Vec<Seen>, String>>,
    place: &str,
) {
    let records = match right {
        Value::Array(records) => records,
        same => {
            if let Some(name) = same["same_as"].as_str() {
                assert_eq!(found, &seen[name], "{place}");
            } else if let Some(name) = same["same_as_twice"].as_str() {
                let (once, found) = (seen[name].as_ref().unwrap(), found.as_ref().unwrap());
                let (first, second) = found.split_at(once.len());
                assert_eq!(
                    (first, second),
                    (once.as_slice(), once.as_slice()),
                    "{place}"
                );
            } else {
                let error = same["error"].as_str().unwrap();
                assert!(found.as_ref().unwrap_err().contains(error), "{place}");
            }
            return;
        }
    };
    if let [one] = records.as_slice()
        && let Some(error) = one["error"].as_str()
    {
        assert!(found.as_ref().unwrap_err().contains(error), "{place}");
        return;
    }
    let found = found.as_ref().unwrap_or_else(|_| panic!("{place}"));
    assert_eq!(found.len(), records.len(), "{place}");
    for (found, right) in found.iter().zip(records) {
        if let Some(messages) = right["messages"].as_array() {
            let expected: Vec<_> = messages
                .iter()
                .map(|m| {
                    (
                        m[0].as_str().unwrap().to_owned(),
                        m[1].as_str().unwrap().to_owned(),
                        m[2] == true,
                    )
                })
                .collect();
            assert_eq!(found.messages, expected, "{place}");
        }
        if let Some(text) = right["text"].as_str() {
            assert_eq!(found.text, text, "{place}");
        }
        if let Some(learned) = right["learned"].as_array() {
            let expected: Vec<_> = learned.iter().map(|text| text.as_str().unwrap()).collect();
            assert_eq!(found.learned, expected, "{place}");
        }
    }
}

/// The samples' pivot, with the template of a case.
struct Pivot {
    dir: tempfile::TempDir,
    tokenizer: Tokenizer,
}

impl Pivot {
    fn new(folder: &Path, template: Option<&str>) -> Self {
        let pivot = Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples/models/pivot");
        let dir = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(pivot.join(name), dir.path().join(name)).unwrap();
        }
        if let Some(name) = template {
            std::fs::copy(folder.join(name), dir.path().join("chat_template.jinja")).unwrap();
        }
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        Self { dir, tokenizer }
    }

    fn read(&self, input: &Path, arguments: Option<&Value>) -> Result<Vec<Seen>, String> {
        let arguments = arguments.and_then(Value::as_array).into_iter().flatten();
        let arguments = arguments.map(|argument| argument.as_str().unwrap());
        let mut options = Arguments::parse_from(std::iter::once("corpus").chain(arguments)).options;
        options.inputs = vec![input.to_owned()];
        let root = self.dir.path().join("run");
        let _ = std::fs::remove_dir_all(&root);
        let outputs = Outputs::in_run(&RunDir::new(&root), "pivot", "pivot");
        let pivot = Model {
            name: "pivot",
            tokenizer: &self.tokenizer,
            context: None,
            rows: self.tokenizer.vocabulary().len(),
        };
        run(&options, &pivot, &[], &outputs, Existing::Refuse)
            .map_err(|error| error.to_string())?;
        let samples = Artifact::open(&outputs.samples, Kind::Samples).unwrap();
        let transcripts = Artifact::open(&outputs.transcripts, Kind::Transcripts).unwrap();
        let mut seen = Vec::new();
        for (samples, transcripts) in samples.parts().iter().zip(transcripts.parts()) {
            let chats = rows::read_chats(samples).unwrap().into_iter();
            for ((_, chat), sample) in chats.zip(read_transcripts(transcripts).unwrap()) {
                seen.push(saw(&chat, &sample.transcript));
            }
        }
        Ok(seen)
    }
}

fn saw(chat: &crate::text::Chat, transcript: &crate::text::Transcript) -> Seen {
    let message = |message: &crate::text::Message| {
        let learns = matches!(message.part(), "assistant" | "text");
        (
            message.role.clone(),
            message.content().into_owned(),
            learns && message.learned,
        )
    };
    let mut learned: Vec<String> = Vec::new();
    let mut end = None;
    for span in transcript.spans.iter().filter(|span| span.supervised) {
        let text = &transcript.text[span.byte_start as usize..span.byte_end as usize];
        match learned.last_mut().filter(|_| end == Some(span.byte_start)) {
            Some(last) => last.push_str(text),
            None => learned.push(text.to_owned()),
        }
        end = Some(span.byte_end);
    }
    Seen {
        messages: chat.messages.iter().map(message).collect(),
        text: transcript.text.clone(),
        learned,
    }
}
