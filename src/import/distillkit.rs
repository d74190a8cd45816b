//! DistillKit's compressed Parquet.
//!
//! A row is a sample: `input_ids`, and for each token but the first the bytes of its k
//! log-probabilities (by falling probability) and of their ids. `compression_config.yaml` says
//! how they are packed; the bytes of one token are, one after the other:
//!
//! 1. `exact_k` values of type `exact_dtype`, little-endian;
//! 2. a coefficient of type `term_dtype` for each of `polynomial_terms` (powers of t, `sqrt` or
//!    `exp` of t), whose sum approximates the other k − `exact_k` values at t = 0, 1, 2, ...
//!    (with `normalize_t`: from 0 to 1);
//! 3. for each of `residual_bins` a scale of type `scale_dtype` and `num_elements` whole numbers
//!    of `element_bits` bits, which, less 2^(bits−1) and times the scale, are added to the next
//!    values (one bit: minus or plus the scale).
//!
//! What the polynomial approximates may sum to more than one, or be above it.
//!
//! With `delta_encoding` each value but the first is the difference from the one before. Ids have
//! as many bits as `d − 1` needs. Bits are packed most significant first.

use std::fs::File;
use std::path::Path;

use arrow::datatypes::{DataType, UInt8Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use half::{bf16, f16};
use serde::Deserialize;

use super::columns::{Column, list_of};
use super::files;
use super::found::{Found, FoundRow, Opened, Samples, Values};
use crate::error::{Context, Error, Result};
use crate::files::{open_parquet, parquet_batches};

/// Samples read at a time.
const BATCH: usize = 16;
/// The largest list that is believed.
const MOST: usize = 1 << 16;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dtype {
    Float16,
    Bfloat16,
    Float32,
    Float64,
}

impl Dtype {
    const fn bytes(self) -> usize {
        match self {
            Dtype::Float16 | Dtype::Bfloat16 => 2,
            Dtype::Float32 => 4,
            Dtype::Float64 => 8,
        }
    }

    /// `value` as this type holds it.
    fn round(self, value: f64) -> f64 {
        match self {
            Dtype::Float16 => f16::from_f64(value).to_f64(),
            Dtype::Bfloat16 => bf16::from_f64(value).to_f64(),
            Dtype::Float32 => f64::from(value as f32),
            Dtype::Float64 => value,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Term {
    Power(i32),
    Named(Function),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    Sqrt,
    Exp,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bin {
    scale_dtype: Dtype,
    element_bits: usize,
    num_elements: usize,
}

/// `compression_config.yaml`, with every key that DistillKit writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    d: usize,
    k: usize,
    exact_k: usize,
    #[serde(default = "float32")]
    exact_dtype: Dtype,
    #[serde(default)]
    polynomial_terms: Option<Vec<Term>>,
    #[serde(default = "float32")]
    term_dtype: Dtype,
    #[serde(default)]
    residual_bins: Vec<Bin>,
    #[serde(default = "yes")]
    delta_encoding: bool,
    /// How values were rounded, which does not matter here.
    #[serde(default, rename = "error_diffusion")]
    _error_diffusion: bool,
    #[serde(default)]
    normalize_t: bool,
}

const fn float32() -> Dtype {
    Dtype::Float32
}

const fn yes() -> bool {
    true
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::io(path, error).remedy("name DistillKit's configuration with `--config`")
        })?;
        Self::parse(&text).map_err(|problem| {
            Error::file(path, problem)
                .remedy("expected what DistillKit's capture writes beside its files")
        })
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        match config.problem() {
            None => Ok(config),
            Some(problem) => Err(problem.to_owned()),
        }
    }

    /// What does not fit together.
    fn problem(&self) -> Option<&'static str> {
        if !(1..=MOST).contains(&self.k) || self.exact_k > self.k {
            return Some("`k` is not between `exact_k` and 65,536, or 0");
        }
        if !(2..=1 << 31).contains(&self.d) {
            return Some("`d` is no size of a vocabulary");
        }
        let rest = self.k - self.exact_k;
        let mut binned = 0usize;
        for bin in &self.residual_bins {
            binned = binned.saturating_add(bin.num_elements);
            if bin.num_elements == 0 || !(1..=64).contains(&bin.element_bits) {
                return Some(
                    "`residual_bins` has a bin without elements, or whose elements have not 1 to 64 bits",
                );
            }
        }
        if binned > rest {
            return Some("`residual_bins` has more elements than there are beyond `exact_k`");
        }
        let terms = self.polynomial_terms.as_deref().unwrap_or_default();
        if rest > 0 && terms.is_empty() && self.residual_bins.is_empty() {
            return Some(
                "neither `polynomial_terms` nor `residual_bins` says what lies beyond `exact_k`",
            );
        }
        None
    }

    fn id_bits(&self) -> usize {
        (usize::BITS - (self.d - 1).leading_zeros()) as usize
    }

    /// Values of each term at each approximated place, place by place.
    fn terms(&self) -> Vec<Vec<f64>> {
        let count = self.k - self.exact_k;
        let terms = self.polynomial_terms.as_deref().unwrap_or_default();
        let at = |place: usize| match self.normalize_t {
            true if count > 1 => place as f64 / (count - 1) as f64,
            true => 0.0,
            false => place as f64,
        };
        let value = |t: f64, term: &Term| match term {
            Term::Power(power) => t.powi(*power),
            Term::Named(Function::Sqrt) => t.sqrt(),
            Term::Named(Function::Exp) => t.exp(),
        };
        let places = (0..count).map(|place| {
            let values = terms.iter().map(|term| value(at(place), term));
            values.map(|x| self.term_dtype.round(x)).collect()
        });
        places.collect()
    }
}

