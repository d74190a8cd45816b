//! The header of one safetensors file, parsed and checked before any tensor is touched.
//!
//! Layout: 8 bytes little-endian length *n*, *n* bytes of JSON
//! (`{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {..}}`), then
//! the data, which the tensors cover without gap or overlap.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::dtype::Dtype;
use crate::error::{Context, Error, Result};

/// Longest header that is read: 100 MB, as in the format's own implementation.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Longest name of a tensor, in bytes, and most dimensions: real ones are far below, and messages
/// stay readable.
const MAX_NAME: usize = 1024;
const MAX_DIMENSIONS: usize = 32;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub begin: usize,
    /// One past the last byte.
    pub end: usize,
}

impl TensorInfo {
    /// Where some of its bytes begin in the file, and how many of them there are.
    pub(crate) fn part(&self, bytes: Range<usize>) -> (usize, usize) {
        let length = self.end - self.begin;
        let begin = bytes.start.min(length);
        (
            self.begin + begin,
            bytes.end.min(length).saturating_sub(begin),
        )
    }
}

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many bytes its data take.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.elements() as u64)
    }
}

/// The checked header of one file; tensors in the order of their data.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Free-form strings (`format: pt`).
    pub metadata: Vec<(String, String)>,
    /// The tensors, by offset.
    pub tensors: Vec<TensorInfo>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

enum RawEntry {
    Metadata(Vec<(String, String)>),
    Tensor(RawTensor),
}

