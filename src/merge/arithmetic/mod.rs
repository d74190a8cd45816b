//! Arithmetic on the numbers of one tensor: pure functions over its elements, that know neither
//! files nor configurations. Each file imports only those above it.
//!
//! | file | what it does |
//! |---|---|
//! | `vector` | loops over tiles of numbers |
//! | `blocks` | walks a tensor in fixed blocks, shared out over the threads |
//! | `select` | finds the k largest keys, exactly and in little memory |
//! | `job` | one tensor to merge, and what merging it gave |
//! | `combination` | linear combinations of whole tensors; angles between them |
//! | `mask` | which entries of an update survive |
//! | `updates` | sums of updates: sparsify, rescale, agree on signs, normalise |

mod blocks;
mod combination;
mod job;
mod mask;
mod select;
mod updates;
pub mod vector;

pub use blocks::{Inputs, Output, Tiles, Walk, gram, pair, squares};
pub use combination::{
    Combination, OPPOSITE, form, norms, opposite, shares, shares_of_sum, spherical,
};
pub use job::{Job, Outcome, Remark, Share};
pub use mask::Survivors;
pub use select::{Cutoff, Keyed, Wanted, window};
pub use updates::WeightedSum;