/// Unpacks the tokens of one configuration.
pub(super) struct Unpacker {
    config: Config,
    terms: Vec<Vec<f64>>,
}

impl Unpacker {
    pub(super) fn new(config: Config) -> Self {
        let terms = config.terms();
        Self { config, terms }
    }

    /// The k log-probabilities in `bytes`; fails if they are not as many bytes as expected.
    pub(super) fn logprobs(&self, bytes: &[u8]) -> std::result::Result<Vec<f32>, String> {
        let config = &self.config;
        let mut rest = Bytes { bytes };
        let short = || format!("{} bytes are too few for a token", bytes.len());
        let exact = rest.numbers(config.exact_dtype, config.exact_k);
        let mut values = exact.ok_or_else(short)?;
        let count = config.polynomial_terms.as_ref().map_or(0, Vec::len);
        let factors = rest.numbers(config.term_dtype, count).ok_or_else(short)?;
        let fits = self.terms.iter().map(|terms| {
            let products = terms.iter().zip(&factors).map(|(x, factor)| x * factor);
            products.sum::<f64>()
        });
        values.extend(fits);
        let mut place = config.exact_k;
        for bin in &config.residual_bins {
            let scale = rest.numbers(bin.scale_dtype, 1).ok_or_else(short)?[0];
            let length = (bin.element_bits * bin.num_elements).div_ceil(8);
            let packed = rest.take(length).ok_or_else(short)?;
            for element in bits(packed, bin.element_bits, bin.num_elements) {
                values[place] += match bin.element_bits {
                    1 => (element as f64 * 2.0 - 1.0) * scale,
                    bits => (element as f64 - (1u64 << (bits - 1)) as f64) * scale,
                };
                place += 1;
            }
        }
        if !rest.bytes.is_empty() {
            return Err(format!(
                "{} bytes are {} too many for a token",
                bytes.len(),
                rest.bytes.len()
            ));
        }
        if config.delta_encoding {
            let mut sum = 0.0;
            for value in &mut values {
                sum += *value;
                *value = sum;
            }
        }
        Ok(values.into_iter().map(|x| x as f32).collect())
    }

