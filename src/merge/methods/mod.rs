//! The table of merge methods: names, papers, parameters, kernels. Validation, `--help` and the
//! table in the documentation are all made from it.
//!
//! Names and meanings are mergekit's, so that its configurations work unchanged; what mergekit
//! lacks is named among the additions in `docs/merging.md`, with its paper.
//!
//! **To add a method**, write one file and register it here in two lines (its `mod` and its row
//! of [`METHODS`]). The file holds
//!
//! 1. the row: a `pub const` [`Method`] with name, summary, paper, what is done with `base_model`,
//!    the numbers of models;
//! 2. its parameters, once: `declare!` makes their rows of the table, and a struct with typed
//!    fields, a vector for what each model has;
//! 3. its kernel: `impl Kernel` for that struct (or for what the row's `kernel` makes of it), with
//!    `check` for combinations of values that cannot be used;
//! 4. unit tests of its arithmetic, where it is more than a line; the tests of merges
//!    (`merge/tests`) run every row of the table, and compare with float64 and with mergekit.
//!
//! `linear.rs` is a small example. Parameters are looked up and typed when a merge is planned,
//! tensor by tensor: kernels know no names. What several methods share is in `arithmetic`, and in
//! `updates.rs` for the descendants of task arithmetic. The test of the documentation prints the
//! new table.

mod arcee_fusion;
mod breadcrumbs;
mod dare;
mod della;
mod karcher;
mod linear;
mod method;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod parameter;
mod passthrough;
mod sce;
mod slerp;
mod task_arithmetic;
mod ties;
mod updates;
mod varm;

pub(super) use method::Kernel;
pub use method::{Base, Method};
pub(super) use parameter::Configured;
pub use parameter::{DefaultValue, Kind, Parameter, Scalar};

use super::arithmetic::{Job, Outcome, Output};
use crate::error::{Error, Result, did_you_mean};

/// Every method.
pub const METHODS: &[Method] = &[
    sce::SCE,
    varm::VARM,
    linear::LINEAR,
    task_arithmetic::TASK_ARITHMETIC,
    ties::TIES,
    dare::DARE_LINEAR,
    dare::DARE_TIES,
    della::DELLA,
    della::DELLA_LINEAR,
    breadcrumbs::BREADCRUMBS,
    breadcrumbs::BREADCRUMBS_TIES,
    slerp::SLERP,
    nuslerp::NUSLERP,
    multislerp::MULTISLERP,
    karcher::KARCHER,
    model_stock::MODEL_STOCK,
    nearswap::NEARSWAP,
    arcee_fusion::ARCEE_FUSION,
    passthrough::PASSTHROUGH,
];

/// Parameters of mergekit that only save memory there: accepted, without effect.
pub const MEMORY_SAVERS: &[&str] = &["int8_mask"];

impl Method {
    /// The method of this name.
    ///
    /// # Errors
    ///
    /// There is none; the nearest name is offered.
    pub fn named(name: &str) -> Result<&'static Self> {
        METHODS
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
                let error = Error::usage(format!("there is no merge method `{name}`"));
                match did_you_mean(name, names.iter().copied()) {
                    Some(remedy) => error.remedy(remedy),
                    None => error.remedy(format!("use one of {}", names.join(", "))),
                }
            })
    }
}

/// Merges one tensor.
///
/// # Errors
///
/// A failed write, or the user's wish to stop.
pub(super) fn merge(kernel: &dyn Kernel, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    match job.walk.len {
        0 => Ok(Outcome::empty()),
        _ => kernel.merge(job, output),
    }
}

/// The table as text, for `--help`.
pub fn help() -> String {
    let mut text = String::new();
    for method in METHODS {
        text += &format!("{}: {}\n", method.name, method.summary);
        for p in method.parameters {
            let scope = if p.per_model { ", per model" } else { "" };
            text += &format!("    {} (default {}{scope}): {}\n", p.name, p.default, p.doc);
        }
    }
    text
}

/// The table in Markdown, for the documentation.
pub fn markdown() -> String {
    let mut text = String::from("| method | does | parameters (default) |\n|---|---|---|\n");
    for method in METHODS {
        let parameters: Vec<_> = method
            .parameters
            .iter()
            .map(|p| format!("`{}` ({})", p.name, p.default))
            .collect();
        text += &format!(
            "| [`{}`]({}) | {} | {} |\n",
            method.name,
            method.paper,
            method.summary,
            parameters.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let mut names: Vec<_> = METHODS.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
        for method in METHODS {
            for p in method.parameters {
                let fits = match (p.kind, p.default) {
                    (_, DefaultValue::Required) | (Kind::Flag, DefaultValue::Flag(_)) => true,
                    (Kind::Number(low, high), DefaultValue::Number(value)) => {
                        (low..=high).contains(&value)
                    }
                    (Kind::Whole(high), DefaultValue::Number(value)) => {
                        (0.0..=high).contains(&value)
                    }
                    (Kind::Choice(words), DefaultValue::Word(word)) => words.contains(&word),
                    _ => false,
                };
                assert!(fits, "{} {}", method.name, p.name);
            }
            assert!(help().contains(method.summary));
            assert!(markdown().contains(method.paper));
        }
        let error = Method::named("tise").unwrap_err().to_string();
        assert!(error.contains("did you mean `ties`?"), "{error}");
    }
}
