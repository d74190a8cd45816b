//! `fuselm run`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fuselm::artifact::RunDir;
use fuselm::error::{Error, Result};
use fuselm::files::digest;
use fuselm::model;
use fuselm::progress::note;
use fuselm::recipe::{self, Recipe, Selection};
use fuselm::units::{Bytes, Elapsed};

use super::{Global, ShardArg, print};

/// Run all stages of a recipe; skips what is up to date.
///
/// Prints the plan first. Interrupted at any moment, what is complete is kept, and the same
/// command continues.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm run data-samples/quickstart.yml --run-dir runs/demo")]
pub struct Command {
    /// The recipe (YAML)
    recipe: PathBuf,
    /// Run folder [default: the recipe's `run`]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Set a key of the recipe: `train.lr=1e-4`, `sources[0].dtype=bf16`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// First read all that is there and compare it with what was written, and compute the digests of
    /// inputs anew
    #[arg(long)]
    verify: bool,
    /// Only the steps of this stage, or one step: `score`, "score math"
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
    #[command(flatten)]
    shard: ShardArg,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    let recipe = Recipe::load_with(&command.recipe, &command.settings)?;
    let dir = command
        .run_dir
        .clone()
        .or_else(|| recipe.run.clone())
        .ok_or_else(|| {
            Error::usage(format!(
                "{} names no `run` folder",
                command.recipe.display()
            ))
            .remedy("give one with `--run-dir`")
        })?;
    if command.verify {
        digest::recompute();
    }
    let models = recipe::open_models(&recipe)?;
    let device = model::device(&global.device)?;
    let plan = recipe::plan(recipe, &models, RunDir::new(dir), device)?;
    let only = command.only.as_deref();
    if command.verify {
        let started = Instant::now();
        let bytes = plan.verify()?;
        note(format!(
            "{} as written, verified in {}",
            Bytes(bytes),
            Elapsed(started.elapsed())
        ));
    }
    if command.dry_run {
        return print(&plan.describe(only)?);
    }
    note(plan.describe(only)?);
    let summary = plan.run(&Selection {
        only: command.only.clone(),
        shard: command.shard.shard(),
    })?;
    note(format!(
        "\n{} steps done, {} up to date, {}{}",
        summary.done,
        summary.skipped,
        match summary.shared {
            0 => String::new(),
            shared => format!("{shared} shared, "),
        },
        Elapsed(std::time::Duration::from_secs_f64(summary.seconds))
    ));
    if only.is_none() {
        print(&recipe::scoreboard(plan.dir())?)?;
        if plan.has_variants() {
            print(&recipe::comparison(plan.dir())?)?;
        }
    }
    Ok(())
}
