//! `fuselm fuse`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Kind, RunDir, check_name};
use fuselm::error::Result;
use fuselm::fuse::{Fuse, FuseOptions, Member};

use super::{WritingArgs, perform};

/// Distributions of several models into training targets.
///
/// Each member's `projected` distributions are used, or its `topk` where it shares the pivot's
/// vocabulary and nothing was projected.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm fuse --run runs/demo --member pivot --member math --name math"
)]
pub struct Command {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// A model whose distributions are fused; the pivot first
    #[arg(long = "member", required = true, value_name = "NAME")]
    members: Vec<String>,
    /// Name of the result [default: the last member, or `joint`]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    options: FuseOptions,
    #[command(flatten)]
    writing: WritingArgs,
}

pub fn run(command: &Command) -> Result<()> {
    let dir = RunDir::new(&command.run);
    let mut members = Vec::new();
    for name in &command.members {
        check_name("member", name)?;
        let projected = dir.artifact(Kind::Projected, &[name]);
        let (kind, distributions) = match projected.is_dir() {
            true => (Kind::Projected, projected),
            false => (Kind::Topk, dir.artifact(Kind::Topk, &[name])),
        };
        members.push(Member {
            name: name.clone(),
            distributions,
            kind,
            metrics: dir.artifact(Kind::SequenceMetrics, &[name]),
        });
    }
    let name = match (&command.name, command.members.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [_, only]) => only.clone(),
        (None, _) => "joint".to_owned(),
    };
    check_name("name", &name)?;
    let fuse = Fuse {
        members,
        out: dir.artifact(Kind::Targets, &[&name]),
        options: command.options.clone(),
    };
    perform(&fuse, &name, command.writing.writing())
}
