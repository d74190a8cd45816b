//! The rotary position embedding and its frequencies.

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
    /// YaRN (Peng et al., arXiv 2309.00071): low frequencies divided by `factor`, high ones kept, a
    /// ramp over the dimensions between.
    Yarn {
        /// Context extension, at least 1.
        factor: f64,
        /// Dimensions (pairs, perhaps in part) where the ramp begins and ends.
        ramp: [f64; 2],
        /// Factor on all rotated queries and keys.
        attention_factor: f64,
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
                RopeScaling::Yarn {
                    factor,
                    ramp: [begin, end],
                    ..
                } => {
                    let scaled = ((i as f64 - begin) / (end - begin)).clamp(0.0, 1.0);
                    scaled * frequency / factor + (1.0 - scaled) * frequency
                }
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
            }
            | RopeScaling::Yarn {
                attention_factor, ..
            } => attention_factor as f32,
            _ => 1.0,
        }
    }
}
