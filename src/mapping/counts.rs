//! How often each source token was aligned with each pivot token.

use std::collections::HashMap;

use crate::artifact::Artifact;
use crate::artifact::alignment::Links;
use crate::error::Result;
use crate::progress::check_interrupt;
use crate::units::TokenId;

/// The aligned pairs (source id, pivot id) with their counts, in no particular order. A pivot
/// token counts once for each *distinct* source token that it is aligned with.
///
/// # Memory
/// 24 bytes for each distinct pair.
pub(super) fn aligned_pairs(alignment: &Artifact) -> Result<Vec<(TokenId, TokenId, u64)>> {
    let mut counts: HashMap<(TokenId, TokenId), u64> = HashMap::new();
    for part in alignment.parts() {
        for batch in part.batches()? {
            check_interrupt()?;
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