    /// The k ids in `bytes`.
    pub(super) fn ids(&self, bytes: &[u8]) -> std::result::Result<Vec<u32>, String> {
        let (width, k) = (self.config.id_bits(), self.config.k);
        let expected = (width * k).div_ceil(8);
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(format!("{found} bytes of ids, expected {expected}"));
        }
        Ok(bits(bytes, width, k).map(|id| id as u32).collect())
    }

    fn sample(
        &self,
        ids: Vec<u32>,
        logprobs: &[Vec<u8>],
        packed: &[Vec<u8>],
        place: &str,
    ) -> Result<Found> {
        let wrong = |problem: String| {
            Error::input(place, problem)
                .remedy("the configuration must be the one that it was made with")
        };
        // The first token has no distribution.
        let first = ids.len().checked_sub(logprobs.len());
        if packed.len() != logprobs.len() || !matches!(first, Some(0 | 1)) {
            return Err(wrong(format!(
                "{} tokens with {} lists of log-probabilities and {} of ids",
                ids.len(),
                logprobs.len(),
                packed.len()
            )));
        }
        // Where there are as many as tokens, the last is about what follows them.
        let rows = logprobs.iter().zip(packed).enumerate();
        let rows = rows.map(|(at, (logprobs, packed))| {
            Ok(FoundRow {
                next: at + 1,
                values: self.logprobs(logprobs)?,
                ids: self.ids(packed)?,
                are: match self.config.exact_k == self.config.k {
                    true => Values::Logprobs(None),
                    false => Values::Approximate(self.config.exact_k as u32),
                },
            })
        });
        let rows: std::result::Result<Vec<FoundRow>, String> = rows.collect();
        Ok(Found {
            rows: rows.map_err(wrong)?,
            place: place.to_owned(),
            ids,
            ce: None,
            repeated: false,
        })
    }

    fn batch(&self, batch: &RecordBatch, path: &Path, first: usize) -> Result<Vec<Found>> {
        let place = path.display().to_string();
        if batch.column_by_name("packed_indices").is_some() {
            return Err(Error::file(
                path,
                "holds logits in DistillKit's older format, whose normaliser is not stored",
            )
            .remedy("capture them again with a current DistillKit, or score the model here"));
        }
        let required = |name, data_type| Column::required(batch, &place, name, &data_type);
        let bytes = || list_of(list_of(DataType::UInt8));
        let ids = required("input_ids", list_of(DataType::UInt32))?;
        let logprobs = required("compressed_logprobs", bytes())?;
        let packed = required("bytepacked_indices", bytes())?;
        let rows = 0..batch.num_rows();
        let samples = rows.map(|row| {
            let place = format!("{place} row {}", first + row);
            let null = |problem: String| Error::input(&place, problem);
            let ids = ids.values::<UInt32Type>(row).map_err(null)?;
            let logprobs = logprobs.inner::<UInt8Type>(row).map_err(null)?;
            let packed = packed.inner::<UInt8Type>(row).map_err(null)?;
            self.sample(ids, &logprobs, &packed, &place)
        });
        samples.collect()
    }
}

/// The bytes that are left.
struct Bytes<'a> {
    bytes: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn numbers(&mut self, dtype: Dtype, count: usize) -> Option<Vec<f64>> {
        let taken = self.take(dtype.bytes() * count)?;
        let number = |b: &[u8]| match (dtype, b) {
            (Dtype::Float16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
            (Dtype::Bfloat16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
            (Dtype::Float32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
            (_, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => f64::NAN,
        };
        Some(taken.chunks_exact(dtype.bytes()).map(number).collect())
    }
}

/// `count` whole numbers of `width` bits, the most significant bit first.
fn bits(bytes: &[u8], width: usize, count: usize) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| {
        (at * width..(at + 1) * width).fold(0, |number, bit| {
            let byte = bytes.get(bit / 8).copied().unwrap_or(0);
            number << 1 | u64::from(byte >> (7 - bit % 8) & 1)
        })
    })
}

/// The files read, and their samples.
pub(super) fn open(from: &Path, config: Option<&Path>) -> Result<Opened> {
    let paths = files(from, ".parquet")?;
    let config = match (config, from.is_dir()) {
        (Some(path), _) => path.to_path_buf(),
        (None, true) => from.join("compression_config.yaml"),
        (None, false) => from.with_file_name("compression_config.yaml"),
    };
    let unpacker = std::sync::Arc::new(Unpacker::new(Config::read(&config)?));
    let head = unpacker.config.d;
    let mut inputs = paths.clone();
    inputs.push(config);
    let samples = paths.into_iter().flat_map(move |path| {
        let unpacker = unpacker.clone();
        read(&path, unpacker).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
    });
    Ok(Opened {
        files: inputs,
        samples: Box::new(samples),
        head: Some(head),
    })
}

fn read(path: &Path, unpacker: std::sync::Arc<Unpacker>) -> Result<Samples> {
    let file = File::open(path).at(path)?;
    let damaged =
        |error: &dyn std::fmt::Display| Error::file(path, format!("no readable Parquet: {error}"));
    let builder = open_parquet(file).map_err(|e| damaged(&e))?;
    let batches = parquet_batches(builder.with_batch_size(BATCH)).map_err(|e| damaged(&e))?;
    let path = path.to_path_buf();
    let mut first = 0;
    let samples = batches.flat_map(move |batch| {
        let found = batch
            .map_err(|error| Error::file(&path, format!("damaged: {error}")))
            .and_then(|batch| {
                let found = unpacker.batch(&batch, &path, first);
                first += batch.num_rows();
                found
            });
        match found {
            Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }
    });
    Ok(Box::new(samples))
}
