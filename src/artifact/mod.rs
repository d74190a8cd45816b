//! Artifacts: checked Parquet data sets in a run folder, the interface between stages.
//!
//! An artifact is a folder of parts, `part-00000.parquet` and so on. Part *n* of every
//! per-sample artifact of a run holds the same samples, a contiguous range of `sample_id`, so
//! that stages stream part by part and a part is the unit of resume. A part is written beside
//! its final name and renamed: a reader sees whole files or none.
//!
//! ```text
//! part-00000.parquet   footer key `fuselm`: one JSON object
//!                      { provenance: { kind, format, tool, identity, vocabulary, model,
//!                                      options, inputs },
//!                        part: { index, first_sample, samples, last } }
//!                      footer key `fuselm.rows`: digest of the rows
//! _part-00000.json     the part's length, digest, and the digest of its footer
//! ```
//!
//! The *identity* of an artifact is the digest of everything that determines its rows: its
//! kind, format version, options, and the contents of its inputs. Equal identities mean equal rows,
//! so a stage whose output has the identity that it would write has nothing to do. Threads, devices
//! and paths are not part of it. Its *content* is the digest of the rows themselves, whatever they
//! were made from: what is made from equal rows is equal.
//!
//! Everything is plain Parquet with names that explain themselves; [`Kind::stored_schema`] is
//! the specification, column by column. Logarithms are natural throughout.
//!
//! | file | holds |
//! |---|---|
//! | `kind` | the artifact kinds and their columns |
//! | `encoding` | the compact columns of distributions, and the expressions that undo them |
//! | `provenance` | what an artifact was made from, its identity |
//! | `writer`, `reader` | parts on disk |
//! | `seal` | what was written of a part, beside it |
//! | `folder` | which files belong to an artifact |
//! | `columns` | single columns of a part: whether rows are in order, which text is no UTF-8 |
//! | `parts` | working through parts on several threads and in several processes |
//! | `writing` | which parts a process makes, and what becomes of those of another result |
//! | `rows` | streaming rows sample by sample, typed columns |
//! | `tokens`, `distribution`, `sequence_metrics`, `targets`, `alignment`, `token_map` | typed rows of the artifacts that several stages share |
//! | `run_dir` | where an artifact lies in a run folder |

pub mod alignment;
mod columns;
pub mod distribution;
pub mod encoding;
mod folder;
mod kind;
pub mod models;
pub mod parts;
mod provenance;
mod reader;
pub mod rows;
mod run_dir;
mod seal;
pub mod sequence_metrics;
pub mod targets;
pub mod token_map;
pub mod tokens;
mod writer;
mod writing;

pub use folder::{check_files, is_part, is_seal};
pub use kind::Kind;
pub use provenance::{PartInfo, Provenance};
pub use reader::{Artifact, Part};
pub use run_dir::{OWNER, RunDir, StageRecord, check_name};
pub use writer::{PartWriter, Writer};
pub use writing::{Existing, Shard, Writing};

#[cfg(test)]
mod tests;
