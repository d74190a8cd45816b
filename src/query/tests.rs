//! Every table, view, query and check on a small run whose figures are computed by hand.

mod fixture;
mod transform;
