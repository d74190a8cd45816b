//! Working through the parts of per-sample artifacts, several at a time.

use rayon::prelude::*;

use super::{Part, Writer};
use crate::error::Result;

/// Parts that are worked on at the same time, at most; each holds its tokens in memory.
const PARTS_AT_ONCE: usize = 8;

/// Calls `work` for each part that `writer` does not have yet, on several threads, and returns
/// the results in the order of the parts.
///
/// # Errors
/// The first error of any part; parts that are finished by then are kept.
///
/// # Memory
/// That of `work`, times the number of threads (at most 8).
pub fn each_missing<T: Send>(
    parts: &[Part],
    writer: &Writer,
    work: impl Fn(&Part) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let missing: Vec<&Part> = parts
        .iter()
        .filter(|part| !writer.is_done(part.info().index))
        .collect();
    let mut results = Vec::with_capacity(missing.len());
    for group in missing.chunks(PARTS_AT_ONCE) {
        let done: Vec<Result<T>> = group.par_iter().map(|part| work(part)).collect();
        for result in done {
            results.push(result?);
        }
    }
    Ok(results)
}
