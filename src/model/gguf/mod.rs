//! GGUF files, the quantised models of llama.cpp, as sources that are scored.
//!
//! A file carries everything but the tokenizer in a form that we run: its metadata becomes a
//! [`Config`], its tensors get their Hugging Face names, and a matrix is decoded to floats when
//! it is needed, which for the many rows of scoring costs little beside its product. Products are
//! those of the decoder, and exact for the stored weights. llama.cpp and candle round the
//! activations to 8 bits as well: for Q4_K, Q6_K and Q8_0 that takes 40 % of the time and changes
//! products by up to 0.7 % of the largest; for the older types it takes five times as long.

mod blocks;
mod header;
mod metadata;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::{Map, Value as Json};

use super::config::{Config, TensorSpec};
use crate::error::{Context, Error, Result};
use crate::vocab::{Kind, Vocabulary};
use header::{Header, TensorInfo, Value};
use metadata::Metadata;
use names::{Change, Origin, origin};

/// Frequency divisors of models with extended context.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Whether `path` is a file that is called `*.gguf`.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gguf") && path.is_file()
}

/// The files of the model that `path` is, or is one of (`name-00001-of-00003.gguf`), in order.
///
/// Files that do not exist are listed as well.
pub fn files(path: &Path) -> Vec<PathBuf> {
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

struct Mapped {
    path: PathBuf,
    map: Mmap,
}

/// An opened GGUF model: mapped, its header checked, its configuration read.
pub(crate) struct Gguf {
    files: Vec<Mapped>,
    /// Of the first file, which has all of the metadata.
    header: Header,
    /// File and place of each tensor.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    family: &'static str,
}

impl Gguf {
    /// Maps the file, or all files of a split model, and reads their headers.
    ///
    /// # Errors
    /// A missing or damaged file, an element type that is not read, an unknown architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let mut opened = Vec::new();
        let mut tensors = BTreeMap::new();
        let mut first = None;
        for (index, path) in files(path).into_iter().enumerate() {
            let file = File::open(&path).at(&path)?;
            // SAFETY: the map is only read; as with every reader of mapped checkpoints, another
            // process must not truncate the file meanwhile.
            let map = unsafe { Mmap::map(&file) }.at(&path)?;
            let header = Header::parse(&path, &map)?;
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

    /// The settings, validated.
    ///
    /// # Errors
    /// A missing or wrong setting, by its name in the file; an architecture or rope scaling that
    /// the decoder does not have.
    pub fn config(&self) -> Result<Config> {
        let metadata = Metadata {
            path: self.path(),
            header: &self.header,
        };
        Config::from_json(metadata.config()?, self.path())
    }

    /// Compares the tensors with the configuration.
    ///
    /// # Errors
    /// Missing, unknown or wrongly shaped tensors.
    pub fn check(&self, config: &Config) -> Result<()> {
        let mut used: BTreeSet<String> = BTreeSet::new();
        for spec in config.tensors() {
            let (origin, _, info) = self.find(config, &spec.name)?;
            let found = match origin.expert {
                Some(_) => &info.shape[1..],
                None => &info.shape[..],
            };
            if found != spec.shape {
                return Err(Error::file(
                    self.path(),
                    format!(
                        "tensor `{}`: expected shape {:?}, found {found:?}",
                        origin.name, spec.shape
                    ),
                ));
            }
            if let Some(expert) = origin.expert
                && expert >= info.shape[0]
            {
                let problem = format!("tensor `{}` lacks expert {expert}", origin.name);
                return Err(Error::file(self.path(), problem));
            }
            used.insert(origin.name);
        }
        let unknown = self.tensors.keys().find(|name| {
            !used.contains(*name)
                && *name != ROPE_FACTORS
                && !(config.tie_word_embeddings && *name == "output.weight")
        });
        match unknown {
            None => self.rope_factors(config).map(drop),
            Some(name) => Err(Error::file(
                self.path(),
                format!(
                    "has the tensor `{name}`, which a {} of these settings does not have",
                    config.architecture.name()
                ),
            )
            .remedy("models of this kind cannot be scored from a GGUF file")),
        }
    }

    fn find(&self, config: &Config, name: &str) -> Result<(Origin, usize, &TensorInfo)> {
        let found = origin(self.family, config, name).and_then(|origin| {
            let (file, info) = self.tensors.get(&origin.name)?;
            Some((origin, *file, info))
        });
        found.ok_or_else(|| {
            let place = match origin(self.family, config, name) {
                Some(origin) => format!("`{}`", origin.name),
                None => format!("a tensor for `{name}`"),
            };
            Error::file(self.path(), format!("lacks {place}"))
                .remedy("the file is not a whole model of its architecture; get it again")
        })
    }

    /// Where the parameter `name` lies: the map of its file, and its bytes in it.
    pub fn place(&self, config: &Config, name: &str) -> Result<(&Mmap, Range<usize>)> {
        let (origin, file, info) = self.find(config, name)?;
        let mut bytes = info.bytes.clone();
        if let Some(expert) = origin.expert {
            let each = bytes.len() / info.shape[0];
            let begin = bytes.start + expert * each;
            bytes = begin..begin + each;
        }
        Ok((&self.files[file].map, bytes))
    }

    /// A parameter that [`Gguf::check`] has seen, as Hugging Face stores it, in `dtype` on the CPU.
    pub fn read(&self, config: &Config, spec: &TensorSpec, dtype: DType) -> Result<Tensor> {
        match dtype {
            DType::BF16 => self.read_as(config, spec, bf16::from_f32),
            DType::F16 => self.read_as(config, spec, f16::from_f32),
            _ => self.read_as(config, spec, |value| value),
        }
    }

    fn read_as<T: WithDType + Default>(
        &self,
        config: &Config,
        spec: &TensorSpec,
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Tensor> {
        let count = spec.shape.iter().product();
        let mut width = spec.shape[spec.shape.len() - 1];
        let (origin, _, info) = self.find(config, &spec.name)?;
        let (map, place) = self.place(config, &spec.name)?;
        let bytes = &map[place];
        let mut values = vec![T::default(); count];
        let decoded = match origin.change {
            Change::None => {
                blocks::decode(info.dtype, bytes, width, |row| row, convert, &mut values)
            }
            Change::PlusOne => {
                let convert = |value| convert(value - 1.0);
                blocks::decode(info.dtype, bytes, width, |row| row, convert, &mut values)
            }
            Change::Paired { heads } => {
                let rows = spec.shape[0];
                if spec.shape.len() == 1 {
                    // A bias is a column.
                    width = 1;
                }
                let order = |row| names::paired_row(row, rows, heads);
                blocks::decode(info.dtype, bytes, width, order, convert, &mut values)
            }
        };
        decoded
            .and_then(|()| Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu))
            .during(|| format!("decoding tensor `{}`", origin.name))
    }

    /// Rows of a matrix that [`Gguf::check`] has seen: (rows, width), one after the other.
    pub fn read_rows(&self, config: &Config, spec: &TensorSpec, rows: &[u32]) -> Result<Vec<f32>> {
        let width = spec.shape[spec.shape.len() - 1];
        let (origin, _, info) = self.find(config, &spec.name)?;
        let (map, place) = self.place(config, &spec.name)?;
        let mut values = vec![0f32; rows.len() * width];
        let order = |row: usize| rows[row] as usize;
        blocks::decode(info.dtype, &map[place], width, order, |x| x, &mut values)
            .during(|| format!("decoding rows of `{}`", origin.name))?;
        Ok(values)
    }

    /// What each frequency of the rotary embedding is divided by, if the file says so.
    pub fn rope_factors(&self, config: &Config) -> Result<Option<Vec<f32>>> {
        let Some((file, info)) = self.tensors.get(ROPE_FACTORS) else {
            return Ok(None);
        };
        let half = config.rope.as_ref().map_or(0, |rope| rope.dims / 2);
        if info.shape != [half] {
            return Err(Error::file(
                self.path(),
                format!(
                    "tensor `{ROPE_FACTORS}`: expected shape [{half}], found {:?}",
                    info.shape
                ),
            ));
        }
        let mut factors = vec![0f32; half];
        let bytes = &self.files[*file].map[info.bytes.clone()];
        blocks::decode(info.dtype, bytes, half, |row| row, |x| x, &mut factors)
            .during(|| format!("decoding tensor `{ROPE_FACTORS}`"))?;
        if factors
            .iter()
            .any(|factor| !(*factor > 0.0 && factor.is_finite()))
        {
            let problem = format!("tensor `{ROPE_FACTORS}`: expected positive numbers");
            return Err(Error::file(self.path(), problem));
        }
        Ok(Some(factors))
    }

    /// Compares the file's list of tokens with a vocabulary.
    ///
    /// # Errors
    /// The vocabulary has more tokens, or another one at some id: names the first such id.
    pub fn check_tokens(&self, vocabulary: &Vocabulary) -> Result<()> {
        let key = "tokenizer.ggml.tokens";
        let Some(Value::Array {
            kind: 8,
            count,
            begin,
        }) = self.header.metadata.get(key)
        else {
            return Err(Error::file(
                self.path(),
                format!("metadata `{key}`: expected a list of texts"),
            ));
        };
        let mut listed = header::texts(&self.files[0].map, *begin, *count);
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            let found = listed.next();
            let same = |found: &[u8]| {
                found == token.display.as_bytes()
                    || found == token.bytes
                    || with_spaces(found) == with_spaces(token.display.as_bytes())
            };
            if token.kind == Kind::Hole || found.is_some_and(same) {
                continue;
            }
            let found = match found {
                Some(found) => format!("`{}`", String::from_utf8_lossy(found)),
                None => format!("only {count} tokens"),
            };
            return Err(Error::file(
                self.path(),
                format!(
                    "the tokenizer has `{}` as token {id}, the file has {found}",
                    token.display
                ),
            )
            .remedy("give the tokenizer of the model that the file was made from"));
        }
        Ok(())
    }
}

/// Compares the tokens of a GGUF file with a vocabulary; other models need no such check.
///
/// # Errors
/// The vocabulary has more tokens, or another one at some id: names the first such id.
pub fn check_tokens(model: &Path, vocabulary: &Vocabulary) -> Result<()> {
    match is_gguf(model) {
        true => Gguf::open(model)?.check_tokens(vocabulary),
        false => Ok(()),
    }
}

/// What a GGUF model is, from its headers.
pub struct GgufSummary {
    /// The fields of its `config.json`, as far as the file has them.
    pub config: Map<String, Json>,
    /// Number of files.
    pub files: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Elements by type.
    pub elements: BTreeMap<String, u64>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Reads the headers of a GGUF model.
///
/// # Errors
/// A missing or damaged file, an element type that is not read, an unknown architecture, a
/// missing setting.
pub fn summary(path: &Path) -> Result<GgufSummary> {
    let gguf = Gguf::open(path)?;
    let mut elements = BTreeMap::new();
    for (_, info) in gguf.tensors.values() {
        let count: usize = info.shape.iter().product();
        let name = blocks::name(info.dtype).to_owned();
        *elements.entry(name).or_default() += count as u64;
    }
    let metadata = Metadata {
        path: gguf.path(),
        header: &gguf.header,
    };
    Ok(GgufSummary {
        config: metadata.config()?,
        files: gguf.files.len(),
        tensors: gguf.tensors.len(),
        elements,
        bytes: gguf.files.iter().map(|file| file.map.len() as u64).sum(),
    })
}

/// A token's spelling with the mark of SentencePiece read as the space that it stands for.
fn with_spaces(token: &[u8]) -> String {
    String::from_utf8_lossy(token).replace('\u{2581}', " ")
}
