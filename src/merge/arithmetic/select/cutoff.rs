//! Selections, and the keys they are made by.

use std::ops::Range;

use crate::merge::arithmetic::blocks::{Inputs, Tiles, Walk};

/// No key: keys have 31 bits.
pub const NO_KEY: u32 = u32::MAX;

/// A selection: the elements whose key is above `key`, and of those that equal it the ones
/// before index `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// The k-th largest key.
    pub key: u32,
    /// Elements with this key are selected before this index.
    pub end: usize,
}

impl Cutoff {
    /// Selects everything.
    pub const ALL: Self = Self {
        key: 0,
        end: usize::MAX,
    };
    /// Selects nothing.
    pub const NONE: Self = Self {
        key: NO_KEY,
        end: 0,
    };

    /// Whether the element `index` with this key is selected.
    #[inline(always)]
    pub fn selects(self, key: u32, index: usize) -> bool {
        key > self.key || (key == self.key && index < self.end)
    }

    /// The least key that is selected in `range`, if that is the same everywhere in it.
    pub fn bound(self, range: &Range<usize>) -> Option<u32> {
        if range.end <= self.end {
            Some(self.key)
        } else if range.start >= self.end {
            Some(self.key.saturating_add(1))
        } else {
            None
        }
    }
}

/// One selection to make: the `count` largest keys of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The stream.
    pub stream: usize,
    /// How many to select.
    pub count: u64,
}

/// Computes the keys of a tile and hands them over stream by stream.
pub type Keys<'a> = dyn Fn(&Range<usize>, &mut Tiles, &mut dyn FnMut(usize, &[u32])) + Sync + 'a;

/// A tensor's elements with the keys to select by.
pub struct Keyed<'a> {
    /// The walk over the elements.
    pub walk: &'a Walk,
    /// The tensors.
    pub inputs: &'a Inputs<'a>,
    /// What computes the keys.
    pub keys: &'a Keys<'a>,
}

impl<'a> Keyed<'a> {
    /// Elements with their keys.
    pub fn new(walk: &'a Walk, inputs: &'a Inputs<'a>, keys: &'a Keys<'a>) -> Self {
        Self { walk, inputs, keys }
    }

    /// One past the index of the `left`-th element with `key`, from the number of such elements
    /// in each block.
    pub fn tie(
        &self,
        stream: usize,
        key: u32,
        mut left: u64,
        counts: impl Iterator<Item = u64>,
    ) -> usize {
        let mut end = usize::MAX;
        for (block, count) in counts.enumerate() {
            if count < left {
                left -= count;
                continue;
            }
            let mut tiles = Tiles::empty(self.inputs.models.len());
            for range in self.walk.tiles(block) {
                (self.keys)(&range, &mut tiles, &mut |of, keys| {
                    if of != stream {
                        return;
                    }
                    for (index, found) in range.clone().zip(keys) {
                        if left > 0 && *found == key {
                            left -= 1;
                            end = index + 1;
                        }
                    }
                });
            }
            break;
        }
        end
    }
}
