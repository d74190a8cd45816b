//! Reading a checkpoint folder through memory maps.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use super::dtype::Dtype;
use super::header::{Header, Pairs, TensorInfo};
use crate::error::{Context, Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A range of numbers that can be read as `f32`, from any thread.
pub trait Elements: Sync {
    /// How many elements there are.
    fn len(&self) -> usize;

    /// Reads the elements `start .. start + out.len()`, which must exist.
    fn read(&self, start: usize, out: &mut [f32]);

    /// Reads a few elements that lie apart from those that are read next.
    fn peek(&self, start: usize, out: &mut [f32]) {
        self.read(start, out);
    }

    /// Says that a range is not needed again for a while. Has no effect on results.
    fn done(&self, _range: Range<usize>) {}

    /// Whether there is no element.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Numbers in memory.
impl Elements for Vec<f32> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }
}

/// A tensor of an open checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions; empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, little-endian, row-major, with no particular alignment.
    pub bytes: &'a [u8],
}

impl View<'_> {
    /// All elements as `f32`. Memory: 4 bytes per element.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.dtype.decode(self.bytes, &mut out);
        out
    }
}

impl Elements for View<'_> {
    fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        self.dtype.decode(bytes, out);
    }
}

struct Shard {
    path: PathBuf,
    #[cfg_attr(not(unix), allow(dead_code))]
    file: File,
    map: Option<Mmap>,
}

