//! Writing a checkpoint: shards, headers and offsets are fixed before the first byte.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::cells::{self, Cells};
use super::companions::{INDEX, SINGLE};
use super::record::FolderRecord;
use crate::error::{Context, Error, Result};
use crate::tensors::{Header, TensorSpec};

/// One file of a layout.
#[derive(Clone, Debug)]
struct ShardLayout {
    file: String,
    header: Vec<u8>,
    data: u64,
}

/// Where every byte of a checkpoint will be.
///
/// Tensors keep the given order. A shard is closed before the tensor that would take it over
/// the limit, so that each holds at least one tensor and at most `shard_size` bytes of data
/// unless a single tensor is larger. Names are Hugging Face's: `model.safetensors` for one
/// shard, else `model-00001-of-00003.safetensors` and an index.
#[derive(Clone, Debug)]
pub struct Layout {
    tensors: Vec<TensorSpec>,
    /// Shard of each tensor, and its first byte in that file.
    places: Vec<(usize, u64)>,
    shards: Vec<ShardLayout>,
}

impl Layout {
    /// Lays out `tensors` in shards of at most `shard_size` bytes.
    ///
    /// # Errors
    ///
    /// Two tensors of one name, or a dtype that cannot be written.
    pub fn new(tensors: Vec<TensorSpec>, shard_size: u64) -> Result<Self> {
        let mut names = std::collections::HashSet::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut used = 0;
        for (at, tensor) in tensors.iter().enumerate() {
            if !names.insert(tensor.name.as_str()) {
                let message = format!("tensor `{}` would be written twice", tensor.name);
                return Err(Error::usage(message));
            }
            let bytes = tensor.bytes();
            match groups.last_mut() {
                Some(group) if bytes.saturating_add(used) <= shard_size => {
                    group.push(at);
                    used += bytes;
                }
                _ => {
                    groups.push(vec![at]);
                    used = bytes;
                }
            }
        }
        if groups.is_empty() {
            groups.push(Vec::new());
        }
        let count = groups.len();
        let mut places = vec![(0, 0); tensors.len()];
        let mut shards = Vec::new();
        for (shard, group) in groups.iter().enumerate() {
            let file = if count == 1 {
                SINGLE.to_owned()
            } else {
                format!("model-{:05}-of-{count:05}.safetensors", shard + 1)
            };
            let specs = group.iter().map(|at| &tensors[*at]);
            let (header, data) = Header::encode(&[("format", "pt")], specs);
            let mut offset = header.len() as u64;
            for at in group {
                places[*at] = (shard, offset);
                offset += tensors[*at].bytes();
            }
            shards.push(ShardLayout { file, header, data });
        }
        Ok(Self {
            tensors,
            places,
            shards,
        })
    }

    /// Lays out `tensors` in one file of this name.
    ///
    /// # Errors
    ///
    /// As [`Layout::new`].
    pub fn single(tensors: Vec<TensorSpec>, file: &str) -> Result<Self> {
        let mut layout = Self::new(tensors, u64::MAX)?;
        for shard in &mut layout.shards {
            file.clone_into(&mut shard.file);
        }
        Ok(layout)
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// The names of the files, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        self.shards.iter().map(|shard| shard.file.as_str())
    }

    /// Bytes of all files together, headers included.
    pub fn bytes(&self) -> u64 {
        self.shards
            .iter()
            .map(|s| s.header.len() as u64 + s.data)
            .sum()
    }

    /// Writes the files to `dir`, asking `get` for the bytes of one tensor after the other; returns
    /// what was written. Memory: one tensor.
    ///
    /// # Errors
    ///
    /// Those of `get`; failed writes.
    pub fn write(
        self,
        dir: &Path,
        mut get: impl FnMut(&TensorSpec) -> Result<Vec<u8>>,
    ) -> Result<FolderRecord> {
        let writer = CheckpointWriter::open(dir, self)?;
        for (at, spec) in writer.layout().tensors().iter().enumerate() {
            writer.write(at, 0, &get(spec)?)?;
            writer.complete(at)?;
        }
        let record = writer.record()?;
        writer.finish(dir)?;
        Ok(record)
    }

    /// The index file's content, where there is more than one shard.
    pub fn index(&self) -> Option<String> {
        if self.shards.len() < 2 {
            return None;
        }
        let data: u64 = self.shards.iter().map(|shard| shard.data).sum();
        let map: serde_json::Map<_, _> = self
            .tensors
            .iter()
            .zip(&self.places)
            .map(|(tensor, (shard, _))| {
                (tensor.name.clone(), self.shards[*shard].file.clone().into())
            })
            .collect();
        let index = serde_json::json!({ "metadata": { "total_size": data }, "weight_map": map });
        Some(format!("{index:#}\n"))
    }
}

