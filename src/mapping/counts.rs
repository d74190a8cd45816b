//! How often each source token was aligned with each pivot token.

use crate::artifact::Artifact;
use crate::error::Result;
use crate::query;
use crate::units::TokenId;

/// Memory for counting, in bytes; beyond it, counts spill to disk.
const MEMORY_LIMIT: u64 = 2 << 30;

/// The aligned pairs (source id, pivot id) with their counts, sorted. A pivot token counts once
/// for each *distinct* source token that it is aligned with. Counted by
/// `sql/transforms/token_map.sql`.
///
/// # Memory
/// 16 bytes for each distinct pair, and up to 2 GiB for counting.
pub(super) fn aligned_pairs(alignment: &Artifact) -> Result<Vec<(TokenId, TokenId, u64)>> {
    query::transform_token_map(alignment.dir(), MEMORY_LIMIT, 0)
}

/// The same, counted in one hash table: the reference for the statement.
#[cfg(test)]
pub(super) fn simple(alignment: &Artifact) -> Result<Vec<(TokenId, TokenId, u64)>> {
    use crate::artifact::alignment::Links;

    let mut counts: std::collections::BTreeMap<(TokenId, TokenId), u64> = Default::default();
    for part in alignment.parts() {
        for batch in part.batches()? {
            let batch = batch?;
            let links = Links::new(&batch)?;
            for (row, pivot_id) in links.pivot_ids().iter().enumerate() {
                let source_ids = links.source_ids(row);
                for (at, source_id) in source_ids.iter().enumerate() {
                    if !source_ids[..at].contains(source_id) {
                        *counts.entry((*source_id, *pivot_id)).or_default() += 1;
                    }
                }
            }
        }
    }
    let pairs = counts.into_iter();
    Ok(pairs.map(|((s, p), count)| (s, p, count)).collect())
}
