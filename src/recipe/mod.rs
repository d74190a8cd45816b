//! (in progress)
mod step;
