//! Digests of bytes from front to back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::{FileRecord, Of};
use crate::error::{Context, Result};
use crate::progress::check_interrupt;

/// Bytes read at a time: blake3 works on many of its chunks side by side.
const BUFFER: usize = 1 << 20;

/// The first 32 hexadecimal digits of a hash.
pub(crate) fn hex(hash: &blake3::Hash) -> String {
    hash.to_hex().as_str()[..32].to_owned()
}

/// A writer that takes the digest of what goes through it.
#[derive(Debug)]
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W> Hashing<W> {
    /// Nothing has been written to `inner` yet.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        }
    }

    /// What is written to.
    pub fn inner(&self) -> &W {
        &self.inner
    }

    /// What is written to, once all is.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// What was written so far.
    pub fn record(&self) -> FileRecord {
        FileRecord {
            bytes: self.bytes,
            digest: hex(&self.hasher.finalize()),
            of: Of::Bytes,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of the bytes of the file at `path`, read now.
///
/// # Errors
/// A failed read; the user's wish to stop.
pub(crate) fn digest_of_path(path: &Path) -> Result<String> {
    digest_of_file(&mut File::open(path).at(path)?, path)
}

/// The digest of what is left to read of `file`, found at `path`.
///
/// # Errors
/// A failed read; the user's wish to stop.
pub(crate) fn digest_of_file(file: &mut File, path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = file.read(&mut buffer).at(path)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        check_interrupt()?;
    }
}
