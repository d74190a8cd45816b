//! `fuselm train`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Kind, RunDir, check_name};
use fuselm::checkpoint::has_weights;
use fuselm::error::{Error, Result};
use fuselm::lora;
use fuselm::model::{self, Config};
use fuselm::progress::note;
use fuselm::train::{Init, Train, TrainOptions};

use super::paths::RunArg;
use super::{Force, Global, perform};

/// Train the pivot on text and targets.
///
/// A folder without weights is trained from scratch, in the shape of its config.json. An
/// interrupted training continues where its last state was saved.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm train --run runs/demo --model models/pivot --fusion math"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Folder or hub id of the model to start from
    #[arg(long)]
    model: String,
    /// Name of the pivot in the run
    #[arg(long, default_value = "pivot")]
    pivot: String,
    /// Name of the targets in the run; without it, the text alone is learnt
    #[arg(long)]
    fusion: Option<String>,
    /// Name of the result [default: target-FUSION, or clm]
    #[arg(long)]
    name: Option<String>,
    /// `tokens` to read
    #[arg(long, value_name = "DIR")]
    tokens: Option<PathBuf>,
    /// `targets` to read
    #[arg(long, value_name = "DIR")]
    targets: Option<PathBuf>,
    /// `tokens` whose loss is logged after each epoch
    #[arg(long, value_name = "DIR")]
    valid_tokens: Option<PathBuf>,
    /// Model folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// `steps` to write
    #[arg(long, value_name = "DIR")]
    steps: Option<PathBuf>,
    #[command(flatten)]
    options: TrainOptions,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    let at = &command.run;
    let name = match (&command.name, &command.fusion) {
        (Some(name), _) => name.clone(),
        (None, Some(fusion)) => format!("target-{fusion}"),
        (None, None) => "clm".to_owned(),
    };
    check_name("name", &name)?;
    let dir = lora::locate(&command.model)?.plain("the model to train")?;
    let has_weights = has_weights(&dir);
    let pivot = match has_weights {
        true => Init::Model(dir),
        false => {
            note(format!(
                "{} has no weights: training from scratch",
                dir.display()
            ));
            Init::Random {
                config: Config::load(&dir)?.raw,
                tokenizer: dir,
            }
        }
    };
    let targets = match (&command.targets, &command.fusion) {
        (None, None) => None,
        (given, fusion) => {
            let fusion = fusion.clone().unwrap_or_default();
            Some(at.artifact("targets", given, Kind::Targets, &[&fusion])?)
        }
    };
    let out = match (&command.out, &at.run) {
        (Some(out), _) => out.clone(),
        (None, Some(run)) => RunDir::new(run).checkpoint(&name),
        (None, None) => {
            return Err(Error::usage("no folder for the model")
                .remedy("give `--out DIR` or a run folder with `--run DIR`"));
        }
    };
    let vocab = command.pivot.as_str();
    let train = Train {
        pivot,
        tokens: at.artifact("tokens", &command.tokens, Kind::Tokens, &[vocab, vocab])?,
        targets,
        valid_tokens: command.valid_tokens.clone(),
        out,
        steps_out: at.artifact("steps", &command.steps, Kind::Steps, &[&name])?,
        name: name.clone(),
        device: model::device(&global.device)?,
        options: command.options.clone(),
    };
    let subject = format!("{}", train.out.display());
    perform(&train, &subject, command.force.existing())
}
