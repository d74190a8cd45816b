//! Statements whose result is itself an artifact.

use std::path::Path;

use arrow::datatypes::{Int64Type, UInt32Type};
use rayon::prelude::*;

use super::session::{Params, Session, SessionOptions};
use crate::artifact::{Artifact, Kind, Part};
use crate::error::{Error, Result};
use crate::units::TokenId;

/// How often each source token was aligned with each pivot token in one `alignment` artifact:
/// `(source_id, pivot_id, count)`, sorted by the two ids. Runs `sql/transforms/token_map.sql`
/// over the folder `alignment_dir`; a pivot token aligned with n source tokens counts once for
/// each distinct one of them.
///
/// `memory_limit` is in bytes (0: none), `threads` 0 takes one per core.
///
/// # Errors
/// If the artifact is incomplete or damaged, or its rows are not in order.
///
/// # Memory
/// 16 bytes per distinct pair, plus `memory_limit` for counting, which spills beyond it.
pub fn transform_token_map(
    alignment_dir: &Path,
    memory_limit: u64,
    threads: usize,
) -> Result<Vec<(TokenId, TokenId, u64)>> {
    let alignment = Artifact::open(alignment_dir, Kind::Alignment)?;
    // A row that came twice would count twice.
    alignment
        .parts()
        .par_iter()
        .try_for_each(Part::check_order)?;
    let session = Session::bare(&SessionOptions {
        memory_limit,
        threads,
        sql_dir: None,
    })?;
    session.create_artifact_table(Kind::Alignment, "artifact", alignment_dir)?;
    // The file selects a teacher; here the folder has done that, and all rows get the default.
    session.query(
        "CREATE VIEW alignment AS SELECT *, '' AS teacher FROM artifact",
        &Params::new(),
    )?;
    let mut pairs = Vec::new();
    for batch in session.stream_named("token_map", &Params::new())? {
        let batch = batch?;
        let source = crate::artifact::rows::numbers::<UInt32Type>(&batch, "source_id")?;
        let pivot = crate::artifact::rows::numbers::<UInt32Type>(&batch, "pivot_id")?;
        let count = crate::artifact::rows::numbers::<Int64Type>(&batch, "count")?;
        for row in 0..batch.num_rows() {
            let count = u64::try_from(count.value(row))
                .map_err(|_| Error::file(alignment_dir, "a count is negative"))?;
            pairs.push((source.value(row), pivot.value(row), count));
        }
    }
    pairs.sort_unstable();
    Ok(pairs)
}
