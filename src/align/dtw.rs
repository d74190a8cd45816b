//! Dynamic time warping: the path through two token sequences that costs the least.
//!
//! D\[i,j\] = cost(i, j) + min(D\[i−1,j−1\], D\[i−1,j\], D\[i,j−1\]) for pivot token i and source token
//! j, infinite beyond the borders, D\[0,0\] = cost(0, 0). A row is computed from the one before it;
//! where each cell came from takes two bits, which is all that the path is read from.
//!
//! ```text
//! cells of a row     0 .. 63                 64 .. 127      ...
//! bytes              16, byte k = cells k, k+16, k+32, k+48 (low bits first)
//! ```

use super::DtwTies;

/// Cells whose moves are packed together.
const BLOCK: usize = 64;
/// Bytes of a block.
const BLOCK_BYTES: usize = BLOCK / 4;
/// Cost of what lies beyond the borders. Costs are at most [`super::pieces::MOST`], so that no path of
/// fewer than 2^17 steps comes near it, and it does not overflow when one is added.
const BEYOND: u32 = 1 << 30;

/// From the cell before in both sequences.
const DIAGONAL: u8 = 0;
/// From the previous pivot token, same source token.
const PIVOT: u8 = 1;
/// From the previous source token, same pivot token.
const SOURCE: u8 = 2;

/// Costs of all pairs of tokens of two sequences.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// Which row of `rows` holds the costs of each pivot token.
    pub(super) row_of: Vec<u32>,
    /// Costs with each source token in turn, padded by a block: `stride` entries a row.
    pub(super) rows: Vec<u16>,
    /// Number of source tokens.
    pub(super) sources: usize,
}

impl Costs {
    pub(super) fn stride(sources: usize) -> usize {
        sources + BLOCK
    }

    fn row(&self, pivot: usize) -> &[u16] {
        let stride = Self::stride(self.sources);
        let begin = self.row_of[pivot] as usize * stride;
        &self.rows[begin..begin + stride]
    }
}

/// The source tokens that one pivot token is linked to: half-open, never empty.
pub(super) type Range = (u32, u32);

/// Bytes that the moves of a table take.
pub(super) fn table_bytes(pivots: usize, widest: usize) -> u64 {
    pivots as u64 * (widest.div_ceil(BLOCK) * BLOCK_BYTES) as u64
}

/// Scratch space, used again from sample to sample.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Cost of the best path to each cell of the row before and of this one; the entry of source
    /// token j is j + 1.
    before: Vec<u32>,
    here: Vec<u32>,
    moves: Vec<u8>,
}

impl Table {
    /// The links of each pivot token on the cheapest path, and its cost. `windows` are the source
    /// tokens that are looked at for each pivot token: neither end may fall from one to the
    /// next, neighbours must share a token, the first begins at 0 and the last reaches the end.
    ///
    /// # Memory
    /// A quarter of a byte for each pair in the windows.
    pub(super) fn path(
        &mut self,
        costs: &Costs,
        windows: &[Range],
        ties: DtwTies,
    ) -> (Vec<Range>, u32) {
        if windows.is_empty() || costs.sources == 0 {
            return (Vec::new(), 0);
        }
        let widest = windows.iter().map(|(from, to)| to - from).max();
        let stride = (widest.unwrap_or(0) as usize).div_ceil(BLOCK) * BLOCK_BYTES;
        self.moves.clear();
        self.moves.resize(windows.len() * stride, 0);
        for row in [&mut self.before, &mut self.here] {
            row.clear();
            row.resize(costs.sources + 1 + BLOCK, BEYOND);
        }
        self.before[0] = 0;
        for (pivot, (window, moves)) in windows
            .iter()
            .zip(self.moves.chunks_exact_mut(stride))
            .enumerate()
        {
            let (from, to) = (window.0 as usize, window.1 as usize);
            let row = costs.row(pivot);
            fill(row, from, to, &self.before, &mut self.here);
            match ties {
                DtwTies::Fusechat => {
                    pack::<PIVOT, SOURCE>(from, to, &self.before, &self.here, moves)
                }
                DtwTies::Fusellm => {
                    pack::<SOURCE, PIVOT>(from, to, &self.before, &self.here, moves)
                }
            }
            std::mem::swap(&mut self.before, &mut self.here);
        }
        let cost = self.before[costs.sources];
        (self.trace(windows, stride, costs.sources), cost)
    }

    /// Reads the path from its end.
    fn trace(&self, windows: &[Range], stride: usize, sources: usize) -> Vec<Range> {
        let mut links = vec![(0, 0); windows.len()];
        let (mut pivot, mut source) = (windows.len() - 1, sources - 1);
        links[pivot].1 = sources as u32;
        loop {
            if pivot == 0 {
                // Only source tokens are left, and all of them belong to the first pivot token.
                links[0].0 = 0;
                return links;
            }
            let at = source - windows[pivot].0 as usize;
            let (block, cell) = (at / BLOCK, at % BLOCK);
            let byte = self.moves[pivot * stride + block * BLOCK_BYTES + cell % BLOCK_BYTES];
            let step = byte >> (2 * (cell / BLOCK_BYTES)) & 3;
            if step != PIVOT {
                // The first token has no left neighbour; its cells come from above.
                source = source.saturating_sub(1);
            }
            if step != SOURCE {
                links[pivot].0 = (source + usize::from(step == DIAGONAL)) as u32;
                pivot -= 1;
                links[pivot].1 = source as u32 + 1;
            }
        }
    }
}

/// One row of the table.
fn fill(costs: &[u16], from: usize, to: usize, before: &[u32], here: &mut [u32]) {
    here[from] = BEYOND;
    let mut diagonal = before[from];
    let mut left = BEYOND;
    let cells = costs[from..to]
        .iter()
        .zip(&before[from + 1..=to])
        .zip(&mut here[from + 1..=to]);
    for ((cost, up), cell) in cells {
        left = diagonal.min(*up).min(left) + u32::from(*cost);
        *cell = left;
        diagonal = *up;
    }
}

/// Where each cell of a row came from: the diagonal, else `SECOND`, else `THIRD`.
fn pack<const SECOND: u8, const THIRD: u8>(
    from: usize,
    to: usize,
    before: &[u32],
    here: &[u32],
    moves: &mut [u8],
) {
    let blocks = (to - from).div_ceil(BLOCK);
    for (block, packed) in moves.chunks_exact_mut(BLOCK_BYTES).take(blocks).enumerate() {
        let at = from + block * BLOCK;
        let (diagonal, pivot) = (&before[at..at + BLOCK], &before[at + 1..at + 1 + BLOCK]);
        let source = &here[at..at + BLOCK];
        let mut steps = [0u8; BLOCK];
        for cell in 0..BLOCK {
            let least = diagonal[cell].min(pivot[cell]).min(source[cell]);
            let second = match SECOND {
                PIVOT => pivot[cell],
                _ => source[cell],
            };
            let other = if second == least { SECOND } else { THIRD };
            steps[cell] = if diagonal[cell] == least {
                DIAGONAL
            } else {
                other
            };
        }
        for (k, byte) in packed.iter_mut().enumerate() {
            *byte = steps[k]
                | steps[k + BLOCK_BYTES] << 2
                | steps[k + 2 * BLOCK_BYTES] << 4
                | steps[k + 3 * BLOCK_BYTES] << 6;
        }
    }
}
