//! A parameter as configured: a value, a gradient over the layers, or values by name of tensor.

use crate::error::Result;
use crate::merge::methods::Scalar;

/// A parameter as configured.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// One value for all tensors.
    Scalar(Scalar),
    /// Values spread evenly over the layers: numbers with linear interpolation between them, of
    /// others the last one that is reached.
    Gradient(Vec<Scalar>),
    /// The first entry whose filter is absent, `*` or part of the tensor's name.
    Filters(Vec<(Option<String>, Setting)>),
}

impl Setting {
    /// The value for `tensor` at relative depth `t` in 0..=1, if any entry holds for it.
    pub fn at(&self, tensor: &str, t: f64) -> Option<Scalar> {
        match self {
            Self::Scalar(value) => Some(value.clone()),
            Self::Gradient(values) => {
                let place = t * (values.len() - 1) as f64;
                let low = (place as usize).min(values.len() - 1);
                let high = (low + 1).min(values.len() - 1);
                let (Scalar::Number(a), Scalar::Number(b)) = (&values[low], &values[high]) else {
                    return Some(values[low].clone());
                };
                let share = place - low as f64;
                Some(Scalar::Number((1.0 - share) * a + share * b))
            }
            Self::Filters(entries) => entries
                .iter()
                .find(|(filter, _)| match filter.as_deref() {
                    None | Some("*") => true,
                    Some(part) => tensor.contains(part),
                })
                .and_then(|(_, setting)| setting.at(tensor, t)),
        }
    }

    /// Calls `each` with every value that occurs.
    ///
    /// # Errors
    ///
    /// The first one of `each`.
    pub(in crate::merge) fn scalars(
        &self,
        each: &mut impl FnMut(&Scalar) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Scalar(value) => each(value),
            Self::Gradient(values) => values.iter().try_for_each(each),
            Self::Filters(entries) => entries
                .iter()
                .try_for_each(|(_, setting)| setting.scalars(each)),
        }
    }
}

/// The parameters of one level, in the order given.
pub type Settings = Vec<(String, Setting)>;