/// The open files of a checkpoint that is being written.
pub struct CheckpointWriter {
    layout: Layout,
    files: Vec<(PathBuf, File)>,
    /// What has been written of each tensor.
    cells: Vec<Cells>,
    /// The digests of tensors that are complete.
    digests: Vec<OnceLock<blake3::Hash>>,
}

impl CheckpointWriter {
    /// Creates the files of `layout` in `dir` (which exists) at their full length, or, where
    /// they are there already from an interrupted run, opens them and keeps their data.
    ///
    /// # Errors
    ///
    /// Files that cannot be created or extended.
    pub fn open(dir: &Path, layout: Layout) -> Result<Self> {
        let mut files = Vec::new();
        for shard in &layout.shards {
            let path = dir.join(&shard.file);
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .at(&path)?;
            file.write_all(&shard.header).at(&path)?;
            file.set_len(shard.header.len() as u64 + shard.data)
                .at(&path)?;
            files.push((path, file));
        }
        let tensors = &layout.tensors;
        Ok(Self {
            cells: tensors.iter().map(|t| Cells::new(t.bytes())).collect(),
            digests: tensors.iter().map(|_| OnceLock::new()).collect(),
            layout,
            files,
        })
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes `bytes` at byte `offset` of tensor number `tensor` (its order in the layout).
    ///
    /// # Errors
    ///
    /// A failed write (a full disk, say).
    pub fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (shard, begin) = self.layout.places[tensor];
        let (path, file) = &self.files[shard];
        debug_assert!(offset + bytes.len() as u64 <= self.layout.tensors[tensor].bytes());
        write_at(file, bytes, begin + offset).at(path)?;
        self.cells[tensor].add(offset, bytes);
        Ok(())
    }

    /// Says that an interrupted run has completed a tensor, and what its digest was.
    pub fn restore(&self, tensor: usize, digest: blake3::Hash) {
        // One that is there already is the same.
        let _ = self.digests[tensor].set(digest);
    }

    /// Says that a tensor is complete, and returns its digest: the system begins to store it, so
    /// that [`CheckpointWriter::finish`] has less to wait for.
    ///
    /// # Errors
    ///
    /// A failed read of what was not written in one go.
    pub fn complete(&self, tensor: usize) -> Result<blake3::Hash> {
        self.start_storing(tensor);
        if let Some(digest) = self.digests[tensor].get() {
            return Ok(*digest);
        }
        let digest = match self.cells[tensor].digest() {
            Some(digest) => digest,
            None => {
                let (shard, begin) = self.layout.places[tensor];
                let bytes = self.layout.tensors[tensor].bytes();
                cells::in_file(&self.files[shard].0, begin..begin + bytes)?
            }
        };
        Ok(*self.digests[tensor].get_or_init(|| digest))
    }

    /// What was written to each file.
    ///
    /// # Errors
    ///
    /// As [`CheckpointWriter::complete`].
    pub fn record(&self) -> Result<FolderRecord> {
        let mut tensors: Vec<Vec<(u64, blake3::Hash)>> = vec![Vec::new(); self.files.len()];
        for (at, (shard, _)) in self.layout.places.iter().enumerate() {
            let bytes = self.layout.tensors[at].bytes();
            tensors[*shard].push((bytes, self.complete(at)?));
        }
        let mut record = FolderRecord::default();
        for (shard, tensors) in self.layout.shards.iter().zip(tensors) {
            record.insert(&shard.file, cells::of_file(&shard.header, tensors));
        }
        Ok(record)
    }

    fn start_storing(&self, tensor: usize) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let (shard, begin) = self.layout.places[tensor];
            let bytes = self.layout.tensors[tensor].bytes();
            let file = self.files[shard].1.as_raw_fd();
            let (begin, bytes) = (begin as libc::off64_t, bytes as libc::off64_t);
            // `rustix` lacks this call.
            // SAFETY: the descriptor is open as long as `self.files`. A failed start of writing
            // shows when `finish` waits for its end.
            unsafe { libc::sync_file_range(file, begin, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = tensor;
    }

    /// Flushes all files to disk and writes the index where there is more than one.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub fn finish(self, dir: &Path) -> Result<()> {
        for (path, file) in &self.files {
            file.sync_all().at(path)?;
        }
        if let Some(index) = self.layout.index() {
            let path = dir.join(INDEX);
            std::fs::write(&path, index).at(&path)?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
