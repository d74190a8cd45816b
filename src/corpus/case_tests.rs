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

/// What was read from each input file of a folder, or the error.
type Found = BTreeMap<String, Result<Vec<Seen>, String>>;

#[test]
fn cases_after_public_reports() {
    let Some(cases) = shared("cases/text") else {
        return;
    };
    let folders = std::fs::read_dir(cases).unwrap().map(|f| f.unwrap().path());
    let mut folders: Vec<_> = folders.collect();
    folders.sort_unstable();
    let (mut right, mut wrong) = (0, Vec::new());
    for folder in folders {
        for (place, agrees) in compared(&folder) {
            match agrees {
                true => right += 1,
                false => wrong.push(format!("{}: {place}", folder.display())),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{right} are right, not {}",
        wrong.join("\n")
    );
    assert!(right > 0);
}

/// The files of a folder (and its templates), and whether what is read from each is right.
fn compared(folder: &Path) -> Vec<(String, bool)> {
    let Ok(right) = std::fs::read(folder.join("right.json")) else {
        return Vec::new();
    };
    let right: Value = serde_json::from_slice(&right).unwrap();
    let fields = right.as_object().unwrap();
    let names = fields.keys();
    let names = names.filter(|name| !KEYS.contains(&name.as_str()) && folder.join(name).is_file());
    let names: Vec<&String> = names.collect();
    let templates = right["templates"].as_object().into_iter().flatten();
    let templates: Vec<_> = templates.collect();
    if names.is_empty() && templates.is_empty() {
        eprintln!("skipped: {} is of another kind", folder.display());
        return Vec::new();
    }
    let mut compared = Vec::new();
    if !names.is_empty() {
        let pivot = Pivot::new(folder, right["template"].as_str());
        let read = |name: &String| pivot.read(&folder.join(name), &right["arguments"]);
        let found: Found = names
            .iter()
            .map(|name| ((*name).clone(), read(name)))
            .collect();
        for (name, seen) in &found {
            let agrees = agrees(&right[name], seen, &found);
            compared.push((format!("{name}: {seen:?}"), agrees));
        }
    }
    for (name, same) in templates {
        let read = |name: &str| {
            Pivot::new(folder, Some(name)).read(&folder.join("data.jsonl"), &Value::Null)
        };
        let (seen, expected) = (read(name), read(same["same_as"].as_str().unwrap()));
        let agrees = expected.is_ok() && seen == expected;
        compared.push((format!("{name}: {seen:?}"), agrees));
    }
    compared
}

fn agrees(right: &Value, seen: &Result<Vec<Seen>, String>, found: &Found) -> bool {
    let failed = |right: &Value| {
        let expected = right["error"].as_str();
        expected.is_some_and(|expected| seen.as_ref().is_err_and(|error| error.contains(expected)))
    };
    if let Some(name) = right["same_as"].as_str() {
        return *seen == found[name];
    }
    if let Some(name) = right["same_as_twice"].as_str() {
        let (Ok(once), Ok(seen)) = (&found[name], seen) else {
            return false;
        };
        return seen.iter().eq(once.iter().chain(once));
    }
    match (right, seen) {
        (Value::Array(records), Ok(seen)) => {
            let mut pairs = seen.iter().zip(records);
            seen.len() == records.len() && pairs.all(|(seen, right)| is_as(seen, right))
        }
        (Value::Array(records), Err(_)) => records.iter().any(failed),
        (right, _) => failed(right),
    }
}

/// Whether a sample is what `right.json` says of it.
fn is_as(seen: &Seen, right: &Value) -> bool {
    let messages = seen.messages.iter();
    let messages: Vec<Value> = messages
        .map(|m| serde_json::json!([m.0, m.1, m.2]))
        .collect();
    let is = |name: &str, found: Value| right[name].is_null() || right[name] == found;
    is("messages", messages.into())
        && is("text", seen.text.as_str().into())
        && is("learned", seen.learned.clone().into())
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

    fn read(&self, input: &Path, arguments: &Value) -> Result<Vec<Seen>, String> {
        let arguments = arguments.as_array().into_iter().flatten();
        let arguments = arguments.map(|argument| argument.as_str().unwrap());
        let mut options = Arguments::parse_from(std::iter::once("corpus").chain(arguments)).options;
        options.inputs = vec![input.to_owned()];
        let root = self.dir.path().join("run");
        let _ = std::fs::remove_dir_all(&root);
        let pivot = Model {
            name: "pivot",
            tokenizer: &self.tokenizer,
            context: None,
            rows: self.tokenizer.vocabulary().len(),
        };
        let corpus = Corpus {
            options,
            models: vec![pivot],
            samples: root.join("samples"),
            transcripts: root.join("transcripts"),
        };
        let done = corpus.perform(Existing::Refuse);
        done.map_err(|error| error.to_string())?;
        let samples = Artifact::open(&corpus.samples, Kind::Samples).unwrap();
        let transcripts = Artifact::open(&corpus.transcripts, Kind::Transcripts).unwrap();
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
