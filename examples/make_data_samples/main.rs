//! Writes `data-samples/`: a chat corpus about an invented world, five tokenizers, and the
//! configurations of five models. Always the same bytes.
//!
//! ```text
//! cargo run --release --example make_data_samples                       # write data-samples/
//! cargo run --release --example make_data_samples -- --check            # compare instead
//! cargo run --release --example make_data_samples -- --pretrain DIR     # and the models' own training data
//! ```
//!
//! The three subjects differ in vocabulary and conventions, and each has something to learn that
//! a few hundred samples do not show: sums that must be computed (`market`), facts and weighted
//! habits of invented islands (`atlas`), schemas and a house style (`sql`). No sample and no
//! answer occurs in two splits.

mod atlas;
mod market;
mod models;
mod random;
mod readme;
mod sql;
mod vocabularies;
mod words;

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::json;

use models::Shape;
use random::Rng;
use vocabularies::{Cut, TokenizerFolder};

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Sample {
    user: String,
    assistant: String,
}

/// A subject of the corpus: a fixed invented world and a grammar that talks about it.
pub trait Subject {
    /// The name in files.
    fn name(&self) -> &'static str;
    /// A new sample.
    fn sample(&self, rng: &mut Rng) -> Sample;
}

/// Writes the data samples of fuselm.
#[derive(Parser)]
struct Args {
    /// Where the samples go
    #[arg(long, default_value = "data-samples")]
    out: PathBuf,
    /// Write nothing; fail when a file differs from what would be written
    #[arg(long)]
    check: bool,
    /// Also write the training data of the models into this folder
    #[arg(long, value_name = "DIR")]
    pretrain: Option<PathBuf>,
    /// Samples of each specialist's training data
    #[arg(long, default_value_t = 24_000, value_name = "N")]
    pretrain_samples: usize,
    /// Samples of each subject in the pivot's training data
    #[arg(long, default_value_t = 800, value_name = "N")]
    general_samples: usize,
}

/// Samples of each subject in the corpus that the models are fused on.
const TRAIN: usize = 400;
/// Samples of `train` that the quick start fuses on: so few that a model which learns from the
/// text alone soon knows them by heart.
const QUICKSTART: usize = 300;
/// Samples of each subject that the scoreboard uses, and that settings are tuned on.
const HELD_OUT: usize = 90;
/// Samples of its own subject that a specialist's tokenizer sees; a quarter of it of each other.
const TOKENIZER_SAMPLES: usize = 2_400;
/// Samples of each subject that the tokenizer of the pivot with the large vocabulary sees.
const WIDE_SAMPLES: usize = 12_000;

/// Tokens of the longest sample in any of the vocabularies, with the chat template's.
const LONGEST: usize = 160;

impl Sample {
    fn line(&self) -> Result<String> {
        let messages = json!({"messages": [
            {"role": "user", "content": self.user},
            {"role": "assistant", "content": self.assistant},
        ]});
        Ok(serde_json::to_string(&messages)? + "\n")
    }

    fn bytes(&self) -> usize {
        self.user.len() + self.assistant.len()
    }
}

/// Draws samples and refuses those that were seen before, in any split.
#[derive(Clone, Default)]
struct Splits {
    seen: HashSet<String>,
}

impl Splits {
    /// `n` samples of `subject` whose answers are new.
    fn draw(&mut self, subject: &dyn Subject, split: &str, n: usize) -> Result<Vec<Sample>> {
        let rng = &mut Rng::named(&format!("{}/{split}", subject.name()));
        let mut samples = Vec::with_capacity(n);
        let mut refused = 0;
        while samples.len() < n {
            let sample = subject.sample(rng);
            ensure!(
                (60..=700).contains(&sample.bytes()),
                "a sample of `{}` has {} bytes: {sample:?}",
                subject.name(),
                sample.bytes()
            );
            if self.seen.insert(sample.assistant.clone()) {
                samples.push(sample);
            } else {
                refused += 1;
                ensure!(
                    refused < 20 * n + 100,
                    "`{}` has no {n} different samples",
                    subject.name()
                );
            }
        }
        Ok(samples)
    }
}

/// What to write: path below the output folder, content.
type Files = BTreeMap<String, Vec<u8>>;

