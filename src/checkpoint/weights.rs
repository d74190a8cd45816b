//! Reading safetensors checkpoints through memory maps.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::companions::{INDEX, SINGLE};
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

/// The safetensors files of a model folder that are there: all that lie in it, and those in folders
/// of it that its index names; by their paths in it, sorted.
///
/// # Errors
/// A folder that cannot be listed.
pub fn weight_files(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).at(dir)? {
        files.extend(entry.at(dir)?.file_name().into_string().ok());
    }
    files.retain(|name| name.ends_with(".safetensors"));
    // A damaged index is an error for those who read the weights.
    if let Ok(index) = Index::read(&dir.join(INDEX)) {
        let named = index
            .files()
            .into_iter()
            .filter(|file| dir.join(file).exists());
        files.extend(named.map(str::to_owned));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// An open checkpoint folder: every header checked, no tensor read yet.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    pub(super) tensors: Vec<(usize, TensorInfo)>,
    pub(super) by_name: HashMap<String, usize>,
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

    fn add_index(&mut self, path: &Path) -> Result<()> {
        let index = Index::read(path)?;
        for file in index.files() {
            self.add(index.shard(file)?)?;
        }
        for (tensor, file) in &index.tensors {
            if self.file_of(tensor) != Some(self.dir.join(file).as_path()) {
                return Err(index.misplaced(tensor, file));
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
