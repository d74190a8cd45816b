//! Reading safetensors checkpoints through memory maps.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::companions::{INDEX, SINGLE};
use super::found::Found;
use super::index::Index;
use crate::error::{Context, Error, Result};
use crate::tensors::{Header, TensorInfo, View};

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

/// The files that a model folder's weights are in.
pub struct WeightFiles {
    /// Those that are there, by their paths in the folder, sorted.
    pub files: Vec<String>,
    /// Those that its index names and that are not there.
    pub missing: Vec<String>,
    /// The index, where it defines the model.
    index: Option<Index>,
}

impl WeightFiles {
    /// Finds those of the folder `dir`: `model.safetensors`, else the shards of
    /// `model.safetensors.index.json` (in that order, as transformers does), whatever else lies
    /// there. No files where there is neither.
    ///
    /// # Errors
    /// A damaged index.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join(INDEX);
        let single = dir.join(SINGLE).is_file();
        let index = match path.is_file() {
            // Beside a whole file only an index of that file counts.
            true if single => Index::read(&path).ok().filter(|i| i.files() == [SINGLE]),
            true => Some(Index::read(&path)?),
            false => None,
        };
        let named: Vec<String> = match &index {
            Some(index) => index.files().into_iter().map(str::to_owned).collect(),
            None if single => vec![SINGLE.to_owned()],
            None => Vec::new(),
        };
        let (files, missing) = named.into_iter().partition(|file| dir.join(file).exists());
        Ok(Self {
            files,
            missing,
            index,
        })
    }

    /// Whether the tensors are those that an index lists.
    pub fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// Whether a tensor that lies in `file` is the model's.
    pub fn has(&self, tensor: &str, file: &str) -> bool {
        let Some(index) = &self.index else {
            return true;
        };
        index.file_of(tensor) == Some(file)
    }

    /// The tensors of one of the files that are the model's; nothing without an index: all of them.
    fn tensors_of(&self, file: &str) -> Option<HashSet<&str>> {
        let tensors = self.index.as_ref()?.tensors.iter();
        let here = tensors.filter(|(_, name)| name == file);
        Some(here.map(|(tensor, _)| tensor.as_str()).collect())
    }
}

/// The safetensors files that a model folder's weights are in and that are there: by their paths in
/// it, sorted.
///
/// # Errors
/// Those of [`WeightFiles::of`].
pub fn weight_files(dir: &Path) -> Result<Vec<String>> {
    Ok(WeightFiles::of(dir)?.files)
}

/// An open checkpoint folder: every header checked, no tensor read yet.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    pub(super) tensors: Vec<(usize, TensorInfo)>,
    pub(super) by_name: HashMap<String, usize>,
    metadata: Vec<(String, String)>,
    unlisted: Vec<String>,
}

impl Checkpoint {
    /// Opens the files of [`WeightFiles`] in the folder `dir` or, where `dir` is itself a
    /// `.safetensors` file, that file. Where there is an index, it says which tensors there are, and
    /// in which file: what else a shard holds ([`Checkpoint::unlisted`]) is not the model's.
    ///
    /// # Errors
    ///
    /// Missing or unreadable files; an index that names files outside the folder (links that lie
    /// in it are followed, as in a download cache), missing shards, a tensor twice, or tensors that
    /// are not where it says; everything that [`Header::parse`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            dir: dir.to_path_buf(),
            shards: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            metadata: Vec::new(),
            unlisted: Vec::new(),
        };
        if dir.is_file() {
            checkpoint.dir = dir.parent().unwrap_or(Path::new("")).to_path_buf();
            checkpoint.add(dir.to_path_buf(), None)?;
            return Ok(checkpoint);
        }
        if !dir.exists() {
            return Err(Error::file(dir, "there is no such model folder")
                .remedy("give the path of a folder that holds config.json and safetensors files"));
        }
        let found = WeightFiles::of(dir)?;
        if let Some(index) = &found.index {
            for file in index.files() {
                checkpoint.add(index.shard(file)?, found.tensors_of(file))?;
            }
            for (tensor, file) in &index.tensors {
                if checkpoint.file_of(tensor) != Some(dir.join(file).as_path()) {
                    return Err(index.misplaced(tensor, file));
                }
            }
        } else if found.files.is_empty() {
            let problem = format!("expected `{SINGLE}` or `{INDEX}`, found neither");
            let what = Found::at(dir);
            let problem = match what.describe() {
                Some(what) => format!("{problem}, but {what}"),
                None => problem,
            };
            return Err(Error::file(dir, problem).remedy(what.remedy(dir)));
        } else {
            checkpoint.add(dir.join(SINGLE), None)?;
        }
        Ok(checkpoint)
    }

    /// Adds a file: its `listed` tensors, or all.
    fn add(&mut self, path: PathBuf, listed: Option<HashSet<&str>>) -> Result<()> {
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
            if listed
                .as_ref()
                .is_some_and(|listed| !listed.contains(tensor.name.as_str()))
            {
                self.unlisted.push(tensor.name);
                continue;
            }
            let Shard { path, .. } = &self.shards[shard];
            if !tensor.dtype.is_read() {
                let (name, dtype) = (&tensor.name, tensor.dtype.safetensors_name());
                let problem = format!("tensor `{name}`: dtype `{dtype}` is not supported");
                let remedy = "convert the model to float32, float16 or bfloat16";
                return Err(Error::file(path, problem).remedy(remedy));
            }
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

    /// Tensors that lie in the files and that the index does not list there: stale ones, and copies.
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// What is to be said about them.
    pub fn about_unlisted(&self) -> Option<String> {
        let first = self.unlisted.first()?;
        Some(format!(
            "{}: {} tensors in the files (such as `{first}`) are not listed there by the index: they \
             are not the model's and are left out",
            self.dir.display(),
            self.unlisted.len()
        ))
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

    /// Asks the system to read some bytes of a tensor ahead; those beyond its end are passed over.
    /// Has no effect on results.
    pub fn read_ahead(&self, name: &str, bytes: Range<usize>) {
        #[cfg(unix)]
        if let Some((shard, tensor)) = self.place(name)
            && let Some(map) = &shard.map
        {
            let (begin, length) = tensor.part(bytes);
            let _ = map.advise_range(memmap2::Advice::WillNeed, begin, length);
        }
        #[cfg(not(unix))]
        let _ = (name, bytes);
    }

    /// Drops the pages of some bytes of a tensor from this process; with `forget` also from the
    /// page cache, which otherwise keeps them as long as it likes. Bytes beyond the tensor's end are
    /// passed over. Has no effect on results.
    pub fn release(&self, name: &str, bytes: Range<usize>, forget: bool) {
        #[cfg(unix)]
        if let Some((shard, tensor)) = self.place(name)
            && let Some(map) = &shard.map
        {
            let (begin, length) = tensor.part(bytes);
            // SAFETY: the map is a read-only view of a file, so that dropped pages are read
            // from the file again when they are touched.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, length)
            };
            #[cfg(target_os = "linux")]
            if forget {
                let length = std::num::NonZeroU64::new(length as u64);
                let advice = rustix::fs::Advice::DontNeed;
                // Without it everything still works.
                let _ = rustix::fs::fadvise(&shard.file, begin as u64, length, advice);
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
