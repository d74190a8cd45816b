//! Digests of tensors, whose bytes are written in any order and by several threads.
//!
//! A tensor is divided into cells of 64 KiB, counted from its first byte. Its digest is that of
//! its cells' digests one after the other; the digest of a safetensors file is that of its header's
//! digest (length field included) and of its tensors' digests in the order of their data, those
//! without bytes left out. A cell is hashed as soon as all its bytes have gone by.
//!
//! Memory: 32 bytes for each cell of a tensor that is being written, and the cells at the borders
//! of what threads write at the moment.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Context, Error, Result};
use crate::files::{FileRecord, Of, hex};
use crate::progress::check_interrupt;
use crate::tensors::Header;

/// Bytes of a cell.
const CELL: usize = 64 << 10;
/// Cells that a thread reads and hashes at a time.
const GROUP: u64 = 64;

/// The digest of a tensor's bytes.
#[cfg(test)]
pub(super) fn of_tensor(bytes: &[u8]) -> blake3::Hash {
    join(&bytes.par_chunks(CELL).map(blake3::hash).collect::<Vec<_>>())
}

/// What is written to a file with this header (length field included) and these tensors: the
/// length and the digest of each, in the order of their data.
pub(super) fn of_file(
    header: &[u8],
    tensors: impl IntoIterator<Item = (u64, blake3::Hash)>,
) -> FileRecord {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(header).as_bytes());
    let mut bytes = header.len() as u64;
    for (length, digest) in tensors {
        if length > 0 {
            hasher.update(digest.as_bytes());
            bytes += length;
        }
    }
    FileRecord {
        bytes,
        digest: hex(&hasher.finalize()),
        of: Of::Tensors,
    }
}

fn join(cells: &[blake3::Hash]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for cell in cells {
        hasher.update(cell.as_bytes());
    }
    hasher.finalize()
}

/// A tensor on its way to the disk.
#[derive(Debug)]
pub(super) struct Cells {
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty until the first bytes come.
    whole: Vec<Option<blake3::Hash>>,
    begun: HashMap<usize, Begun>,
    /// Bytes came twice.
    overlaps: bool,
}

/// A cell of which some bytes have come.
#[derive(Debug)]
struct Begun {
    bytes: Vec<u8>,
    filled: Vec<Range<usize>>,
}

impl Cells {
    /// A tensor of so many bytes, none of which has been written.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            state: Mutex::default(),
        }
    }

    /// Takes note of `bytes` that are written at byte `offset`.
    pub fn add(&self, offset: u64, bytes: &[u8]) {
        let begin = offset as usize;
        let end = begin + bytes.len();
        let last = self.bytes as usize;
        // Cells that are whole in `bytes`; the last one of the tensor may be shorter.
        let first_whole = begin.div_ceil(CELL);
        let end_whole = if end == last {
            last.div_ceil(CELL)
        } else {
            end / CELL
        };
        let part = |range: Range<usize>| &bytes[range.start - begin..range.end - begin];
        let whole: Vec<blake3::Hash> = (first_whole..end_whole)
            .map(|cell| blake3::hash(part(cell * CELL..((cell + 1) * CELL).min(last))))
            .collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.whole.is_empty() {
            state.whole = vec![None; last.div_ceil(CELL)];
        }
        for (cell, digest) in (first_whole..).zip(whole) {
            state.overlaps |= state.whole[cell].replace(digest).is_some();
        }
        // What is left lies before the first whole cell and behind the last.
        let middle = first_whole * CELL..(end_whole * CELL).min(last);
        let edges = match first_whole < end_whole {
            true => vec![begin..middle.start, middle.end..end],
            false => split(begin..end),
        };
        for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
            state.begin(edge.clone(), part(edge), last);
        }
    }

    /// The tensor's digest, if all its bytes have gone by once.
    pub fn digest(&self) -> Option<blake3::Hash> {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if self.bytes > 0 && state.whole.is_empty() || state.overlaps || !state.begun.is_empty() {
            return None;
        }
        let whole: Option<Vec<blake3::Hash>> = state.whole.into_iter().collect();
        Some(join(&whole?))
    }
}

/// A range that has no whole cell, at the border that it may cross.
fn split(range: Range<usize>) -> Vec<Range<usize>> {
    let border = range.start.next_multiple_of(CELL);
    match range.contains(&border) {
        true => vec![range.start..border, border..range.end],
        false => vec![range],
    }
}

impl State {
    /// Adds bytes of one cell.
    fn begin(&mut self, range: Range<usize>, bytes: &[u8], last: usize) {
        let cell = range.start / CELL;
        let start = cell * CELL;
        let length = CELL.min(last - start);
        let within = range.start - start..range.end - start;
        let begun = self.begun.entry(cell).or_insert_with(|| Begun {
            bytes: vec![0; length],
            filled: Vec::new(),
        });
        let meets = |other: &Range<usize>| other.start < within.end && within.start < other.end;
        if self.whole[cell].is_some() || begun.filled.iter().any(meets) {
            self.overlaps = true;
            return;
        }
        begun.bytes[within.clone()].copy_from_slice(bytes);
        begun.filled.push(within);
        if begun
            .filled
            .iter()
            .map(ExactSizeIterator::len)
            .sum::<usize>()
            == length
        {
            self.whole[cell] = Some(blake3::hash(&begun.bytes));
            self.begun.remove(&cell);
        }
    }
}

/// The digest of the tensor at these bytes of a file.
///
/// # Errors
/// A failed read; the user's wish to stop.
pub(super) fn in_file(path: &Path, place: Range<u64>) -> Result<blake3::Hash> {
    let step = GROUP * CELL as u64;
    let starts: Vec<u64> = (place.start..place.end).step_by(step as usize).collect();
    let groups = starts
        .into_par_iter()
        .map(|start| {
            check_interrupt()?;
            let length = step.min(place.end - start) as usize;
            let mut bytes = vec![0; length];
            let mut file = File::open(path).at(path)?;
            file.seek(SeekFrom::Start(start)).at(path)?;
            file.read_exact(&mut bytes).at(path)?;
            Ok(bytes.chunks(CELL).map(blake3::hash).collect())
        })
        .collect::<Result<Vec<Vec<blake3::Hash>>>>()?;
    Ok(join(&groups.concat()))
}

/// The digest of what the safetensors file at `path` holds now.
///
/// # Errors
/// Its header is damaged; a failed read; the user's wish to stop.
pub(super) fn digest_of_path(path: &Path) -> Result<String> {
    let mut file = File::open(path).at(path)?;
    let (header, bytes) = Header::read(path, &mut file).map_err(|error| match error {
        // Any header that is refused is another than was written.
        Error::Input { problem, .. } => Error::damaged(path, problem),
        other => other,
    })?;
    let tensors = header
        .tensors
        .par_iter()
        .map(|tensor| {
            let place = tensor.begin as u64..tensor.end as u64;
            Ok((place.end - place.start, in_file(path, place)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(of_file(&bytes, tensors).digest)
}
