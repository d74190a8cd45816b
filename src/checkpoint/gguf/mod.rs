//! GGUF files, the quantised models of llama.cpp, open for reading.
//!
//! A file carries everything but the tokenizer in a form that we run: its metadata becomes a
//! `config.json`, and its tensors are mapped. What they mean for a model is the model's concern.

mod header;
mod long_rope;
mod metadata;
mod summary;
mod tokenizer;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::{Map, Value as Json};

use crate::error::{Context, Error, Result};
pub use header::GgufTensor;
use header::{Header, Value};
use metadata::Metadata;
pub use summary::GgufSummary;
pub use types::GgufType;

/// Whether `path` is a file that is called `*.gguf`.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gguf") && path.is_file()
}

/// The files of the model that `path` is, or is one of (`name-00001-of-00003.gguf`), in order.
///
/// Files that do not exist are listed as well.
pub fn gguf_files(path: &Path) -> Vec<PathBuf> {
    let split = || {
        let stem = path.file_stem()?.to_str()?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        let count: usize = count.parse().ok()?;
        let name = |n| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"));
        Some((1..=count).map(name).collect())
    };
    split().unwrap_or_else(|| vec![path.to_owned()])
}

/// How parts of a model have to be called.
const PARTS: &str = "let all parts lie in one folder, called `NAME-00001-of-00003.gguf` and so on as llama.cpp \
                     calls them, and give the first";

/// Opens one of `count` files of a model.
fn open_part(path: &Path, count: usize) -> Result<File> {
    match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound && count > 1 => {
            let problem = format!("is missing, one of the {count} parts of a split model");
            Err(Error::input(path.display(), problem).remedy(PARTS))
        }
        file => file.at(path),
    }
}

/// Compares what a file says of being a part of a model with its name.
fn check_part(path: &Path, header: &Header, index: usize, count: usize) -> Result<()> {
    let metadata = Metadata { path, header };
    let Some(stated) = metadata.size("split.count")? else {
        return Ok(());
    };
    let number = metadata.size("split.no")?.unwrap_or(index as u64);
    // Parts that were joined again say 0.
    if (stated.max(1), number) == (count as u64, index as u64) {
        return Ok(());
    }
    let problem = format!(
        "is part {} of {stated} of a split model (metadata `split.no`, `split.count`), by its name {} of {count}",
        number.saturating_add(1),
        index + 1
    );
    Err(Error::file(path, problem).remedy(PARTS))
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
}

/// An opened GGUF model: mapped, its headers checked.
pub struct Gguf {
    files: Vec<Mapped>,
    /// Of the first file, which has all of the metadata.
    header: Header,
    /// File and place of each tensor.
    tensors: BTreeMap<String, (usize, GgufTensor)>,
    family: &'static str,
}

impl Gguf {
    /// Maps the file, or all files of a split model, and reads their headers.
    ///
    /// # Errors
    /// A missing or damaged file, a part of a model that is called like another, an element type that is
    /// not read, an unknown architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let mut opened = Vec::new();
        let mut tensors = BTreeMap::new();
        let mut first = None;
        let files = gguf_files(path);
        let count = files.len();
        for (index, path) in files.into_iter().enumerate() {
            let file = open_part(&path, count)?;
            // SAFETY: the map is only read; as with every reader of mapped checkpoints, another
            // process must not truncate the file meanwhile.
            let map = unsafe { Mmap::map(&file) }.at(&path)?;
            let header = Header::parse(&path, &map)?;
            check_part(&path, &header, index, count)?;
            for (name, info) in &header.tensors {
                if tensors
                    .insert(name.clone(), (index, info.clone()))
                    .is_some()
                {
                    let problem = format!("tensor `{name}` is in another file as well");
                    return Err(Error::file(&path, problem));
                }
            }
            first.get_or_insert(header);
            opened.push(Mapped { path, map });
        }
        let Some(mut header) = first else {
            return Err(Error::file(path, "is no GGUF file"));
        };
        // Settings are read off tensors as well, wherever they lie.
        for (name, (_, info)) in &tensors {
            header.tensors.insert(name.clone(), info.clone());
        }
        let metadata = Metadata {
            path: &opened[0].path,
            header: &header,
        };
        let family = metadata.family()?;
        Ok(Self {
            files: opened,
            header,
            tensors,
            family,
        })
    }

    /// The (first) file.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// The number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map.len() as u64).sum()
    }

    /// The architecture by its GGUF name.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// The fields of its `config.json`, as far as the file has them.
    ///
    /// # Errors
    /// A missing or wrong setting, by its name in the file.
    pub fn config(&self) -> Result<Map<String, Json>> {
        let mut config = self.metadata().config()?;
        self.long_rope(&mut config)?;
        Ok(config)
    }

    /// Whether a tensor is a part of the settings.
    pub fn is_setting(name: &str) -> bool {
        long_rope::TENSORS.contains(&name)
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata {
            path: self.path(),
            header: &self.header,
        }
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &GgufTensor)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, (_, tensor))| (name.as_str(), tensor))
    }

    /// A tensor, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name).map(|(_, tensor)| tensor)
    }

    /// The map of the file that a tensor is in.
    pub fn map(&self, name: &str) -> Option<&Mmap> {
        let (file, _) = self.tensors.get(name)?;
        Some(&self.files[*file].map)
    }

    /// The name of a tensor's element type.
    pub fn type_name(tensor: &GgufTensor) -> &'static str {
        types::name(tensor.dtype)
    }

    /// The list of tokens, if the file has a tokenizer: how many, and the bytes of each.
    ///
    /// # Errors
    /// It is no list of texts.
    pub fn tokens(&self) -> Result<Option<(u64, impl Iterator<Item = &[u8]>)>> {
        let key = "tokenizer.ggml.tokens";
        match self.header.metadata.get(key) {
            Some(Value::Array {
                kind: 8,
                count,
                begin,
            }) => {
                let texts = header::texts(&self.files[0].map, *begin, *count);
                Ok(Some((*count, texts)))
            }
            None => Ok(None),
            Some(_) => Err(self.metadata().wrong(key, "a list of texts")),
        }
    }
}
