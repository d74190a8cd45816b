//! `fuselm project`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Artifact, Kind};
use fuselm::error::Result;
use fuselm::lora::locate;
use fuselm::progress::note;
use fuselm::project::{Project, ProjectOptions, is_warped};
use fuselm::vocab::{Tokenizer, Vocabularies};

use super::paths::RunArg;
use super::{WritingArgs, perform};

/// A source's distributions in the pivot's vocabulary.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm project --run runs/demo --teacher math --model models/math --pivot-model models/pivot"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the pivot in the run
    #[arg(long, default_value = "pivot")]
    pivot: String,
    /// Name of the source in the run
    #[arg(long)]
    teacher: String,
    /// Folder or hub id of the source
    #[arg(long)]
    model: String,
    /// Folder or hub id of the pivot
    #[arg(long)]
    pivot_model: String,
    /// The source's `topk` to read
    #[arg(long, value_name = "DIR")]
    topk: Option<PathBuf>,
    /// The pivot's `topk`, for `--short pivot`, and to compare with
    #[arg(long, value_name = "DIR")]
    pivot_topk: Option<PathBuf>,
    /// `alignment` to read
    #[arg(long, value_name = "DIR")]
    alignment: Option<PathBuf>,
    /// `token_map` to read
    #[arg(long, value_name = "DIR")]
    token_map: Option<PathBuf>,
    /// The pivot's `tokens` to read
    #[arg(long, value_name = "DIR")]
    pivot_tokens: Option<PathBuf>,
    /// The source's `tokens` to read
    #[arg(long, value_name = "DIR")]
    source_tokens: Option<PathBuf>,
    /// The pivot's `transcripts` to read
    #[arg(long, value_name = "DIR")]
    transcripts: Option<PathBuf>,
    /// `projected` to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: ProjectOptions,
    #[command(flatten)]
    writing: WritingArgs,
}

pub fn run(command: &Command) -> Result<()> {
    let source = Tokenizer::of_model(&locate(&command.model)?.base)?;
    let pivot = Tokenizer::of_model(&locate(&command.pivot_model)?.base)?;
    let at = &command.run;
    let (name, teacher) = (command.pivot.as_str(), command.teacher.as_str());
    let pivot_topk = at
        .artifact("pivot-topk", &command.pivot_topk, Kind::Topk, &[name])
        .ok()
        .filter(|dir| command.pivot_topk.is_some() || dir.is_dir());
    if pivot_topk.is_none() && command.options.short.is_none() {
        note(
            "the pivot's `topk` is not there: short readings stay with the token that they are (`--short first`)",
        );
    }
    let vocab = at.vocabulary(&source)?;
    let vocab = vocab.unwrap_or_else(|| teacher.to_owned());
    let tokens = |template: &str| {
        let given = &command.source_tokens;
        at.artifact("source-tokens", given, Kind::Tokens, &[&vocab, template])
    };
    let own = tokens(teacher)?;
    let of_teacher = |flag: &str, given: &Option<PathBuf>, kind: Kind| {
        at.artifact(flag, given, kind, &[teacher])
    };
    let alignment = of_teacher("alignment", &command.alignment, Kind::Alignment)?;
    let (ours, texts) = (&command.pivot_tokens, &command.transcripts);
    let project = Project {
        topk: of_teacher("topk", &command.topk, Kind::Topk)?,
        warped: is_warped(&Artifact::open(&alignment, Kind::Alignment)?),
        alignment,
        token_map: of_teacher("token-map", &command.token_map, Kind::TokenMap)?,
        pivot_tokens: at.artifact("pivot-tokens", ours, Kind::Tokens, &[name, name])?,
        source_tokens: if own.is_dir() { own } else { tokens(name)? },
        transcripts: at.artifact("transcripts", texts, Kind::Transcripts, &[name])?,
        vocabularies: Vocabularies::of(&source, &pivot),
        pivot_topk,
        out: of_teacher("out", &command.out, Kind::Projected)?,
        options: command.options.clone(),
    };
    perform(&project, teacher, command.writing.writing())?;
    if project.pivot_topk.is_some() {
        note(
            "`fuselm sql --name projection_quality` has the samples apart where the source is the \
             better model",
        );
    }
    Ok(())
}
