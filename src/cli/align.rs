//! `fuselm align`.

use std::path::PathBuf;

use clap::Args;
use fuselm::align::{AlignInputs, AlignOptions, Spans, run as align};
use fuselm::artifact::Kind;
use fuselm::error::Result;
use fuselm::progress::{note, warn};
use fuselm::units::Count;
use fuselm::vocab::Vocabulary;

use super::Force;
use super::paths::RunArg;

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
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let at = &command.run;
    let (pivot, teacher) = (command.pivot.as_str(), command.teacher.as_str());
    let tokens = |template: &str| {
        at.artifact(
            "source-tokens",
            &command.source_tokens,
            Kind::Tokens,
            &[teacher, template],
        )
    };
    let own = tokens(teacher)?;
    let template = match &command.template {
        Some(template) => template.as_str(),
        None if own.is_dir() => teacher,
        None => pivot,
    };
    let transcripts = (
        at.artifact(
            "pivot-transcripts",
            &command.pivot_transcripts,
            Kind::Transcripts,
            &[pivot],
        ),
        at.artifact(
            "source-transcripts",
            &command.source_transcripts,
            Kind::Transcripts,
            &[template],
        ),
    );
    let vocabularies = match command.options.spans {
        Spans::Offsets => None,
        Spans::Dtw => Some((
            vocabulary(at, "pivot-vocab", &command.pivot_vocab, pivot)?,
            vocabulary(at, "source-vocab", &command.source_vocab, teacher)?,
        )),
    };
    let summary = align(
        &AlignInputs {
            pivot_tokens: &at.artifact(
                "pivot-tokens",
                &command.pivot_tokens,
                Kind::Tokens,
                &[pivot, pivot],
            )?,
            source_tokens: &tokens(template)?,
            vocabularies: vocabularies.as_ref().map(|(ours, theirs)| (ours, theirs)),
            transcripts: match &transcripts {
                (Ok(ours), Ok(theirs)) => Some((ours, theirs)),
                _ => None,
            },
        },
        &at.artifact("out", &command.out, Kind::Alignment, &[teacher])?,
        &command.options,
        command.force.existing(),
    )?;
    if summary.unmatched > 0 {
        warn(format!(
            "{} messages of the pivot's transcripts are not in the source's",
            Count(summary.unmatched)
        ));
    }
    note(format!(
        "{} pivot tokens, {} of them end with a source token",
        Count(summary.pivot_tokens),
        Count(summary.same_end)
    ));
    Ok(())
}

fn vocabulary(at: &RunArg, flag: &str, given: &Option<PathBuf>, name: &str) -> Result<Vocabulary> {
    Vocabulary::read(&at.artifact(flag, given, Kind::Vocab, &[name])?)
}
