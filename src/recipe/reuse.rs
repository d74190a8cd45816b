//! The distributions of another run in the place of scoring.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::models::Model;
use super::schema::Reused;
use super::share;
use crate::artifact::{Artifact, Kind, RunDir, Writing};
use crate::error::{Error, Result};
use crate::stage::{Item, Reads, Size, Stage};
use crate::units::Count;

/// The kinds of artifact that scoring makes.
const SCORED: [Kind; 2] = [Kind::Topk, Kind::SequenceMetrics];

/// A stage like `score` that takes what another run has made.
pub struct Reuse<'a> {
    /// The model.
    pub model: &'a Model,
    /// The other run.
    pub reused: &'a Reused,
    /// The `tokens` that must have been scored.
    pub tokens: PathBuf,
    /// The `transcripts` that they were made from.
    pub transcripts: PathBuf,
    /// Folder of the `topk` to write.
    pub topk: PathBuf,
    /// Folder of the `sequence_metrics` to write.
    pub sequence_metrics: PathBuf,
}

impl Reuse<'_> {
    fn out(&self, kind: Kind) -> &Path {
        match kind {
            Kind::SequenceMetrics => &self.sequence_metrics,
            _ => &self.topk,
        }
    }

    /// Fails unless an artifact of the other run was made from this run's `what`.
    fn check_made_from(&self, artifact: &Artifact, what: &str, ours: &Item) -> Result<()> {
        if artifact.provenance().inputs.get(what) == ours.identity()?.as_ref() {
            return Ok(());
        }
        Err(Error::file(
            artifact.dir(),
            format!(
                "was scored on other {what} than this run's `{}`",
                ours.path().display()
            ),
        )
        .remedy(
            "inputs, template, tokenizer, `max_tokens` and `part_samples` of both runs must be the \
             same; or leave out `topk` to score the model here",
        ))
    }
}

impl Stage for Reuse<'_> {
    fn name(&self) -> &'static str {
        "score"
    }

    fn reads(&self) -> Result<Reads> {
        let mut reads = Reads::new()
            .input("tokens", Item::artifact(Kind::Tokens, &self.tokens))
            .input(
                "transcripts",
                Item::artifact(Kind::Transcripts, &self.transcripts),
            );
        for kind in SCORED {
            let theirs = Item::artifact(kind, donor(self.model, self.reused, kind));
            reads = reads.input(kind.name(), theirs);
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        SCORED
            .map(|kind| Item::artifact(kind, self.out(kind)))
            .to_vec()
    }

    fn changing(&self, _: Kind) -> Value {
        "reused".into()
    }

    fn size(&self) -> Size {
        Size::Like(Item::artifact(
            Kind::Topk,
            donor(self.model, self.reused, Kind::Topk),
        ))
    }

    fn run(&self, _: Writing) -> Result<String> {
        let ours = [
            ("tokens", Item::artifact(Kind::Tokens, &self.tokens)),
            (
                "transcripts",
                Item::artifact(Kind::Transcripts, &self.transcripts),
            ),
        ];
        let mut rows = 0;
        for kind in SCORED {
            let artifact = check_reused(self.model, self.reused, kind)?;
            for (what, item) in &ours {
                self.check_made_from(&artifact, what, item)?;
            }
            share::artifact(artifact.dir(), self.out(kind))?;
            rows = rows.max(artifact.rows());
        }
        Ok(format!(
            "{} distributions of {}",
            Count(rows),
            self.reused.from.display()
        ))
    }
}

/// Where the reused artifacts of a kind lie in the other run.
fn donor(model: &Model, reused: &Reused, kind: Kind) -> PathBuf {
    let name = reused.name.as_deref().unwrap_or(model.name());
    RunDir::new(&reused.from).artifact(kind, &[name])
}

/// Opens the artifact of a kind that a model reuses, if it is of this model and vocabulary.
///
/// # Errors
/// It is not there, or of another model or vocabulary.
pub fn check_reused(model: &Model, reused: &Reused, kind: Kind) -> Result<Artifact> {
    let dir = donor(model, reused, kind);
    let artifact = Artifact::open(&dir, kind).map_err(|error| match error {
        Error::Input {
            subject, problem, ..
        } => Error::input(subject, problem).remedy(format!(
            "`topk` of source `{}` names the run folder `{}`",
            model.name(),
            reused.from.display()
        )),
        other => other,
    })?;
    artifact.check_vocabulary(&model.tokenizer.vocabulary().digest)?;
    if model.has_weights {
        let expected = model.path().digest()?;
        let found = artifact.provenance().model.as_deref().unwrap_or("unknown");
        if found != expected {
            return Err(Error::file(
                &dir,
                format!(
                    "holds the distributions of model `{found}`, `{}` is `{expected}`",
                    model.path()
                ),
            )
            .remedy(format!(
                "leave out `topk` of `{}` to score the model here",
                model.name()
            )));
        }
    }
    Ok(artifact)
}