fn lines(samples: &[Sample]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for sample in samples {
        out.extend(sample.line()?.into_bytes());
    }
    Ok(out)
}

/// Texts that a tokenizer is trained on: questions, answers and the words of the chat template.
fn texts(samples: &[&[Sample]]) -> Vec<String> {
    let all = samples.iter().flat_map(|part| part.iter());
    all.flat_map(|sample| {
        [
            format!("user\n{}", sample.user),
            format!("assistant\n{}", sample.assistant),
        ]
    })
    .collect()
}

struct Model {
    name: &'static str,
    shape: Shape,
    kind: &'static str,
    tokenizer: TokenizerFolder,
}

fn main() -> Result<()> {
    // One thread: the sums of the unigram trainer depend on how the words are cut into chunks.
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()?;
    tokenizers::parallelism::set_parallelism(false);
    let args = Args::parse();

    let subjects: [Box<dyn Subject>; 3] = [
        Box::new(market::Market::new()?),
        Box::new(atlas::Atlas::new()?),
        Box::new(sql::Databases::new()?),
    ];
    let mut files = Files::new();
    let mut splits = Splits::default();
    let mut valid = Vec::new();
    let mut train = Vec::new();
    for subject in &subjects {
        for split in ["valid", "tune"] {
            let samples = splits.draw(subject.as_ref(), split, HELD_OUT)?;
            files.insert(
                format!("chat/{}-{split}.jsonl", subject.name()),
                lines(&samples)?,
            );
            valid.push((subject.name(), samples));
        }
    }
    for subject in &subjects {
        train.push(splits.draw(subject.as_ref(), "train", TRAIN)?);
    }
    let mut mixed: Vec<Sample> = train.concat();
    Rng::named("train/order").shuffle(&mut mixed);
    files.insert("chat/train.jsonl".to_owned(), lines(&mixed)?);
    files.insert(
        "chat/quickstart.jsonl".to_owned(),
        lines(&mixed[..QUICKSTART])?,
    );

    let mut own = Vec::new();
    for subject in &subjects {
        own.push(splits.draw(subject.as_ref(), "tokenizer", TOKENIZER_SAMPLES)?);
    }
    // It has room for what others have never seen; what is drawn after this does not depend on it.
    let mut more = Vec::new();
    let mut apart = splits.clone();
    for subject in &subjects {
        more.push(apart.draw(subject.as_ref(), "wide", WIDE_SAMPLES)?);
    }
    let models = train_tokenizers(&train, &own, &more)?;
    for model in &models {
        let held_out = valid.iter().flat_map(|(_, samples)| samples);
        check_tokenizer(model, held_out.chain(&mixed))?;
        let folder = format!("models/{}", model.name);
        let config = serde_json::to_string_pretty(&model.shape.config(&model.tokenizer))? + "\n";
        files.insert(format!("{folder}/config.json"), config.into_bytes());
        files.insert(
            format!("{folder}/tokenizer.json"),
            model.tokenizer.tokenizer.clone().into_bytes(),
        );
        files.insert(
            format!("{folder}/tokenizer_config.json"),
            model.tokenizer.config.clone().into_bytes(),
        );
    }
    files.insert(
        "README.md".to_owned(),
        readme::text(&files, &models, &valid)?.into_bytes(),
    );

    if args.check {
        check(&args.out, &files)?;
    } else {
        write_all(&args.out, &files)?;
    }
    if let Some(dir) = &args.pretrain {
        let mut pretrain = Files::new();
        let mut general = Vec::new();
        for subject in &subjects {
            let samples = splits.draw(subject.as_ref(), "general", args.general_samples)?;
            general.extend(samples);
        }
        Rng::named("general/order").shuffle(&mut general);
        pretrain.insert("general.jsonl".to_owned(), lines(&general)?);
        for subject in &subjects {
            let samples = splits.draw(subject.as_ref(), "pretrain", args.pretrain_samples)?;
            pretrain.insert(format!("{}.jsonl", subject.name()), lines(&samples)?);
        }
        write_all(dir, &pretrain)?;
    }
    Ok(())
}

