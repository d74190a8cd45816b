//! What a decoder is, as plain data: all that running one needs to know.
//!
//! A [`Config`] says which projections have a bias, whether queries and keys are normalised, how
//! positions enter, how far each layer looks back; `names` how its parameters are called;
//! [`Config::tensors`] lists them. How a `config.json` is read into it: `families`.

mod names;
mod rope;
mod settings;
mod tensors;

pub use names::Architecture;
pub(crate) use names::{FeedForwardNames, Names, QkvNames, Towers};
pub use rope::{Rope, RopeScaling};
pub use settings::{Activation, Config, Experts, NormKind};
pub use tensors::{Init, TensorSpec};
