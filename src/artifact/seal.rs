//! What was written of a part, in a small file beside it: `_part-00000.json`.
//!
//! ```text
//! { "bytes": 81234, "digest": "…", "footer": "…" }    length, digest of all bytes, of the footer
//! ```
//!
//! Length and footer are compared whenever a part is opened, the digest of all bytes by
//! `fuselm check` and `fuselm run --verify`. The name begins with `_`, so that pyarrow, Spark and
//! others that read whole folders pass the file over; patterns for `*.parquet` do not match it.
//!
//! The file gets its name just before its part does: a part that a killed program has finished is
//! never without it. One without is from a version that wrote none.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::files::{Claim, FileRecord, Of, Stamp, atomic, check_length, digest_of_path, hex};
use crate::progress::note;

/// What a Parquet file ends with: the footer's length in 4 bytes, and a word of 4.
const TAIL: u64 = 8;

/// How often it is looked whether a part and its seal belong together.
const SETTLING: usize = 16;

/// What to do about a damaged part.
pub(super) const REMEDY: &str = "remove it and run the stage again, it writes only what is missing";

/// What was written of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    bytes: u64,
    digest: String,
    footer: String,
}

impl Seal {
    /// The seal of a part whose bytes lie in `file` for now.
    pub fn new(record: FileRecord, file: &Path) -> Result<Self> {
        let opened = File::open(file).at(file)?;
        Ok(Self {
            footer: footer(opened, record.bytes, file)?,
            bytes: record.bytes,
            digest: record.digest,
        })
    }

    /// The seal that fits the part as it is.
    fn of(part: &Path) -> Result<Self> {
        let bytes = fs::metadata(part).at(part)?.len();
        let digest = digest_of_path(part)?;
        let of = Of::Bytes;
        Self::new(FileRecord { bytes, digest, of }, part)
    }

    /// Where the seal of the part `part` lies.
    pub fn path_of(part: &Path) -> PathBuf {
        let name = part.file_stem().unwrap_or_default().to_string_lossy();
        part.with_file_name(format!("_{name}.json"))
    }

    /// Writes it beside `part`.
    pub fn write(&self, part: &Path) -> Result<()> {
        let path = Self::path_of(part);
        let text = serde_json::to_string(self).at(&path)?;
        atomic::write(&path, (text + "\n").as_bytes())
    }

    /// Sees to it that the part that is there and the seal that is there belong together. They do,
    /// unless another process, to which this one seemed dead, gave the same part its name at the
    /// same moment: then the last part stays, and gets its seal. `ours` is the file with our bytes.
    ///
    /// # Errors
    /// The part is not what was written, though nobody else has touched it.
    pub fn settle(&self, part: &Path, ours: &File) -> Result<()> {
        let file_of = |metadata: &fs::Metadata| Stamp::of(metadata).file();
        let ours = file_of(&ours.metadata().at(part)?);
        // Each turn another process has written in between.
        for _ in 0..SETTLING {
            let found = Self::read(part)?;
            let is_right = found.as_ref().map(|seal| seal.check(part));
            let is_ours = file_of(&fs::metadata(part).at(part)?) == ours;
            match is_right {
                Some(Ok(())) => return Ok(()),
                Some(Err(error @ Error::Io { .. })) => return Err(error),
                Some(Err(error)) if is_ours && found.as_ref() == Some(self) => return Err(error),
                _ if is_ours => self.write(part)?,
                _ => Self::of(part)?.write(part)?,
            }
        }
        Err(Error::damaged(part, "several processes write it at once").remedy(REMEDY))
    }

    /// The seal of the part `part`, if it has one.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(part: &Path) -> Result<Option<Self>> {
        let path = Self::path_of(part);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::damaged(&path, e.to_string())
                .remedy("remove it and its part and run the stage again")
        })
    }

    /// Fails unless the part has the length and the footer that were written.
    pub fn check(&self, part: &Path) -> Result<()> {
        let file = File::open(part).at(part)?;
        let bytes = file.metadata().at(part)?.len();
        check_length(part, self.bytes, bytes).map_err(|error| error.remedy(REMEDY))?;
        match footer(file, bytes, part) {
            Ok(found) if found == self.footer => Ok(()),
            Err(Error::Io { path, source }) => Err(Error::io(path, source)),
            _ => Err(
                Error::damaged(part, "its footer is not the one that was written").remedy(REMEDY),
            ),
        }
    }

    /// What the part should hold.
    pub fn claim(self, part: &Path) -> Claim {
        Claim {
            path: part.to_path_buf(),
            expected: FileRecord {
                bytes: self.bytes,
                digest: self.digest,
                of: Of::Bytes,
            },
            digest: digest_of_path,
            remedy: REMEDY,
        }
    }
}

/// Says once that there are parts without a seal.
pub(super) fn say_unsealed(part: &Path) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        note(format!(
            "{}: a part from before digests were kept; whether such parts are damaged cannot be told",
            part.display()
        ));
    }
}

/// The digest of the footer of a Parquet file of `bytes` bytes.
fn footer(mut file: File, bytes: u64, path: &Path) -> Result<String> {
    let short = || Error::damaged(path, "not a complete Parquet file");
    let tail = bytes.checked_sub(TAIL).ok_or_else(short)?;
    let mut length = [0; 4];
    file.seek(SeekFrom::Start(tail)).at(path)?;
    file.read_exact(&mut length).at(path)?;
    let length = u64::from(u32::from_le_bytes(length));
    let start = tail.checked_sub(length).ok_or_else(short)?;
    file.seek(SeekFrom::Start(start)).at(path)?;
    let mut text = vec![0; (bytes - start) as usize];
    file.read_exact(&mut text).at(path)?;
    Ok(hex(&blake3::hash(&text)))
}
