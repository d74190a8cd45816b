//! The plan of a run as text: models, corpus, and what each step will do and write.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Plan, Status, Step, SubRun};
use crate::error::Result;
use crate::stage::{Item, Size};
use crate::units::{Bytes, Count};

/// About how many bytes of text make a token.
const TEXT_BYTES: u64 = 4;

/// What the results of the steps take on disk, as far as it is known before the work.
struct Sizes {
    /// Tokens of the corpus, about.
    tokens: u64,
    /// Bytes of each result, by its place.
    known: HashMap<PathBuf, u64>,
    /// Bytes that are still to be written.
    sum: u64,
}

impl Sizes {
    /// What a step has written.
    fn there(&mut self, step: &Step<'_>) -> Result<String> {
        let mut sum = 0;
        for item in step.stage.writes() {
            let bytes = item.bytes();
            self.known.insert(item.place()?, bytes);
            sum += bytes;
        }
        Ok(Bytes(sum).to_string())
    }

    /// What a step is going to write; empty where that is little, or not known.
    fn ahead(&mut self, step: &Step<'_>) -> Result<String> {
        let bytes = match step.stage.size() {
            Size::Small => return Ok(String::new()),
            Size::PerToken(bytes) => bytes * self.tokens,
            Size::Bytes(bytes) => bytes,
            Size::Like(item) => match self.known.get(&item.place()?) {
                Some(bytes) => *bytes,
                None => item.bytes(),
            },
        };
        if let Some(first) = step.stage.writes().first() {
            self.known.insert(first.place()?, bytes);
        }
        self.sum += bytes;
        Ok(match bytes {
            0 => String::new(),
            _ => format!("about {}", Bytes(bytes)),
        })
    }
}

impl Plan<'_> {
    /// Models, sizes and steps as text. `only` leaves out the other steps and those of other stages.
    pub fn describe(&self, only: Option<&str>) -> Result<String> {
        let base = self.base();
        let mut text = format!("run {}\n\nmodels\n", base.run.dir.root().display());
        let models = &base.run.models;
        let names = models.iter().map(|model| model.name().len());
        let width = names.max().unwrap_or(0);
        for (index, model) in models.iter().enumerate() {
            let _ = writeln!(
                text,
                "  {:width$}  {:<6}  {:<8}  {:>13} parameters  {:>10} on disk  {:>8} ids ({})",
                model.name(),
                if index == 0 { "pivot" } else { "source" },
                model.outline.architecture,
                Count(model.outline.parameters),
                Bytes(Item::model(model.path()).bytes()).to_string(),
                Count(model.tokenizer.vocabulary().len() as u64),
                if model.vocab == model.name() {
                    "own"
                } else {
                    &model.vocab
                },
            );
        }
        let inputs = &self.recipe().corpus.inputs;
        let sizes = inputs.iter().map(|path| Item::File(path.clone()).bytes());
        let text_bytes: u64 = sizes.sum();
        let tokens = text_bytes / TEXT_BYTES;
        let _ = writeln!(
            text,
            "\ncorpus\n  {} files, {}, about {} tokens\n\nsteps",
            inputs.len(),
            Bytes(text_bytes),
            Count(tokens),
        );
        let mut ahead = false;
        let mut sizes = Sizes {
            tokens,
            known: HashMap::new(),
            sum: 0,
        };
        for sub in &self.runs {
            ahead |= self.describe_steps(sub, only, &mut sizes, &mut text)?;
        }
        if sizes.sum > 0 {
            let _ = writeln!(text, "\nto be written: about {}", Bytes(sizes.sum));
        }
        if !ahead {
            text += "\nnothing to do\n";
        }
        Ok(text)
    }

    /// Appends the steps of a run; of a variant, only those that it does not share. Returns
    /// whether anything is to be done.
    fn describe_steps(
        &self,
        sub: &SubRun<'_>,
        only: Option<&str>,
        sizes: &mut Sizes,
        text: &mut String,
    ) -> Result<bool> {
        let stages = sub.run.dir.stages();
        let wanted = |step: &Step<'_>| only.is_none_or(|only| step.is_called(only));
        let shown: Vec<&Step<'_>> = sub
            .steps
            .iter()
            .zip(&sub.shared)
            .filter(|(step, shared)| !**shared && wanted(step))
            .map(|(step, _)| step)
            .collect();
        if !sub.name.is_empty() {
            let shared = sub.steps.iter().filter(|step| wanted(step)).count() - shown.len();
            let _ = writeln!(text, "\n{}, {shared} steps shared", sub.title());
        }
        let mut ahead = false;
        let mut lines = Vec::new();
        // What steps that are to be done will write; what reads it may have to be done as well.
        let mut changing: HashSet<PathBuf> = HashSet::new();
        let places = |items: &[Item]| items.iter().map(Item::place).collect::<Result<Vec<_>>>();
        for step in shown {
            let status = step.status(&stages)?;
            let mut inputs = places(&step.inputs()?)?.into_iter();
            let follows = inputs.any(|input| changing.contains(&input));
            let word = match status {
                Status::UpToDate if follows => "again, if the above changes",
                Status::UpToDate => "up to date",
                Status::Ready => "to do",
                Status::Waiting => "to do, after the above",
            };
            if follows || status != Status::UpToDate {
                ahead = true;
                changing.extend(places(&step.stage.writes())?);
            }
            let size = match status {
                Status::UpToDate => sizes.there(step)?,
                _ => sizes.ahead(step)?,
            };
            lines.push((step.name(), word, size));
        }
        let width = |of: fn(&(String, &str, String)) -> usize| lines.iter().map(of).max();
        let (names, words) = (width(|line| line.0.len()), width(|line| line.1.len()));
        let (names, words) = (names.unwrap_or(0), words.unwrap_or(0));
        for (name, word, size) in &lines {
            let line = format!("  {name:names$}  {word:words$}  {size}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        Ok(ahead)
    }
}
