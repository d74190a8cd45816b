//! Where the inputs and outputs of a single command lie: in a run folder, unless a path is given.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::models::{self, ModelRow};
use fuselm::artifact::{Artifact, Kind, RunDir};
use fuselm::checkpoint::has_weights;
use fuselm::error::{Error, Result};
use fuselm::lora::ModelPath;
use fuselm::model::Outline;
use fuselm::vocab::Tokenizer;

/// The run that a command works in.
#[derive(Args)]
pub struct RunArg {
    /// Run folder; paths that are not given lie in it
    #[arg(long = "run", value_name = "DIR")]
    pub run: Option<PathBuf>,
}

impl RunArg {
    /// `given`, or the artifact of `kind` with these partition values in the run folder.
    pub fn artifact(
        &self,
        flag: &str,
        given: &Option<PathBuf>,
        kind: Kind,
        values: &[&str],
    ) -> Result<PathBuf> {
        match (given, &self.run) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(run)) => Ok(RunDir::new(run).artifact(kind, values)),
            (None, None) => Err(Error::usage(format!("no `{kind}` folder")).remedy(format!(
                "give `--{flag} DIR` or a run folder with `--run DIR`"
            ))),
        }
    }

    /// The only name under which the run has an artifact of `kind`, or the one given.
    pub fn only(&self, flag: &str, given: &Option<String>, kind: Kind) -> Result<String> {
        if let Some(name) = given {
            return Ok(name.clone());
        }
        let Some(run) = &self.run else {
            return Err(Error::usage(format!("no `--{flag}`")));
        };
        let names = RunDir::new(run).list(kind)?;
        match names.as_slice() {
            [only] => Ok(only.last().cloned().unwrap_or_default()),
            [] => Err(Error::file(run, format!("has no `{kind}` yet"))),
            many => {
                let known: Vec<&str> = many
                    .iter()
                    .filter_map(|v| v.last())
                    .map(String::as_str)
                    .collect();
                Err(Error::usage(format!(
                    "the run has several `{kind}`: {}",
                    known.join(", ")
                ))
                .remedy(format!("choose one with `--{flag}`")))
            }
        }
    }

    /// Name of the vocabulary of the run that `tokenizer` has.
    pub fn vocabulary(&self, tokenizer: &Tokenizer) -> Result<Option<String>> {
        let Some(run) = &self.run else {
            return Ok(None);
        };
        let run = RunDir::new(run);
        for values in run.list(Kind::Vocab)? {
            let Some(name) = values.last() else { continue };
            let vocab = Artifact::open(&run.artifact(Kind::Vocab, &[name]), Kind::Vocab)?;
            if vocab
                .check_vocabulary(&tokenizer.vocabulary().digest)
                .is_ok()
            {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Notes in `models` who `name` is, if there is a run, as `fuselm run` does.
    pub fn register(&self, name: &str, vocabulary: &str, model: &ModelPath) -> Result<()> {
        let Some(run) = &self.run else {
            return Ok(());
        };
        let run = RunDir::new(run);
        // Where no corpus has noted the pivot, it is the one whose template all models read.
        let is_pivot = run.list(Kind::Transcripts)? == [[name]];
        let row = model_row(name, is_pivot, vocabulary, model)?;
        models::register(&run.artifact(Kind::Models, &[]), vec![row], None)
    }
}

/// The row of a model, or of a folder that holds only its tokenizer.
pub fn model_row(
    name: &str,
    is_pivot: bool,
    vocabulary: &str,
    model: &ModelPath,
) -> Result<ModelRow> {
    let outline = Outline::of(&model.base).ok();
    let digest = match has_weights(&model.base) {
        true => model.digest()?,
        false => String::new(),
    };
    Ok(ModelRow {
        name: name.to_owned(),
        is_pivot,
        vocabulary: vocabulary.to_owned(),
        location: model.to_string(),
        digest,
        parameters: outline.as_ref().map_or(0, |outline| outline.parameters),
        architecture: outline.map_or_else(String::new, |outline| outline.architecture),
    })
}
