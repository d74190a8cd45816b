//! The header of a GGUF file: metadata and the list of tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3. Nothing
//! that a file claims is believed before it is compared with the file's length, and no memory is
//! set aside for a number that it claims.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::types::{self, GgufType};
use crate::error::{Error, Result};

/// One value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    /// `count` elements of the type `kind`; the first begins at byte `begin`.
    Array {
        kind: u32,
        count: u64,
        begin: usize,
    },
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => write!(f, "{number}"),
            Self::Signed(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Text(text) if text.chars().count() > 60 => write!(f, "a longer text"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Array { count, .. } => write!(f, "a list of {count}"),
        }
    }
}

/// Type codes of metadata.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of one value of a type that has a fixed size.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// One tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Its element type.
    pub dtype: GgufType,
    /// Outermost dimension first, the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
}

/// All that is known about a file before its weights are read.
pub(super) struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: BTreeMap<String, GgufTensor>,
}

impl Header {
    /// Reads the header of `bytes`, the content of the file `path`.
    ///
    /// # Errors
    /// Not a GGUF file, damaged, truncated, or of a type that cannot be read; names the field or
    /// tensor.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { path, bytes, at: 0 };
        let Contents { metadata, tensors } = cursor.contents()?;
        let data = cursor.data_begin(&metadata)?;
        let mut found = BTreeMap::new();
        for tensor in tensors {
            let name = tensor.name.clone();
            let info = cursor.locate(tensor, data)?;
            if found.insert(name.clone(), info).is_some() {
                return Err(cursor.damaged(format!("tensor `{name}` is there twice")));
            }
        }
        Ok(Self {
            metadata,
            tensors: found,
        })
    }
}

/// What a file says about itself.
pub(super) struct Contents {
    pub metadata: HashMap<String, Value>,
    /// In the order of the file.
    pub tensors: Vec<Listed>,
}

impl Contents {
    /// Reads the header of `bytes`, whatever types its tensors have.
    ///
    /// # Errors
    /// Not a GGUF file, damaged, truncated.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        Cursor { path, bytes, at: 0 }.contents()
    }
}

impl Cursor<'_> {
    fn contents(&mut self) -> Result<Contents> {
        let cursor = self;
        let (path, bytes) = (cursor.path, cursor.bytes);
        if bytes.get(..4) != Some(b"GGUF") {
            return Err(Error::file(path, "not a GGUF file")
                .remedy("give a `.gguf` file as llama.cpp writes it"));
        }
        cursor.at = 4;
        let version = cursor.u32()?;
        if !matches!(version, 2 | 3) {
            let problem = match version.swap_bytes() {
                2 | 3 => "is in big-endian order, which cannot be read".to_owned(),
                _ => format!("expected GGUF version 2 or 3, found {version}"),
            };
            return Err(Error::file(path, problem).remedy("convert the model again"));
        }
        let (tensors, values) = (cursor.u64()?, cursor.u64()?);
        let mut metadata = HashMap::new();
        for _ in 0..values {
            let key = cursor.text()?;
            let kind = cursor.u32()?;
            let value = cursor.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(cursor.damaged(format!("metadata `{key}` is there twice")));
            }
        }
        let mut listed = Vec::new();
        for _ in 0..tensors {
            listed.push(cursor.tensor()?);
        }
        Ok(Contents {
            metadata,
            tensors: listed,
        })
    }
}

/// The elements of an array of texts that starts at `begin`, as their bytes.
pub(super) fn texts(bytes: &[u8], begin: usize, count: u64) -> impl Iterator<Item = &[u8]> {
    let mut at = begin;
    (0..count).map_while(move |_| {
        let length = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        let from = at + 8;
        at = from.checked_add(usize::try_from(length).ok()?)?;
        bytes.get(from..at)
    })
}

/// The elements of an array of 4-byte numbers that starts at `begin`, as their bytes.
pub(super) fn quads(bytes: &[u8], begin: usize, count: u64) -> impl Iterator<Item = [u8; 4]> {
    let quads = bytes.get(begin..).unwrap_or_default().chunks_exact(4);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    quads.filter_map(|quad| quad.try_into().ok()).take(count)
}

