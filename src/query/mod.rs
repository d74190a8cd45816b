//! SQL over the artifacts of a run.
//!
//! A [`Session`] sees every artifact kind as a table (empty where the run has none yet), with
//! the partition values of its folders as columns, and the views of `sql/views`. Questions that
//! users ask lie in `sql/queries`, what must never be true in `sql/checks`, and statements whose
//! result is itself an artifact in `sql/transforms`. The files are part of the binary;
//! `sql/README.md` is generated from their headers.
//!
//! | file | holds |
//! |---|---|
//! | `catalogue` | the files of `sql/`, their headers, replacements from a folder |
//! | `session` | tables and views of a run, statements and parameters |
//! | `functions` | what decodes lists, where SQL alone would take too long |
//! | `width` | how many rows a statement works on at a time |
//! | `division` | `/` between whole numbers |
//! | `permit` | which statements are run: those that only read |
//! | `stream` | batches as they come, interruptible |
//! | `format` | results as a table, CSV, JSON or Parquet |
//! | `check` | all data checks of a run |
//! | `files` | whether the files of a run are all there, and what was written |
//! | `inspect` | what a path is: an artifact, a checkpoint, an adapter, a run folder |
//! | `status` | where a run stands, and who is at work |
//! | `transform` | statements whose result is an artifact |
//! | `variants` | the results of a run's variants beside its own |
//! | `repl`, `statements`, `complete` | the interactive prompt, where statements end, what Tab offers |
//! | `setup` | the tables and views for other programs |

mod catalogue;
mod check;
mod complete;
mod depth;
mod division;
mod files;
mod format;
mod functions;
mod inspect;
mod permit;
mod repl;
mod session;
mod setup;
mod statements;
mod status;
mod stream;
mod transform;
mod variants;
mod width;

pub use catalogue::{Catalogue, Group, Param, Script, catalogue_markdown};
pub use check::{Finding, Level, check_run, run_checks};
pub use files::RunFiles;
pub use format::{Format, print, save_parquet};
pub use inspect::{
    ArtifactReport, CheckpointReport, Inspection, Origin, PartReport, RunReport, inspect,
};
pub use repl::repl;
pub use session::{Params, Session, SessionOptions};
pub use setup::{Engine, setup};
pub use status::{ArtifactStatus, CheckpointStatus, Making, RunStatus};
pub use stream::Batches;
pub use transform::transform_token_map;

#[cfg(test)]
mod tests;
