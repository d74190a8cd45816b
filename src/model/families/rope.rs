//! How `config.json` describes the rotary position embedding.

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;
use crate::model::config::{Rope, RopeScaling};

impl Rope {
    /// The old `rope_theta` + `rope_scaling`, or the new `rope_parameters` that has both.
    /// `partial` says whether the architecture may rotate a part of each head only.
    pub(crate) fn read(
        fields: &Fields<'_>,
        head_dim: usize,
        theta: f64,
        partial: bool,
    ) -> Result<Self> {
        let inner = match fields.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => fields.object("rope_scaling")?,
        };
        let places = || inner.iter().chain(std::iter::once(fields));
        let mut rope = Self {
            theta: fields.number("rope_theta", theta)?,
            dims: head_dim,
            scaling: RopeScaling::Default,
        };
        for place in places() {
            let name = "partial_rotary_factor";
            let factor = place.number(name, 1.0)?;
            let dims = (head_dim as f64 * factor) as usize;
            if factor != 1.0 && !partial {
                return Err(place.wrong(name, "1 (whole heads are rotated)"));
            }
            if factor > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
                let expected = format!("an even part of the {head_dim} dimensions of a head");
                return Err(place.wrong(name, expected));
            }
            if factor != 1.0 {
                rope.dims = dims;
                break;
            }
        }
        if let Some(inner) = &inner {
            rope.theta = inner.number("rope_theta", rope.theta)?;
            rope.scaling = RopeScaling::read(inner, fields, rope.dims)?;
        }
        Ok(rope)
    }
}

impl RopeScaling {
    fn read(inner: &Fields<'_>, outer: &Fields<'_>, dims: usize) -> Result<Self> {
        let kind = if inner.has("rope_type") {
            "rope_type"
        } else {
            "type"
        };
        Ok(match inner.text(kind)? {
            None | Some("default" | "dynamic") => Self::Default,
            Some("linear") => Self::Linear {
                factor: inner.required("factor")?,
            },
            Some("llama3") => {
                let low = inner.required("low_freq_factor")?;
                let high = inner.required("high_freq_factor")?;
                if high <= low {
                    let expected = format!("more than low_freq_factor {low}");
                    return Err(inner.wrong("high_freq_factor", expected));
                }
                Self::Llama3 {
                    factor: inner.required("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: inner
                        .required("original_max_position_embeddings")?,
                }
            }
            // "su" is what the first files called it.
            Some("longrope" | "su") => Self::long(inner, outer, dims)?,
            Some(_) => {
                return Err(inner.wrong(kind, "default, linear, dynamic, llama3 or longrope"));
            }
        })
    }

    fn long(inner: &Fields<'_>, outer: &Fields<'_>, dims: usize) -> Result<Self> {
        let positive = |value: &Value| value.as_f64().filter(|factor| *factor > 0.0);
        let factors: Option<Vec<f64>> = match inner.get("short_factor") {
            Some(Value::Array(factors)) if factors.len() == dims / 2 => {
                factors.iter().map(positive).collect()
            }
            _ => None,
        };
        let factors = factors
            .ok_or_else(|| inner.wrong("short_factor", format!("{} positive numbers", dims / 2)))?;
        let name = "original_max_position_embeddings";
        let longest = outer.size("max_position_embeddings")?;
        let original = match outer.optional_size(name)? {
            Some(original) => original,
            None => inner.optional_size(name)?.unwrap_or(longest),
        };
        let extension = inner.number("factor", longest as f64 / original as f64)?;
        let attention_factor = match extension {
            extension if extension <= 1.0 => 1.0,
            _ => (1.0 + extension.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(Self::Long {
            factors,
            attention_factor: inner.number("attention_factor", attention_factor)?,
            original_max_position_embeddings: original,
        })
    }
}
