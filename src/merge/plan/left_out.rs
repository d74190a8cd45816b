//! What the output does not get of the files beside the weights.

use crate::checkpoint::{Companions, Role};
use crate::error::Result;
use crate::merge::inputs::Model;
use crate::merge::vocabulary::Files;

/// What is said about files of the reference's folder that the output does not get.
///
/// # Errors
///
/// A folder that cannot be listed.
pub(super) fn left_out(reference: &Model, tokenizer: Option<&Files>) -> Result<Option<String>> {
    let changed = tokenizer.is_some_and(|t| t.json.is_some() && t.source == reference.dir);
    let why = |role| match role {
        Role::Quantisation if reference.packed.is_none() => Some("the result is not quantised"),
        Role::Slow if changed => Some("it lacks the new tokens"),
        _ => None,
    };
    Ok(Companions::of(&reference.dir)?.left_out(why))
}
