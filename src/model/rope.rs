//! The rotary position embedding: its frequencies, and how `config.json` describes them.

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;

/// How the frequencies of the rotary embedding are changed for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained. Also for `dynamic`, which changes nothing up to `max_position_embeddings`.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Context extension, at least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Context extension, at least 1.
        factor: f64,
        /// Wavelengths beyond `original / low` are scaled fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: f64,
    },
    /// LongRoPE within the context of the original training, where its factors are the short
    /// ones. (Beyond it all frequencies change with the length of the sequence, so that a token's
    /// keys would depend on what follows; the model's context ends there.)
    Long {
        /// Divides each frequency.
        factors: Vec<f64>,
        /// Factor on all rotated queries and keys.
        attention_factor: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// The rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// How many of a head's dimensions are rotated, the first ones; even.
    pub dims: usize,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Radians per position for each of the `dims / 2` rotated pairs.
    pub fn frequencies(&self) -> Vec<f32> {
        (0..self.dims / 2)
            .map(|i| (i, self.theta.powf(-2.0 * i as f64 / self.dims as f64)))
            .map(|(i, frequency)| match &self.scaling {
                RopeScaling::Default => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Long { factors, .. } => frequency / factors[i],
                &RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                } => {
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            })
            .map(|frequency| frequency as f32)
            .collect()
    }

    /// Factor on the cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Long {
                attention_factor, ..
            } => attention_factor as f32,
            _ => 1.0,
        }
    }

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
