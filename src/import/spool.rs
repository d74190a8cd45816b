//! Rows that came before their turn, kept in a file without a name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::found::{FoundRow, Values};
use crate::error::{Error, Result};

/// Rows on disk. The file takes 8 bytes for each entry of a list and 20 for each row, and goes
/// when the program ends, however it ends.
#[derive(Debug)]
pub(super) struct Spool {
    /// A folder on the disk that has room for what is imported.
    dir: PathBuf,
    file: Option<File>,
    end: u64,
}

/// Where the rows of one sample are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    offset: u64,
    words: usize,
}

impl Spool {
    /// `near` is what is written in the end, whether it is there yet or not.
    pub(super) fn new(near: &Path) -> Self {
        let dir = near.ancestors().find(|dir| dir.is_dir());
        Self {
            dir: dir.unwrap_or(Path::new(".")).to_path_buf(),
            file: None,
            end: 0,
        }
    }

    /// Whether anything was put.
    pub(super) fn is_used(&self) -> bool {
        self.file.is_some()
    }

    fn file(&mut self) -> std::io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.dir)?,
        };
        Ok(self.file.insert(file))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let file = self.file()?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let file = self.file()?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    pub(super) fn put(&mut self, rows: &[FoundRow]) -> Result<Kept> {
        let mut words: Vec<u32> = Vec::new();
        for row in rows {
            let (kind, value) = tag(row.are);
            words.extend([
                row.next as u32,
                row.ids.len() as u32,
                row.values.len() as u32,
            ]);
            words.extend([kind, value]);
            words.extend(&row.ids);
            words.extend(row.values.iter().map(|x| x.to_bits()));
        }
        let offset = self.end;
        self.write(offset, bytemuck::cast_slice(&words))
            .map_err(|error| Error::io(&self.dir, error))?;
        self.end += words.len() as u64 * 4;
        Ok(Kept {
            offset,
            words: words.len(),
        })
    }

    pub(super) fn get(&mut self, kept: Kept) -> Result<Vec<FoundRow>> {
        let mut words = vec![0u32; kept.words];
        self.read(kept.offset, bytemuck::cast_slice_mut(&mut words))
            .map_err(|error| Error::io(&self.dir, error))?;
        let mut rows = Vec::new();
        let mut rest = words.as_slice();
        while let Some(([next, ids, values, kind, value], after)) = rest.split_first_chunk() {
            let (listed, after) = after.split_at(*ids as usize);
            let (given, after) = after.split_at(*values as usize);
            rows.push(FoundRow {
                next: *next as usize,
                ids: listed.to_vec(),
                values: given.iter().map(|bits| f32::from_bits(*bits)).collect(),
                are: untagged(*kind, *value),
            });
            rest = after;
        }
        Ok(rows)
    }
}

/// What the values are, in two words.
fn tag(are: Values) -> (u32, u32) {
    match are {
        Values::Logprobs(None) => (0, 0),
        Values::Logprobs(Some(own)) => (1, own.to_bits()),
        Values::Logits(None) => (2, 0),
        Values::Logits(Some(nll)) => (3, nll.to_bits()),
        Values::Approximate(exact) => (4, exact),
    }
}

fn untagged(kind: u32, value: u32) -> Values {
    match kind {
        0 => Values::Logprobs(None),
        1 => Values::Logprobs(Some(f32::from_bits(value))),
        2 => Values::Logits(None),
        3 => Values::Logits(Some(f32::from_bits(value))),
        _ => Values::Approximate(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(&dir.path().join("not/there/yet"));
        let row = |next: usize, ids: &[u32], are| FoundRow {
            next,
            ids: ids.to_vec(),
            values: ids.iter().map(|id| -(*id as f32) / 3.0).collect(),
            are,
        };
        let samples = [
            vec![
                row(1, &[7, u32::MAX], Values::Logprobs(None)),
                row(2, &[], Values::Logprobs(Some(f32::NEG_INFINITY))),
            ],
            vec![],
            vec![
                row(1, &[1], Values::Logits(None)),
                row(9, &[2, 3, 4], Values::Logits(Some(0.5))),
                row(10, &[2], Values::Approximate(16)),
            ],
        ];
        let kept: Vec<Kept> = samples.iter().map(|s| spool.put(s).unwrap()).collect();
        for at in [2, 0, 1, 0] {
            assert_eq!(spool.get(kept[at]).unwrap(), samples[at]);
        }
        // Nothing is seen of the file.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
