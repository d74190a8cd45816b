//! A safetensors file of f32 and f64 numbers that is written and read from front to back, and is
//! there whole or not at all. Its metadata holds a JSON text under `fuselm`, and under `digest` that
//! of the whole file, with zeros in the digest's own place.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::artifact::atomic::Pending;
use crate::error::{Context, Error, Result};
use crate::integrity::{Hashing, hex};

/// Largest header that is read: far above that of any model.
const MAX_HEADER: u64 = 64 << 20;

/// What stands for the digest while it is taken.
const NO_DIGEST: &str = "00000000000000000000000000000000";

/// One tensor.
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    /// f64 rather than f32.
    pub double: bool,
}

/// A file under way.
pub(super) struct StateWriter {
    path: PathBuf,
    pending: Pending,
    writer: Hashing<BufWriter<File>>,
    /// The first byte of the digest.
    place: u64,
}

impl StateWriter {
    /// Begins a file of `entries`, whose numbers must then be written in this order.
    pub fn create(path: &Path, metadata: &str, entries: &[Entry]) -> Result<Self> {
        let mut tensors = Map::new();
        let metadata = json!({ "digest": NO_DIGEST, "fuselm": metadata });
        tensors.insert("__metadata__".to_owned(), metadata);
        let mut end = 0;
        for entry in entries {
            let (dtype, width) = if entry.double { ("F64", 8) } else { ("F32", 4) };
            let begin = end;
            end += entry.shape.iter().product::<usize>() * width;
            tensors.insert(
                entry.name.clone(),
                json!({ "dtype": dtype, "shape": entry.shape, "data_offsets": [begin, end] }),
            );
        }
        let mut text = Value::Object(tensors).to_string();
        // The format wants the data to begin at a multiple of 8.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let place = 8 + text.find(NO_DIGEST).unwrap_or(0) as u64;
        let (pending, file) = Pending::create(path)?;
        let mut writer = Self {
            path: path.to_path_buf(),
            pending,
            writer: Hashing::new(BufWriter::with_capacity(1 << 20, file)),
            place,
        };
        writer.write(&(text.len() as u64).to_le_bytes())?;
        writer.write(text.as_bytes())?;
        Ok(writer)
    }

    pub fn f32s(&mut self, mut values: Vec<f32>) -> Result<()> {
        // Little-endian on every machine.
        for value in &mut values {
            *value = f32::from_bits(value.to_bits().to_le());
        }
        self.write(bytemuck::cast_slice(&values))
    }

    pub fn f64s(&mut self, values: &[f64]) -> Result<()> {
        let mut each = values.iter().map(|value| value.to_le_bytes());
        each.try_for_each(|bytes| self.write(&bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).at(&self.path)
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let digest = self.writer.record().digest;
        let mut file = self
            .writer
            .into_inner()
            .into_inner()
            .map_err(|e| Error::io(&self.path, e.into_error()))?;
        file.seek(SeekFrom::Start(self.place)).at(&self.path)?;
        file.write_all(digest.as_bytes()).at(&self.path)?;
        self.pending.commit(&file)
    }
}

/// A file whose header was read.
pub(super) struct StateReader {
    path: PathBuf,
    reader: BufReader<File>,
    tensors: Map<String, Value>,
    metadata: String,
    /// Of what was read so far.
    hasher: blake3::Hasher,
    /// That of the whole file; none in files from before it was kept.
    digest: Option<String>,
}

impl StateReader {
    /// Opens `path`, if it is there.
    ///
    /// # Errors
    /// It is damaged: no header, or another size than its header says.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        let size = file.metadata().at(path)?.len();
        let mut state = Self {
            path: path.to_path_buf(),
            reader: BufReader::with_capacity(1 << 20, file),
            tensors: Map::new(),
            metadata: String::new(),
            hasher: blake3::Hasher::new(),
            digest: None,
        };
        let mut length = [0; 8];
        if state.reader.read_exact(&mut length).is_err() {
            return Err(state.damaged("no header"));
        }
        state.hasher.update(&length);
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER.min(size.saturating_sub(8)) {
            return Err(state.damaged("no valid header"));
        }
        let mut text = vec![0; length as usize];
        state.reader.read_exact(&mut text).at(path)?;
        state.tensors = serde_json::from_slice(&text).map_err(|e| state.damaged(&e.to_string()))?;
        // Every tensor is given by its last byte; the data ends where the last tensor does.
        let end = state
            .tensors
            .values()
            .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64())
            .max()
            .unwrap_or(0);
        if (8 + length).checked_add(end) != Some(size) {
            return Err(state.damaged("it has another size than its header says"));
        }
        let metadata = state.tensors.get("__metadata__");
        let digest = metadata.and_then(|metadata| metadata.get("digest")?.as_str());
        let digest = digest.map(str::to_owned);
        match metadata.and_then(|metadata| metadata.get("fuselm")?.as_str()) {
            Some(metadata) => state.metadata = metadata.to_owned(),
            None => return Err(state.damaged("no metadata `fuselm`")),
        }
        if let Some(digest) = digest {
            // The first place where it can stand.
            let place = text
                .windows(digest.len())
                .position(|at| at == digest.as_bytes());
            if let Some(place) = place.filter(|_| digest.len() == NO_DIGEST.len()) {
                text[place..place + digest.len()].copy_from_slice(NO_DIGEST.as_bytes());
            }
            state.digest = Some(digest);
        }
        state.hasher.update(&text);
        Ok(Some(state))
    }

    /// The JSON text given to [`StateWriter::create`].
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// First dimension of a tensor.
    pub fn rows(&self, tensor: &str) -> Result<u64> {
        let shape = self.tensors.get(tensor).and_then(|t| t.get("shape"));
        let rows = shape.and_then(|shape| shape.get(0)?.as_u64());
        rows.ok_or_else(|| self.damaged(&format!("no tensor `{tensor}`")))
    }

    /// Fails unless there is a tensor of this name.
    pub fn check_has(&self, tensor: &str) -> Result<()> {
        match self.tensors.contains_key(tensor) {
            true => Ok(()),
            false => Err(self.damaged(&format!("no tensor `{tensor}`"))),
        }
    }

    /// The next `count` numbers.
    pub fn f32s(&mut self, count: usize) -> Result<Vec<f32>> {
        let mut values = vec![0f32; count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        if self.reader.read_exact(bytes).is_err() {
            return Err(self.damaged("it ends early"));
        }
        self.hasher.update(bytes);
        for value in &mut values {
            *value = f32::from_bits(u32::from_le(value.to_bits()));
        }
        Ok(values)
    }

    /// The next `N` numbers.
    pub fn f64s<const N: usize>(&mut self) -> Result<[f64; N]> {
        let mut numbers = [0.0; N];
        for number in &mut numbers {
            let mut bytes = [0; 8];
            if self.reader.read_exact(&mut bytes).is_err() {
                return Err(self.damaged("it ends early"));
            }
            self.hasher.update(&bytes);
            *number = f64::from_le_bytes(bytes);
        }
        Ok(numbers)
    }

    /// Fails unless the file, of which all tensors must have been read, is what was written.
    pub fn check_read(&self) -> Result<()> {
        match &self.digest {
            Some(digest) if *digest != hex(&self.hasher.finalize()) => {
                Err(self.damaged("its bytes are not those that were written"))
            }
            _ => Ok(()),
        }
    }

    /// The error for a file that is not what it should be.
    pub fn damaged(&self, what: &str) -> Error {
        Error::damaged(&self.path, format!("the training state is damaged: {what}"))
            .remedy("remove the folder it is in to start the training anew")
    }
}
