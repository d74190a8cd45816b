//! How an attention is cut so that its scores fit.

use crate::model::causal::Sizes;

/// Most scores at one time, in elements: 256 MiB of bf16.
pub(super) const LIMIT: usize = 128 << 20;
/// Most queries in a block: fewer make products inefficient, more compute what nobody sees.
const QUERIES: usize = 512;

/// Samples, queries and keys that are worked on at one time, as (first, count).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    pub samples: (usize, usize),
    pub queries: (usize, usize),
    pub keys: (usize, usize),
}

/// The blocks of a whole attention, with at most `limit` scores in each if one query of one
/// sample needs no more.
pub(super) fn blocks(s: Sizes, offset: usize, window: Option<usize>, limit: usize) -> Vec<Block> {
    let per_query = (s.heads * s.positions).max(1);
    let queries = (limit / per_query).clamp(1, QUERIES).min(s.len.max(1));
    let samples = (limit / per_query / queries).clamp(1, s.batch.max(1));
    let mut blocks = Vec::new();
    for sample in (0..s.batch).step_by(samples) {
        for query in (0..s.len).step_by(queries) {
            let count = queries.min(s.len - query);
            let end = offset + query + count;
            let begin = window.map_or(0, |window| (offset + query + 1).saturating_sub(window));
            blocks.push(Block {
                samples: (sample, samples.min(s.batch - sample)),
                queries: (query, count),
                keys: (begin, end - begin),
            });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_that_is_seen() {
        let sizes = Sizes {
            batch: 3,
            heads: 4,
            groups: 2,
            len: 1200,
            positions: 1300,
            d: 8,
        };
        for (window, limit) in [(None, LIMIT), (Some(70), 1 << 20), (Some(5000), 1)] {
            let mut seen = vec![0; sizes.batch * sizes.len];
            for block in blocks(sizes, 100, window, limit) {
                let (key, keys) = block.keys;
                assert!(block.samples.1 * sizes.heads * block.queries.1 * keys <= limit.max(5200));
                for sample in block.samples.0..block.samples.0 + block.samples.1 {
                    for query in block.queries.0..block.queries.0 + block.queries.1 {
                        seen[sample * sizes.len + query] += 1;
                        let position = 100 + query;
                        let first = (position + 1).saturating_sub(window.unwrap_or(usize::MAX));
                        assert!(key <= first && position < key + keys);
                    }
                }
            }
            assert!(seen.iter().all(|count| *count == 1));
        }
    }
}