fn train_tokenizers(
    train: &[Vec<Sample>],
    own: &[Vec<Sample>],
    more: &[Vec<Sample>],
) -> Result<[Model; 5]> {
    let mixture = |main: usize| {
        let parts: Vec<&[Sample]> = own
            .iter()
            .enumerate()
            .map(|(index, samples)| {
                if index == main {
                    &samples[..]
                } else {
                    &samples[..samples.len() / 4]
                }
            })
            .collect();
        texts(&parts)
    };
    let all: Vec<&[Sample]> = train.iter().map(Vec::as_slice).collect();
    let more: Vec<&[Sample]> = more.iter().map(Vec::as_slice).collect();
    Ok([
        Model {
            name: "pivot",
            shape: models::PIVOT,
            kind: "byte-level BPE, digits one by one",
            tokenizer: vocabularies::byte_level(&texts(&all), 1_024, Cut::Digits, "<|endoftext|>")?,
        },
        Model {
            name: "wide",
            shape: models::WIDE,
            kind: "byte-level BPE, names and numbers whole",
            tokenizer: vocabularies::byte_level(&texts(&more), 4_096, Cut::Words, "<|endoftext|>")?,
        },
        Model {
            name: "market",
            shape: models::MARKET,
            kind: "SentencePiece-style BPE, byte fallback",
            tokenizer: vocabularies::sentencepiece_bpe(&mixture(0), 1_536)?,
        },
        Model {
            name: "atlas",
            shape: models::ATLAS,
            kind: "unigram, byte fallback",
            tokenizer: vocabularies::unigram(&mixture(1), 2_048)?,
        },
        Model {
            name: "sql",
            shape: models::SQL,
            kind: "byte-level BPE, digits in threes",
            tokenizer: vocabularies::byte_level(
                &mixture(2),
                1_536,
                Cut::Threes,
                "<|begin_of_text|>",
            )?,
        },
    ])
}

/// Every text survives, and every sample is as short as the README says.
fn check_tokenizer<'a>(model: &Model, samples: impl Iterator<Item = &'a Sample>) -> Result<()> {
    let what = || format!("tokenizer of `{}`", model.name);
    for hostile in [
        "",
        "two  spaces ",
        "naïve café 北京 🙂🏽",
        "\ttab\r\n\n",
        "<0x41>",
    ] {
        model
            .tokenizer
            .check_round_trip(hostile)
            .with_context(what)?;
    }
    // `Metaspace` adds a space only where there is none, so a first space is lost; and a tokenizer
    // that marks spaces cannot tell `▁` from one.
    for (hostile, lossy) in [("  indented", "unigram"), ("▁", "byte fallback")] {
        if !model.kind.contains(lossy) {
            model
                .tokenizer
                .check_round_trip(hostile)
                .with_context(what)?;
        }
    }
    for sample in samples {
        model
            .tokenizer
            .check_round_trip(&sample.user)
            .with_context(what)?;
        model
            .tokenizer
            .check_round_trip(&sample.assistant)
            .with_context(what)?;
        let tokens = model.tokenizer.encode(&sample.user)?.len()
            + model.tokenizer.encode(&sample.assistant)?.len();
        ensure!(
            tokens + 16 <= LONGEST,
            "{}: {tokens} tokens in {sample:?}",
            what()
        );
    }
    Ok(())
}

fn check(out: &Path, files: &Files) -> Result<()> {
    let mut wrong = Vec::new();
    for (path, content) in files {
        let found = std::fs::read(out.join(path)).ok();
        if found.as_ref() != Some(content) {
            wrong.push(format!(
                "`{path}` {}",
                if found.is_some() {
                    "differs"
                } else {
                    "is missing"
                }
            ));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{}: {}; run again without `--check` to write them",
            out.display(),
            wrong.join(", ")
        );
    }
    say(&format!(
        "{}: {} files are up to date",
        out.display(),
        files.len()
    ))
}

fn write_all(out: &Path, files: &Files) -> Result<()> {
    for (path, content) in files {
        let path = out.join(path);
        let dir = path.parent().context("a path without a folder")?;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes: usize = files.values().map(Vec::len).sum();
    say(&format!(
        "{}: {} files, {bytes} bytes",
        out.display(),
        files.len()
    ))
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
