//! GGUF files, the quantised models of llama.cpp, as sources that are scored.
//!
//! A file carries everything but the tokenizer in a form that we run: its metadata becomes a
//! [`Config`], its tensors get their Hugging Face names, and a matrix is decoded to floats when
//! it is needed, which for the many rows of scoring costs little beside its product. Products are
//! those of the decoder, and exact for the stored weights. llama.cpp and candle round the
//! activations to 8 bits as well: for Q4_K, Q6_K and Q8_0 that takes 40 % of the time and changes
//! products by up to 0.7 % of the largest; for the older types it takes five times as long.

mod blocks;
mod names;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::{Map, Value, json};

use super::config::{Config, Rope, RopeScaling, TensorSpec};
use crate::checkpoint::{self, GgufTensor};
use crate::error::{Context, Error, Result};
use names::{Change, Origin, origin};

/// Frequency divisors of models with extended context.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// An opened GGUF model.
pub(crate) struct Gguf {
    file: checkpoint::Gguf,
}

impl Gguf {
    /// Maps the file, or all files of a split model, and reads their headers.
    ///
    /// # Errors
    /// Those of [`checkpoint::Gguf::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = checkpoint::Gguf::open(path)?;
        Ok(Self { file })
    }

    /// The (first) file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The settings, validated.
    ///
    /// # Errors
    /// A missing or wrong setting, by its name in the file; an architecture or rope scaling that
    /// the decoder does not have.
    pub fn config(&self) -> Result<Config> {
        Config::from_json(self.file.config()?, self.path())
    }

    /// Compares the tensors with the configuration.
    ///
    /// # Errors
    /// Missing, unknown or wrongly shaped tensors.
    pub fn check(&self, config: &Config) -> Result<()> {
        let mut used: BTreeSet<String> = BTreeSet::new();
        for spec in config.tensors() {
            let (origin, info) = self.find(config, &spec.name)?;
            let found = match origin.expert {
                Some(_) => &info.shape[1..],
                None => &info.shape[..],
            };
            if found != spec.shape {
                return Err(Error::file(
                    self.path(),
                    format!(
                        "tensor `{}`: expected shape {:?}, found {found:?}",
                        origin.name, spec.shape
                    ),
                ));
            }
            if let Some(expert) = origin.expert
                && expert >= info.shape[0]
            {
                let problem = format!("tensor `{}` lacks expert {expert}", origin.name);
                return Err(Error::file(self.path(), problem));
            }
            used.insert(origin.name);
        }
        let is_setting = |name| name == ROPE_FACTORS || checkpoint::Gguf::is_setting(name);
        let is_copy = |name| config.tie_word_embeddings && name == "output.weight";
        let known = |name| used.contains(name) || is_setting(name) || is_copy(name);
        let mut names = self.file.tensors().map(|(name, _)| name);
        let unknown = names.find(|name| !known(name));
        match unknown {
            None => self.rope_factors(config).map(drop),
            Some(name) => Err(Error::file(
                self.path(),
                format!(
                    "has the tensor `{name}`, which a {} of these settings does not have",
                    config.architecture.name()
                ),
            )
            .remedy("models of this kind cannot be scored from a GGUF file")),
        }
    }

    fn find(&self, config: &Config, name: &str) -> Result<(Origin, &GgufTensor)> {
        let origin = origin(self.file.family(), config, name);
        let alone = origin.as_ref().and_then(Origin::alone);
        let mut places = origin.clone().into_iter().chain(alone);
        let found = places.find_map(|origin| {
            let info = self.file.tensor(&origin.name)?;
            Some((origin, info))
        });
        found.ok_or_else(|| {
            let place = match origin {
                Some(origin) => format!("`{}`", origin.name),
                None => format!("a tensor for `{name}`"),
            };
            Error::file(self.path(), format!("lacks {place}"))
                .remedy("the file is not a whole model of its architecture; get it again")
        })
    }

    /// Where the parameter `name` lies: the map of its file, and its bytes in it.
    pub fn place(&self, config: &Config, name: &str) -> Result<(&Mmap, Range<usize>)> {
        let (origin, info) = self.find(config, name)?;
        let mut bytes = info.bytes.clone();
        if let Some(expert) = origin.expert {
            let each = bytes.len() / info.shape[0];
            let begin = bytes.start + expert * each;
            bytes = begin..begin + each;
        }
        let map = self.file.map(&origin.name);
        let map =
            map.ok_or_else(|| Error::file(self.path(), format!("lacks `{}`", origin.name)))?;
        Ok((map, bytes))
    }

    /// Asks the system to read a parameter ahead. Has no effect on results.
    pub fn read_ahead(&self, config: &Config, name: &str) {
        #[cfg(unix)]
        if let Ok((map, place)) = self.place(config, name) {
            let _ = map.advise_range(memmap2::Advice::WillNeed, place.start, place.len());
        }
        #[cfg(not(unix))]
        let _ = (config, name);
    }

    /// Drops the pages of a parameter from this process. Has no effect on results.
    pub fn release(&self, config: &Config, name: &str) {
        #[cfg(unix)]
        if let Ok((map, place)) = self.place(config, name) {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a read-only view of a file: dropped pages are read from the
            // file again when they are touched.
            let _ = unsafe { map.unchecked_advise_range(advice, place.start, place.len()) };
        }
        #[cfg(not(unix))]
        let _ = (config, name);
    }

    /// A parameter that [`Gguf::check`] has seen, as Hugging Face stores it, in `dtype` on the CPU.
    pub fn read(&self, config: &Config, spec: &TensorSpec, dtype: DType) -> Result<Tensor> {
        match dtype {
            DType::BF16 => self.read_as(config, spec, bf16::from_f32),
            DType::F16 => self.read_as(config, spec, f16::from_f32),
            _ => self.read_as(config, spec, |value| value),
        }
    }

    fn read_as<T: WithDType + Default>(
        &self,
        config: &Config,
        spec: &TensorSpec,
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Tensor> {
        let count = spec.shape.iter().product();
        let mut width = spec.shape[spec.shape.len() - 1];
        let (origin, info) = self.find(config, &spec.name)?;
        let (map, place) = self.place(config, &spec.name)?;
        let bytes = &map[place];
        let mut values = vec![T::default(); count];
        let decoded = match origin.change {
            Change::None => {
                blocks::decode(info.dtype, bytes, width, |row| row, convert, &mut values)
            }
            Change::PlusOne => {
                let convert = |value| convert(value - 1.0);
                blocks::decode(info.dtype, bytes, width, |row| row, convert, &mut values)
            }
            Change::Paired { heads } => {
                let rows = spec.shape[0];
                if spec.shape.len() == 1 {
                    // A bias is a column.
                    width = 1;
                }
                let order = |row| names::paired_row(row, rows, heads);
                blocks::decode(info.dtype, bytes, width, order, convert, &mut values)
            }
        };
        decoded
            .and_then(|()| Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu))
            .during(|| format!("decoding tensor `{}`", origin.name))
    }

    /// Rows of a matrix that [`Gguf::check`] has seen: (rows, width), one after the other.
    pub fn read_rows(&self, config: &Config, spec: &TensorSpec, rows: &[u32]) -> Result<Vec<f32>> {
        let width = spec.shape[spec.shape.len() - 1];
        let (origin, info) = self.find(config, &spec.name)?;
        let (map, place) = self.place(config, &spec.name)?;
        let mut values = vec![0f32; rows.len() * width];
        let order = |row: usize| rows[row] as usize;
        blocks::decode(info.dtype, &map[place], width, order, |x| x, &mut values)
            .during(|| format!("decoding rows of `{}`", origin.name))?;
        Ok(values)
    }

    /// The fields of a `config.json` for the model as a folder.
    ///
    /// # Errors
    /// Divisors of frequencies that are not those of Llama 3: nothing but the file can say them.
    pub fn plain_config(&self, config: &Config) -> Result<Map<String, Value>> {
        let mut fields = config.raw.clone();
        let Some(factors) = self.rope_factors(config)? else {
            return Ok(fields);
        };
        let scaling = config.rope.as_ref().and_then(|rope| llama3(rope, &factors));
        let scaling = scaling.ok_or_else(|| {
            let problem =
                format!("tensor `{ROPE_FACTORS}`: expected the divisors of a Llama 3 model");
            Error::file(self.path(), problem).remedy(
                "the file can be scored, but its frequencies have no place in a `config.json`",
            )
        })?;
        fields.insert("rope_scaling".to_owned(), scaling);
        Ok(fields)
    }

    /// What each frequency of the rotary embedding is divided by, if the file says so.
    pub fn rope_factors(&self, config: &Config) -> Result<Option<Vec<f32>>> {
        let (Some(info), Some(map)) = (self.file.tensor(ROPE_FACTORS), self.file.map(ROPE_FACTORS))
        else {
            return Ok(None);
        };
        let half = config.rope.as_ref().map_or(0, |rope| rope.dims / 2);
        if info.shape != [half] {
            return Err(Error::file(
                self.path(),
                format!(
                    "tensor `{ROPE_FACTORS}`: expected shape [{half}], found {:?}",
                    info.shape
                ),
            ));
        }
        let mut factors = vec![0f32; half];
        let bytes = &map[info.bytes.clone()];
        blocks::decode(info.dtype, bytes, half, |row| row, |x| x, &mut factors)
            .during(|| format!("decoding tensor `{ROPE_FACTORS}`"))?;
        if factors
            .iter()
            .any(|factor| !(*factor > 0.0 && factor.is_finite()))
        {
            let problem = format!("tensor `{ROPE_FACTORS}`: expected positive numbers");
            return Err(Error::file(self.path(), problem));
        }
        Ok(Some(factors))
    }
}

