//! What a method is: a row of the table, and a kernel for each tensor.

use std::fmt::Debug;

use super::parameter::{Configured, Parameter};
use crate::error::{Error, Result};
use crate::merge::arithmetic::{Job, Outcome, Output};

/// What a method does with `base_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// It must be given.
    Required,
    /// It may be given.
    Optional,
    /// It is one model among the others, if it is listed.
    Listed,
}

/// Any number of models.
pub const MANY: usize = usize::MAX;

/// One merge method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name: `merge_method`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it does with `base_model`.
    pub base: Base,
    /// Fewest and most models, the base model not counted where it is a base.
    pub models: (usize, usize),
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Reads the parameters of one tensor.
    pub(super) kernel: fn(&dyn Configured) -> Result<Box<dyn Kernel>>,
}

impl Method {
    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// The kernel for `tensor`, with its parameters.
    ///
    /// # Errors
    ///
    /// Parameters that are missing, or do not fit together.
    pub(in crate::merge) fn kernel(
        &self,
        configured: &dyn Configured,
        tensor: &str,
    ) -> Result<Box<dyn Kernel>> {
        let kernel = (self.kernel)(configured)?;
        kernel.check(tensor)?;
        Ok(kernel)
    }
}

/// A method with its parameters for one tensor.
pub trait Kernel: Debug + Send + Sync {
    /// Fails where values of parameters do not fit together; `tensor` is named.
    ///
    /// # Errors
    ///
    /// A combination of values that cannot be used.
    fn check(&self, tensor: &str) -> Result<()> {
        let _ = tensor;
        Ok(())
    }

    /// The most passes over the inputs, but for those that a misleading sample costs.
    fn passes(&self) -> u64 {
        2
    }

    /// Whether more than one pass means that positions are selected by rank, which takes memory.
    fn selects(&self) -> bool {
        false
    }

    /// Merges one tensor, which has elements.
    ///
    /// # Errors
    ///
    /// A failed write, or the user's wish to stop.
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome>;
}

/// Fails where weights cannot be divided by their sum.
///
/// # Errors
///
/// A sum of zero.
pub fn check_sum(weights: &[f64], tensor: &str) -> Result<()> {
    match weights.iter().sum::<f64>().abs() < 1e-12 {
        false => Ok(()),
        true => Err(Error::usage(format!(
            "the weights of tensor `{tensor}` sum to zero and cannot be normalised"
        ))),
    }
}
