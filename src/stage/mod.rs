//! What every stage is: a value that says what it reads, what it writes and which of its options
//! change that, and that can do it.
//!
//! Everything else follows from this one declaration: the provenance in the footers of what is
//! written, whether a step of a recipe is up to date, what steps depend on each other, which
//! variants share a result. A command and a step of a recipe make the same value, each in its own way.
//!
//! ```text
//! command line ──┐                     ┌─► provenance ─► footers, Writer (resume, --force)
//!                ├──► a `Stage` value ─┼─► fingerprint ─► up to date, shared between variants
//! recipe ────────┘                     └─► run ─► rows, and one sentence for the user
//! ```

mod exclusive;
mod item;
mod reads;

use std::path::Path;

use serde_json::Value;

pub use exclusive::Exclusive;
pub use item::Item;
pub use reads::{Reads, Source};

use crate::artifact::{Kind, Provenance, Writer, Writing};
use crate::error::Result;
use crate::files::digest;

/// What a stage says that has found everything done.
pub const UP_TO_DATE: &str = "up to date";

/// A stage with its inputs, outputs and options.
pub trait Stage {
    /// Its name, as its command is called.
    fn name(&self) -> &'static str;

    /// What determines the result besides options: what is read, by the names under which
    /// provenance has it.
    ///
    /// # Errors
    /// An input that says what else is read, and cannot be opened.
    fn reads(&self) -> Result<Reads>;

    /// What is written.
    fn writes(&self) -> Vec<Item>;

    /// The options that change what is written as `kind`; those that are not in use are left out.
    fn changing(&self, kind: Kind) -> Value;

    /// About how much its first result will take on disk.
    fn size(&self) -> Size {
        Size::Small
    }

    /// Whether each of its parts can be made alone, by any process: only then it is run in shards.
    fn is_by_part(&self) -> bool {
        false
    }

    /// Does it, part by part: what is there and complete is kept. Returns a sentence for the user.
    ///
    /// # Errors
    /// Those of the stage; parts of another result that are not to be replaced.
    fn run(&self, writing: Writing) -> Result<String>;
}

/// About how much a result takes on disk, as a plan says it before the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// Not worth telling.
    Small,
    /// Bytes for each token of the corpus.
    PerToken(u64),
    /// As much as something that is read.
    Like(Item),
    /// So many bytes.
    Bytes(u64),
}

/// What is written as `kind` is made from.
///
/// # Errors
/// An input is not there, or not whole.
pub fn provenance(stage: &(impl Stage + ?Sized), kind: Kind) -> Result<Provenance> {
    let made = Provenance::new(kind).options(stage.changing(kind));
    stage.reads()?.add_to(made)
}

/// A writer for what `stage` writes as `kind` into `dir`.
///
/// # Errors
/// Those of [`provenance`] and [`Writer::create`].
pub fn writer(
    stage: &(impl Stage + ?Sized),
    kind: Kind,
    dir: &Path,
    writing: impl Into<Writing>,
) -> Result<Writer> {
    Writer::create(dir, provenance(stage, kind)?, writing)
}

/// Digest of everything that determines the result, wherever its inputs lie; `None` while one is
/// missing. `identity` says what an input is: before it is there, what will make it.
///
/// # Errors
/// Those of `identity`.
pub fn key(
    stage: &dyn Stage,
    identity: &dyn Fn(&Item) -> Result<Option<String>>,
) -> Result<Option<String>> {
    let reads = stage.reads()?;
    let Some(inputs) = reads.identities(identity)? else {
        return Ok(None);
    };
    let outputs: Vec<Value> = stage
        .writes()
        .iter()
        .map(|item| match item.kind() {
            Some(kind) => serde_json::json!([kind, kind.format(), stage.changing(kind)]),
            None => Value::Null,
        })
        .collect();
    let all = serde_json::json!([stage.name(), outputs, inputs]);
    Ok(Some(digest::text(&all.to_string())))
}