/// The `rope_scaling` of type `llama3` with which frequencies are divided by `factors`, if there is one.
///
/// The largest divisor is the scaling's factor; a divisor on the ramp between tells the context of
/// the original training (8192 in Meta's models), and all of them must come out.
fn llama3(rope: &Rope, factors: &[f32]) -> Option<Value> {
    let (low, high) = (1.0, 4.0);
    let plain = rope.frequencies();
    let factor = factors.iter().copied().fold(1f32, f32::max);
    let mut ramp = plain.iter().zip(factors);
    let on_ramp = ramp.find(|(_, divisor)| **divisor > 1.001 && **divisor < 0.999 * factor);
    let factor = f64::from(factor);
    let original = on_ramp.map_or(8192.0, |(frequency, divisor)| {
        let wavelength = std::f64::consts::TAU / f64::from(*frequency);
        let kept = (1.0 / f64::from(*divisor) - 1.0 / factor) / (1.0 - 1.0 / factor);
        (wavelength * (kept * (high - low) + low)).round()
    });
    let scaled = Rope {
        scaling: RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        },
        ..rope.clone()
    };
    let same = plain.iter().zip(scaled.frequencies()).zip(factors);
    let mut same = same.map(|((plain, scaled), found)| {
        let expected = plain / scaled;
        (expected - found).abs() <= 1e-5 * expected
    });
    (factor > 1.0 && same.all(|same| same)).then(|| {
        json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        })
    })
}
