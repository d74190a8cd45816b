//! Whether the models of a configuration are those that its method takes.

use super::{MergeConfig, Slice, Source};
use crate::error::{Error, Result};
use crate::merge::methods::Base;

/// Checks every slice.
///
/// # Errors
///
/// No base model where one is needed, too few or too many models, a model that is listed twice.
pub fn check(config: &MergeConfig) -> Result<()> {
    config
        .slices
        .iter()
        .try_for_each(|slice| check_slice(config, slice))
}

fn check_slice(config: &MergeConfig, slice: &Slice) -> Result<()> {
    let method = config.method;
    if slice.sources.is_empty() {
        return Err(Error::usage("a slice (or `models`) lists no model"));
    }
    let base = config.base_of(slice);
    if method.base == Base::Required && base.is_none() {
        return Err(Error::usage(format!(
            "`{}` needs a `base_model`",
            method.name
        )));
    }
    let counts = |source: &&Source| method.base == Base::Listed || Some(&source.model) != base;
    let count = slice.sources.iter().filter(counts).count();
    let (fewest, most) = method.models;
    if count < fewest || count > most {
        let wanted = match (fewest, most) {
            (a, b) if a == b => format!("exactly {a}"),
            (a, usize::MAX) => format!("at least {a}"),
            (a, b) => format!("{a} to {b}"),
        };
        let but = match method.base {
            Base::Listed => "",
            _ => " besides the base model",
        };
        return Err(Error::usage(format!(
            "`{}` merges {wanted} model(s){but}, found {count}",
            method.name
        )));
    }
    for (at, source) in slice.sources.iter().enumerate() {
        let earlier = &slice.sources[..at];
        if earlier.iter().any(|other| other.model == source.model) {
            let message = format!("model `{}` is listed twice", source.model);
            return Err(Error::usage(message));
        }
    }
    Ok(())
}
