//! Whether a GPU computes what the CPU computes, and how fast. `benches/gpu_check.sh` runs it.
//!
//! ```text
//! gpu_check tests [DEVICE] [FAMILY]  CPU and GPU agree; exit code 1 where they do not
//! gpu_check speed [DEVICE] [FILE]    one table; FILE has the figures of gpu_check.py
//! gpu_check models                   the models of the table, for gpu_check.py
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod agree;
mod families;
mod speed;

use std::process::ExitCode;

use fuselm::error::Result;
use fuselm::model;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |place: usize| args.get(place).map(String::as_str);
    let on = word(1).unwrap_or("cuda:0");
    let done = match word(0) {
        Some("tests") => model::device(on).and_then(|device| agree::run(&device, word(2))),
        Some("speed") => model::device(on).and_then(|device| speed::run(&device, word(2))),
        Some("models") => speed::list(),
        _ => {
            eprintln!("usage: gpu_check tests|speed|models [DEVICE] [FILE]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A file of the model crate is named in errors; there is none here.
const NO_FILE: &str = "config.json";

fn config(fields: serde_json::Value) -> Result<model::Config> {
    let fields = fields.as_object().unwrap().clone();
    model::Config::from_json(fields, std::path::Path::new(NO_FILE))
}
