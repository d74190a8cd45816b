//! `fuselm align`.

use std::path::PathBuf;

use clap::Args;
use fuselm::align::{Align, AlignOptions, Spans};
use fuselm::artifact::Kind;
use fuselm::error::Result;

use super::paths::RunArg;
use super::{WritingArgs, perform};

/// Which source tokens correspond to each pivot token.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm align --run runs/demo --pivot pivot --teacher math")]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the pivot
    #[arg(long, default_value = "pivot")]
    pivot: String,
    /// Name of the source; its vocabulary has the same name
    #[arg(long)]
    teacher: String,
    /// Template of the source's transcripts [default: the pivot's, unless the run has tokens of
    /// the source's own]
    #[arg(long)]
    template: Option<String>,
    /// The pivot's `tokens` to read
    #[arg(long, value_name = "DIR")]
    pivot_tokens: Option<PathBuf>,
    /// The source's `tokens` to read
    #[arg(long, value_name = "DIR")]
    source_tokens: Option<PathBuf>,
    /// The pivot's `vocab` to read (spans dtw)
    #[arg(long, value_name = "DIR")]
    pivot_vocab: Option<PathBuf>,
    /// The source's `vocab` to read (spans dtw)
    #[arg(long, value_name = "DIR")]
    source_vocab: Option<PathBuf>,
    /// The pivot's `transcripts` to read (where each model has a template of its own)
    #[arg(long, value_name = "DIR")]
    pivot_transcripts: Option<PathBuf>,
    /// The source's `transcripts` to read (where each model has a template of its own)
    #[arg(long, value_name = "DIR")]
    source_transcripts: Option<PathBuf>,
    /// `alignment` to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: AlignOptions,
    #[command(flatten)]
    writing: WritingArgs,
}

pub fn run(command: &Command) -> Result<()> {
    let at = &command.run;
    let (pivot, teacher) = (command.pivot.as_str(), command.teacher.as_str());
    let tokens = |template: &str| {
        let given = &command.source_tokens;
        at.artifact("source-tokens", given, Kind::Tokens, &[teacher, template])
    };
    let own = tokens(teacher)?;
    let template = match &command.template {
        Some(template) => template.as_str(),
        None if own.is_dir() => teacher,
        None => pivot,
    };
    let given = &command.pivot_tokens;
    let mut align = Align {
        pivot_tokens: at.artifact("pivot-tokens", given, Kind::Tokens, &[pivot, pivot])?,
        source_tokens: tokens(template)?,
        vocabs: None,
        transcripts: None,
        out: at.artifact("out", &command.out, Kind::Alignment, &[teacher])?,
        options: command.options.clone(),
    };
    if command.options.spans == Spans::Dtw {
        let (ours, theirs) = (&command.pivot_vocab, &command.source_vocab);
        align.vocabs = Some((
            at.artifact("pivot-vocab", ours, Kind::Vocab, &[pivot])?,
            at.artifact("source-vocab", theirs, Kind::Vocab, &[teacher])?,
        ));
    }
    if !align.share_transcripts()? {
        let (ours, theirs) = (&command.pivot_transcripts, &command.source_transcripts);
        let kind = Kind::Transcripts;
        let ours = at.artifact("pivot-transcripts", ours, kind, &[pivot]);
        let theirs = at.artifact("source-transcripts", theirs, kind, &[template]);
        align.transcripts = ours.ok().zip(theirs.ok());
    }
    perform(&align, teacher, command.writing.writing())
}