impl Shard {
    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

/// An open checkpoint folder: every header checked, no tensor read yet.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    tensors: Vec<(usize, TensorInfo)>,
    by_name: HashMap<String, usize>,
    metadata: Vec<(String, String)>,
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, else the shards named by `dir/model.safetensors.index.json`
    /// (in that order, as transformers does), or, where `dir` is itself a `.safetensors` file, that file.
    ///
    /// # Errors
    ///
    /// Missing or unreadable files; an index that names files outside the folder (links that lie
    /// in it are followed, as in a download cache), missing shards, a tensor twice, or tensors that
    /// are elsewhere or nowhere; a tensor in two shards; everything that [`Header::parse`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            dir: dir.to_path_buf(),
            shards: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            metadata: Vec::new(),
        };
        if dir.is_file() {
            checkpoint.dir = dir.parent().unwrap_or(Path::new("")).to_path_buf();
            checkpoint.add(dir.to_path_buf())?;
            return Ok(checkpoint);
        }
        if !dir.exists() {
            return Err(Error::file(dir, "there is no such model folder")
                .remedy("give the path of a folder that holds config.json and safetensors files"));
        }
        let index = dir.join(INDEX);
        if dir.join(SINGLE).is_file() {
            checkpoint.add(dir.join(SINGLE))?;
        } else if index.is_file() {
            checkpoint.add_index(&index)?;
        } else {
            let problem = format!("expected `{SINGLE}` or `{INDEX}`, found neither");
            let error = Error::file(dir, problem);
            return Err(if dir.join("pytorch_model.bin").exists() {
                error.remedy("convert the pickled weights to safetensors first")
            } else {
                error.remedy("give the path of a folder that holds safetensors files")
            });
        }
        Ok(checkpoint)
    }

    fn add_index(&mut self, index: &Path) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: Pairs,
        }
        let text = std::fs::read(index).at(index)?;
        let parsed: Index = serde_json::from_slice(&text)
            .map_err(|error| Error::file(index, format!("expected a weight map: {error}")))?;
        let weight_map = parsed.weight_map.0;
        let mut files: Vec<&String> = weight_map.iter().map(|(_, file)| file).collect();
        files.sort();
        files.dedup();
        for name in files {
            let inside = Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside || name.is_empty() {
                let problem = format!("shard `{name}` lies outside the folder");
                return Err(Error::file(index, problem));
            }
            let path = self.dir.join(name);
            if !path.is_file() {
                return Err(Error::file(index, format!("shard `{name}` is missing"))
                    .remedy("download the model again, its weights are incomplete"));
            }
            self.add(path)?;
        }
        for (tensor, file) in &weight_map {
            let found = self.by_name.get(tensor).map(|at| self.tensors[*at].0);
            let found = found.map(|shard| self.shards[shard].path.as_path());
            if found != Some(self.dir.join(file).as_path()) {
                let problem = format!("tensor `{tensor}` is not in shard `{file}`");
                return Err(Error::file(index, problem)
                    .remedy("download the model again, index and shards do not belong together"));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).at(&path)?;
        let length = file.metadata().at(&path)?.len();
        let map = if length == 0 {
            None
        } else {
            // SAFETY: the map is read-only, and reads of it go through `&[u8]` without caching
            // assumptions about its content. A file that another process truncates meanwhile
            // ends this process with SIGBUS; that cannot be prevented, and damages nothing, as
            // results are renamed into place only when complete.
            Some(unsafe { Mmap::map(&file) }.at(&path)?)
        };
        let shard = self.shards.len();
        self.shards.push(Shard { path, file, map });
        let Shard { path, .. } = &self.shards[shard];
        let header = Header::parse(path, self.shards[shard].bytes())?;
        if self.metadata.is_empty() {
            self.metadata = header.metadata;
        }
        for tensor in header.tensors {
            let at = self.tensors.len();
            if let Some(other) = self.by_name.insert(tensor.name.clone(), at) {
                let other = &self.shards[self.tensors[other].0].path;
                let problem = format!("tensor `{}` is also in {}", tensor.name, other.display());
                return Err(Error::file(path, problem));
            }
            self.tensors.push((shard, tensor));
        }
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The metadata strings of the first file that has any.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// All tensors, in the order of the files and of the data in them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(_, tensor)| tensor)
    }

    /// What is known about a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|at| &self.tensors[*at].1)
    }

    /// A tensor, if the checkpoint has it.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let (shard, tensor) = &self.tensors[*self.by_name.get(name)?];
        Some(View {
            dtype: tensor.dtype,
            shape: &tensor.shape,
            bytes: &self.shards[*shard].bytes()[tensor.begin..tensor.end],
        })
    }

    /// A tensor that the checkpoint must have.
    ///
    /// # Errors
    ///
    /// The checkpoint has no tensor of that name; the nearest name is offered.
    pub fn tensor(&self, name: &str) -> Result<View<'_>> {
        self.get(name).ok_or_else(|| {
            let error = Error::file(&self.dir, format!("tensor `{name}` is missing"));
            let known = self.by_name.keys().map(String::as_str);
            match crate::error::did_you_mean(name, known) {
                Some(remedy) => error.remedy(remedy),
                None => error,
            }
        })
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        let (shard, _) = &self.tensors[*self.by_name.get(name)?];
        Some(&self.shards[*shard].path)
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|t| (t.end - t.begin) as u64).sum()
    }

    /// Reads bytes of a tensor from byte `start` on without mapping the pages around them, which
    /// costs ten times as much as to copy a few bytes. Returns whether that was possible.
    pub fn peek(&self, name: &str, start: usize, bytes: &mut [u8]) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileExt;
            self.place(name).is_some_and(|(shard, tensor)| {
                let at = (tensor.begin + start) as u64;
                shard.file.read_exact_at(bytes, at).is_ok()
            })
        }
        #[cfg(not(unix))]
        {
            let _ = (name, start, bytes);
            false
        }
    }

    /// Asks the system to read some bytes of a tensor ahead. Has no effect on results.
    pub fn read_ahead(&self, name: &str, bytes: Range<usize>) {
        #[cfg(unix)]
        if let Some((shard, tensor)) = self.place(name)
            && let Some(map) = &shard.map
        {
            let begin = tensor.begin + bytes.start;
            let _ = map.advise_range(memmap2::Advice::WillNeed, begin, bytes.len());
        }
        #[cfg(not(unix))]
        let _ = (name, bytes);
    }

    /// Drops the pages of some bytes of a tensor from this process; with `forget` also from the
    /// page cache, which otherwise keeps them as long as it likes. Has no effect on results.
    pub fn release(&self, name: &str, bytes: Range<usize>, forget: bool) {
        #[cfg(unix)]
        if let Some((shard, tensor)) = self.place(name)
            && let Some(map) = &shard.map
        {
            let begin = tensor.begin + bytes.start;
            // SAFETY: the map is a read-only view of a file, so that dropped pages are read
            // from the file again when they are touched.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, bytes.len())
            };
            #[cfg(target_os = "linux")]
            if forget {
                use std::os::fd::AsRawFd;
                let (begin, length) = (begin as libc::off_t, bytes.len() as libc::off_t);
                let advice = libc::POSIX_FADV_DONTNEED;
                // SAFETY: the descriptor is open as long as `shard.file` is.
                unsafe { libc::posix_fadvise(shard.file.as_raw_fd(), begin, length, advice) };
            }
            #[cfg(not(target_os = "linux"))]
            let _ = forget;
        }
        #[cfg(not(unix))]
        let _ = (name, bytes, forget);
    }

    #[cfg(unix)]
    fn place(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let (shard, tensor) = &self.tensors[*self.by_name.get(name)?];
        Some((&self.shards[*shard], tensor))
    }
}
