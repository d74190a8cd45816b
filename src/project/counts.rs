//! How often each source token was linked to each pivot token.

use crate::artifact::Artifact;
use crate::error::Result;
use crate::query;
use crate::units::TokenId;

/// Memory for counting, in bytes; beyond it, counts spill to disk.
const MEMORY_LIMIT: u64 = 2 << 30;

/// Counts by pair of tokens.
///
/// # Memory
/// 16 bytes for each distinct pair.
#[derive(Debug)]
pub(super) struct PairCounts {
    /// Sorted by the two ids.
    pairs: Vec<(TokenId, TokenId, u64)>,
}

impl PairCounts {
    /// Counts an alignment, as the map `ms` does.
    pub(super) fn of_alignment(alignment: &Artifact) -> Result<Self> {
        let pairs = query::transform_token_map(alignment.dir(), MEMORY_LIMIT, 0)?;
        Ok(Self { pairs })
    }

    /// The same from pairs, sorted by the two ids.
    #[cfg(test)]
    pub(super) fn from_pairs(pairs: Vec<(TokenId, TokenId, u64)>) -> Self {
        Self { pairs }
    }

    /// How often the two were linked.
    pub(super) fn of(&self, source_id: TokenId, pivot_id: TokenId) -> u64 {
        let found = self
            .pairs
            .binary_search_by_key(&(source_id, pivot_id), |pair| (pair.0, pair.1));
        found.map_or(0, |at| self.pairs[at].2)
    }
}