/// A tensor as the header lists it.
pub(super) struct Listed {
    name: String,
    pub shape: Vec<usize>,
    /// The code of its element type.
    pub code: u32,
    offset: u64,
}

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn damaged(&self, problem: String) -> Error {
        Error::file(self.path, problem).remedy("the file is damaged or incomplete; get it again")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .and_then(|end| Some((end, self.bytes.get(self.at..end)?)));
        match taken {
            Some((end, taken)) => {
                self.at = end;
                Ok(taken)
            }
            None => Err(self.damaged(format!(
                "its header wants {length} bytes at byte {}, the file has {}",
                self.at,
                self.bytes.len()
            ))),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N as u64)?);
        Ok(number)
    }

    fn u32(&mut self) -> Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.number().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let at = self.at;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.damaged(format!("the name or text at byte {at} is not UTF-8"))),
        }
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.number()?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.number()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.number()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.number()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.number()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.number()?))),
            7 => Value::Flag(u8::from_le_bytes(self.number()?) != 0),
            TEXT => {
                // Texts of models are not always whole characters.
                let length = self.u64()?;
                Value::Text(String::from_utf8_lossy(self.take(length)?).into_owned())
            }
            ARRAY => self.array(key)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.number()?)),
            12 => Value::Float(f64::from_le_bytes(self.number()?)),
            _ => return Err(self.damaged(format!("metadata `{key}` is of unknown type {kind}"))),
        })
    }

    fn array(&mut self, key: &str) -> Result<Value> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let begin = self.at;
        match fixed_size(kind) {
            // More than u64 bytes is more than the file as well.
            Some(size) => drop(self.take(count.saturating_mul(size))?),
            None if kind == TEXT => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.take(length)?;
                }
            }
            None => {
                let problem = format!("metadata `{key}` is an array of unknown type {kind}");
                return Err(self.damaged(problem));
            }
        }
        Ok(Value::Array { kind, count, begin })
    }

    fn tensor(&mut self) -> Result<Listed> {
        let name = self.text()?;
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            let problem = format!("tensor `{name}`: expected 1 to 4 dimensions, found {rank}");
            return Err(self.damaged(problem));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            let size = self.u64()?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.insert(0, size),
                _ => return Err(self.damaged(format!("tensor `{name}` has a dimension of {size}"))),
            }
        }
        let code = self.u32()?;
        Ok(Listed {
            name,
            shape,
            code,
            offset: self.u64()?,
        })
    }

    /// Where the tensors' bytes begin.
    fn data_begin(&self, metadata: &HashMap<String, Value>) -> Result<usize> {
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            // At least 8 keeps every block where its numbers may be read.
            Some(Value::Unsigned(n)) if n.is_multiple_of(8) && (8..=1 << 20).contains(n) => {
                *n as usize
            }
            Some(_) => {
                let problem = "metadata `general.alignment`: expected a multiple of 8 up to 2^20";
                return Err(self.damaged(problem.to_owned()));
            }
        };
        Ok(self.at.next_multiple_of(alignment))
    }

    fn locate(&self, tensor: Listed, data: usize) -> Result<GgufTensor> {
        let Listed {
            name,
            shape,
            code,
            offset,
        } = tensor;
        let dtype = types::dtype(code).map_err(|found| {
            Error::file(
                self.path,
                format!(
                    "tensor `{name}`: expected one of {}, found {found}",
                    types::known()
                ),
            )
            .remedy("quantise the model to one of these, Q4_K_M for example")
        })?;
        let width = shape[shape.len() - 1];
        if !width.is_multiple_of(dtype.block_size()) {
            return Err(self.damaged(format!(
                "tensor `{name}`: rows of {width} numbers are not whole blocks of {}",
                dtype.block_size()
            )));
        }
        let length = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .and_then(|elements| (elements / dtype.block_size()).checked_mul(dtype.block_bytes()));
        let bytes = length.and_then(|length| {
            let begin = data.checked_add(usize::try_from(offset).ok()?)?;
            let end = begin.checked_add(length)?;
            (end <= self.bytes.len()).then_some(begin..end)
        });
        let Some(bytes) = bytes else {
            return Err(self.damaged(format!(
                "tensor `{name}` {shape:?} does not lie within the file's {} bytes",
                self.bytes.len()
            )));
        };
        if !bytes.start.is_multiple_of(8) {
            return Err(self.damaged(format!("tensor `{name}` is not aligned")));
        }
        Ok(GgufTensor {
            dtype,
            shape,
            bytes,
        })
    }
}
