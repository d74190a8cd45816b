//! Operations between matrix products. Arguments share one type; what differs is converted first.

mod gate;
mod linear;
mod norm;
mod rotate;
mod rows;

pub(crate) use gate::gated;
pub(crate) use linear::linear;
pub(crate) use norm::norm;
pub(crate) use rotate::rotate_heads;
pub(crate) use rows::{embed, scatter_rows, spread_rows, take_rows};
