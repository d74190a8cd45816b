//! `fuselm extract-lora`.

use std::path::PathBuf;

use clap::Args;
use fuselm::error::Result;
use fuselm::lora::{ExtractOptions, Form, extract};
use fuselm::progress::note;

use super::print;

/// Write the difference of two checkpoints as a LoRA adapter.
///
/// The adapter is in PEFT's layout. For each module the share of the difference is printed that
/// the adapter misses; what it does not hold at all counts as missed.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm extract-lora models/base models/tuned adapter --rank 64"
)]
pub struct Command {
    /// Model folder that the adapter is for
    base: PathBuf,
    /// Model folder that base and adapter together come close to
    tuned: PathBuf,
    /// Folder to write
    out_dir: PathBuf,
    #[command(flatten)]
    options: ExtractOptions,
}

pub fn run(command: &Command) -> Result<()> {
    let Command {
        base,
        tuned,
        out_dir,
        options,
    } = command;
    let modules = extract(base, tuned, out_dir, options)?;
    let mut text = String::from("missed  norm of the difference  module\n");
    for module in &modules {
        let missed = 100.0 * module.error;
        let form = match module.form {
            Form::LowRank => "",
            Form::Whole => " (whole)",
            Form::Missing => " (not in the adapter)",
        };
        text += &format!(
            "{missed:5.1}%  {:22.4}  {}{form}\n",
            module.norm, module.module
        );
    }
    print(&text)?;
    let squares = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        let terms = modules.iter().map(|module| of(module.error, module.norm));
        terms.map(|value| value * value).sum::<f64>().sqrt()
    };
    let (missed, norm) = (
        squares(&|error, norm| error * norm),
        squares(&|_, norm| norm),
    );
    let share = if norm > 0.0 {
        100.0 * missed / norm
    } else {
        0.0
    };
    let count = |form| modules.iter().filter(|module| module.form == form).count();
    let (whole, missing) = (count(Form::Whole), count(Form::Missing));
    let mut more = String::new();
    if whole > 0 {
        more += &format!(", {whole} tensors whole");
    }
    if missing > 0 {
        more += &format!(", {missing} that differ are not in it");
    }
    note(format!(
        "{}: {} modules{more}, {share:.1} % of the difference missed",
        out_dir.display(),
        count(Form::LowRank)
    ));
    Ok(())
}