/// The header's entries as written, so that a repeated name is seen.
struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> serde::Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let entry = if name == "__metadata__" {
                        RawEntry::Metadata(map.next_value::<Pairs<String>>()?.0)
                    } else {
                        RawEntry::Tensor(map.next_value()?)
                    };
                    entries.push((name, entry));
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// An object, in order; a repeated key is an error.
pub(crate) struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: serde::Deserialize<'de>> serde::Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: serde::Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                let mut seen = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(key.clone()) {
                        let shown = key.escape_debug().take(MAX_NAME).collect::<String>();
                        return Err(A::Error::custom(format!("`{shown}` occurs twice")));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl Header {
    /// Parses and checks the header of `file`, whose whole content is `bytes` (only the header
    /// is read; the length is compared with the offsets).
    ///
    /// # Errors
    ///
    /// A truncated or oversized header, wrong JSON, an unknown dtype, a repeated name or one that
    /// cannot be shown, offsets that overflow, overlap, leave a gap, disagree with shape and
    /// dtype, or do not end with the file.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        Self::parse_start(file, bytes, bytes.len() as u64)
    }

    /// Reads the header of `file`, found at `path`, from its first byte on; returns its bytes as
    /// well, with the length field. The file's place is then the first byte of the data.
    ///
    /// # Errors
    ///
    /// As [`Header::parse`]; a failed read.
    pub fn read(path: &Path, file: &mut File) -> Result<(Self, Vec<u8>)> {
        let total = file.metadata().at(path)?.len();
        let mut bytes = Vec::new();
        file.by_ref().take(8).read_to_end(&mut bytes).at(path)?;
        if let Some((length, _)) = bytes.split_first_chunk() {
            // What claims to be longer is refused unread.
            let length = Some(u64::from_le_bytes(*length)).filter(|n| *n <= MAX_HEADER_BYTES);
            file.take(length.unwrap_or(0))
                .read_to_end(&mut bytes)
                .at(path)?;
        }
        Ok((Self::parse_start(path, &bytes, total)?, bytes))
    }

    /// The header of a file of these tensors, with its length field and padded to 8 bytes, and the
    /// bytes of the data.
    pub fn encode<'a>(
        metadata: &[(&str, &str)],
        tensors: impl IntoIterator<Item = &'a TensorSpec>,
    ) -> (Vec<u8>, u64) {
        let metadata = metadata
            .iter()
            .map(|(key, text)| ((*key).into(), (*text).into()));
        let mut entries = serde_json::Map::new();
        entries.insert("__metadata__".into(), Value::Object(metadata.collect()));
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.bytes();
            let entry = serde_json::json!({
                "dtype": tensor.dtype.safetensors_name(),
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            });
            entries.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        (bytes, offset)
    }

    /// A text of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let found = self.metadata.iter().find(|(name, _)| name == key);
        found.map(|(_, text)| text.as_str())
    }

    /// [`Header::parse`] of a file of `total` bytes that begins with `bytes`.
    fn parse_start(file: &Path, bytes: &[u8], total: u64) -> Result<Self> {
        let bad = |problem: String| {
            Error::file(file, problem).remedy("the file is damaged or incomplete; copy it again")
        };
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(bad(format!(
                "expected a safetensors file, found {} bytes",
                bytes.len()
            )));
        };
        let after = usize::try_from(total).unwrap_or(usize::MAX) - 8;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            return Err(bad(format!(
                "the header claims {length} bytes, the limit is {MAX_HEADER_BYTES}"
            )));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(json) = rest.get(..length) else {
            return Err(bad(format!(
                "the header claims {length} bytes, the file has {after} after its length field"
            )));
        };
        let data_start = 8 + length;
        let data_len = after - length;
        let raw: RawHeader = serde_json::from_slice(json)
            .map_err(|error| bad(format!("the header is not what it should be: {error}")))?;

        let mut header = Self::default();
        let mut names = HashSet::new();
        for (name, entry) in raw.0 {
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let shown: String = name.escape_debug().take(80).collect();
                return Err(bad(format!(
                    "`{shown}` is no name of a tensor: it is too long or has control characters"
                )));
            }
            let at = |problem: String| bad(format!("tensor `{name}`: {problem}"));
            if !names.insert(name.clone()) {
                return Err(at("the name occurs twice".into()));
            }
            let tensor = match entry {
                RawEntry::Metadata(strings) => {
                    header.metadata = strings;
                    continue;
                }
                RawEntry::Tensor(tensor) => tensor,
            };
            let dtype = Dtype::from_safetensors(&tensor.dtype).ok_or_else(|| {
                let shown: String = tensor.dtype.escape_debug().take(80).collect();
                Error::file(
                    file,
                    format!("tensor `{name}`: dtype `{shown}` is not supported"),
                )
                .remedy("convert the model to float32, float16 or bfloat16")
            })?;
            if tensor.shape.len() > MAX_DIMENSIONS {
                let dimensions = tensor.shape.len();
                return Err(at(format!("{dimensions} dimensions are too many")));
            }
            let size = tensor
                .shape
                .iter()
                .try_fold(1u64, |elements, dim| elements.checked_mul(*dim))
                .and_then(|elements| dtype.checked_bytes(elements))
                .filter(|size| *size <= isize::MAX as u64)
                .ok_or_else(|| at(format!("the shape {:?} overflows", tensor.shape)))?;
            let (begin, end) = tensor.data_offsets;
            if end.checked_sub(begin) != Some(size) {
                return Err(at(format!(
                    "data offsets {begin}..{end}, but shape {:?} of {dtype} takes {size} bytes",
                    tensor.shape
                )));
            }
            if end > data_len as u64 {
                return Err(at(format!(
                    "data end at byte {end}, the file holds {data_len} bytes of data"
                )));
            }
            header.tensors.push(TensorInfo {
                name,
                dtype,
                shape: tensor.shape.iter().map(|dim| *dim as usize).collect(),
                begin: data_start + begin as usize,
                end: data_start + end as usize,
            });
        }
        header
            .tensors
            .sort_by_key(|tensor| (tensor.begin, tensor.end));
        let mut covered = data_start;
        for tensor in &header.tensors {
            if tensor.begin != covered {
                let what = if tensor.begin < covered {
                    "overlap"
                } else {
                    "leave a gap before"
                };
                return Err(bad(format!(
                    "the data of other tensors {what} those of tensor `{}`",
                    tensor.name
                )));
            }
            covered = tensor.end;
        }
        let end = data_start + data_len;
        if covered != end {
            return Err(bad(format!(
                "{} bytes after the last tensor belong to none",
                end - covered
            )));
        }
        Ok(header)
    }
}
