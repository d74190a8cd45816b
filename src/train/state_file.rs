//! A safetensors file of f32 and f64 numbers that is written and read from front to back, and is
//! there whole or not at all. Its metadata holds a JSON text under `fuselm`, and under `digest` that
//! of the whole file, with zeros in the digest's own place.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::files::atomic::Pending;
use crate::files::{Hashing, hex};
use crate::tensors::{Header, TensorInfo, TensorSpec};

/// What stands for the digest while it is taken.
const NO_DIGEST: &str = "00000000000000000000000000000000";

/// A file under way.
pub(super) struct StateWriter {
    path: PathBuf,
    pending: Pending,
    writer: Hashing<BufWriter<File>>,
    /// The first byte of the digest.
    place: u64,
}

impl StateWriter {
    /// Begins a file of `tensors`, whose numbers must then be written in this order.
    pub fn create(path: &Path, metadata: &str, tensors: &[TensorSpec]) -> Result<Self> {
        let metadata = [("digest", NO_DIGEST), ("fuselm", metadata)];
        let (header, _) = Header::encode(&metadata, tensors);
        let (pending, file) = Pending::create(path)?;
        let mut writer = Self {
            path: path.to_path_buf(),
            pending,
            writer: Hashing::new(BufWriter::with_capacity(1 << 20, file)),
            place: find(&header, NO_DIGEST).unwrap_or(0) as u64,
        };
        writer.write(&header)?;
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
    header: Header,
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
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        let (header, mut bytes) = Header::read(path, &mut file).map_err(|error| match error {
            Error::Input { problem, .. } => damaged(path, &problem),
            other => other,
        })?;
        let Some(metadata) = header.metadata("fuselm").map(str::to_owned) else {
            return Err(damaged(path, "no metadata `fuselm`"));
        };
        let digest = header.metadata("digest").map(str::to_owned);
        if let Some(digest) = digest.as_ref().filter(|d| d.len() == NO_DIGEST.len())
            && let Some(place) = find(&bytes, digest)
        {
            bytes[place..place + digest.len()].copy_from_slice(NO_DIGEST.as_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        Ok(Some(Self {
            path: path.to_path_buf(),
            reader: BufReader::with_capacity(1 << 20, file),
            header,
            metadata,
            hasher,
            digest,
        }))
    }

    /// The JSON text given to [`StateWriter::create`].
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// First dimension of a tensor.
    pub fn rows(&self, tensor: &str) -> Result<u64> {
        let rows = self.tensor(tensor)?.shape.first();
        rows.map(|rows| *rows as u64)
            .ok_or_else(|| self.damaged(&format!("no rows in tensor `{tensor}`")))
    }

    /// Fails unless there is a tensor of this name.
    pub fn check_has(&self, tensor: &str) -> Result<()> {
        self.tensor(tensor).map(drop)
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let found = self
            .header
            .tensors
            .iter()
            .find(|tensor| tensor.name == name);
        found.ok_or_else(|| self.damaged(&format!("no tensor `{name}`")))
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
        damaged(&self.path, what)
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::damaged(path, format!("the training state is damaged: {what}"))
        .remedy("remove the folder it is in to start the training anew")
}

/// The first place of `text` in `bytes`.
fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes
        .windows(text.len())
        .position(|at| at == text.as_bytes())
}
