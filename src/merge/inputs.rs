//! The models that take part in a merge.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::MergeConfig;
use super::tie::Tie;
use crate::checkpoint::{Checkpoint, Encoding, Found, PackedWeights, read_config};
use crate::error::{Error, Result};
use crate::lora::{Adapter, Update};
use crate::tensors::{Elements, ScaleMap, Scales, View, is_buffer, widen};

/// Tensors of more bytes than this are not kept in memory as a whole.
const LARGE: usize = 16 << 20;
/// Bytes of a large tensor that are copied rather than mapped when they are read alone.
const PEEK: usize = 1 << 9;
/// Bytes of a tensor that are read before it is its turn.
const AHEAD: usize = 64 << 20;

/// What becomes of a tensor's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// They are needed soon.
    Soon,
    /// The page cache may keep them.
    Keep,
    /// They are not needed again, and there is not room for all.
    Drop,
}

/// A model's tensor as the kernels read it.
pub(super) struct Input<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    view: View<'a>,
    scales: Option<Scales>,
    update: Option<Update>,
}

impl Elements for Input<'_> {
    fn len(&self) -> usize {
        self.view.len()
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        self.view.read(start, out);
        self.complete(start, out);
    }

    fn read_f64(&self, start: usize, out: &mut [f64]) {
        if self.scales.is_none() && self.update.is_none() {
            return self.view.read_f64(start, out);
        }
        let mut single = vec![0.0; out.len()];
        self.read(start, &mut single);
        widen(&single, out);
    }

    fn peek(&self, start: usize, out: &mut [f32]) {
        let View { dtype, bytes, .. } = self.view;
        let size = dtype.size();
        let mut few = [0; PEEK];
        let copied = few.get_mut(..out.len() * size).is_some_and(|few| {
            let large = bytes.len() > LARGE;
            large && self.checkpoint.peek(self.name, start * size, few)
        });
        if !copied {
            return self.read(start, out);
        }
        dtype.decode(&few[..out.len() * size], out);
        self.complete(start, out);
    }

    fn done(&self, range: Range<usize>) {
        if self.view.bytes.len() > LARGE {
            let size = self.view.dtype.size();
            let bytes = range.start * size..range.end * size;
            self.checkpoint.release(self.name, bytes, false);
        }
    }
}

impl Input<'_> {
    /// Makes the model's numbers from the stored ones.
    fn complete(&self, start: usize, out: &mut [f32]) {
        if let Some(scales) = &self.scales {
            scales.multiply(start, out);
        }
        if let Some(update) = &self.update {
            update.apply(start, out);
        }
    }
}

/// A model that takes part.
pub(super) struct Model {
    /// Its name as written in the configuration.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// Its `config.json`.
    pub config: Value,
    /// An adapter on top of the weights.
    pub adapter: Option<Adapter>,
    /// The scales of 8-bit weights.
    pub scales: ScaleMap,
    /// Its weights where they are no numbers; `scales` is then empty.
    pub packed: Option<PackedWeights>,
    /// How head and embedding belong together.
    pub tie: Tie,
}

impl Model {
    /// Opens a model's folder, with the folder of an adapter after a `+`.
    pub fn open(config: &MergeConfig, name: &str) -> Result<Self> {
        let (dir, adapter) = config.folders(name);
        match Found::at(&dir) {
            Found::Model => {}
            other => return Err(other.no_model(&dir)),
        }
        let checkpoint = Checkpoint::open(&dir)?;
        let shape = |name: &str| Some(checkpoint.info(name)?.shape.as_slice());
        let adapter = adapter
            .map(|adapter| Adapter::open(&adapter, &shape))
            .transpose()?;
        let (config, path) = read_config(&dir)?;
        let (scales, packed) = match Encoding::of(&checkpoint, &config, &path)? {
            Encoding::Numbers(scales) => (scales, None),
            Encoding::Packed(packed) => (ScaleMap::default(), Some(packed)),
        };
        let config = Value::Object(config);
        Ok(Self {
            name: name.to_owned(),
            dir,
            tie: Tie::of(&checkpoint, &config),
            checkpoint,
            config,
            adapter,
            scales,
            packed,
        })
    }

    /// The scales of a tensor, if it has any.
    fn scales(&self, name: &str) -> Result<Option<Scales>> {
        let Some((name, grid)) = self.scales.of(name) else {
            return Ok(None);
        };
        let view = self.checkpoint.tensor(name)?;
        let scales = Scales::new(grid, view.to_f32());
        scales.map(Some).map_err(|at| {
            let value = view.to_f32()[at];
            Error::file(
                self.file_of(name),
                format!("tensor `{name}`: scale {at} is {value}"),
            )
            .remedy("the file is damaged; copy it again")
        })
    }

    /// A tensor that the model has.
    pub fn open_tensor<'a>(&'a self, name: &'a str) -> Result<Input<'a>> {
        let whole = self.adapter.as_ref().and_then(|adapter| {
            let replaced = adapter.whole(name)?;
            Some((&adapter.checkpoint, replaced))
        });
        let (checkpoint, stored) = whole.unwrap_or((&self.checkpoint, name));
        let mut input = Input {
            checkpoint,
            name: stored,
            view: checkpoint.tensor(stored)?,
            scales: match whole {
                Some(_) => None,
                None => self.scales(name)?,
            },
            update: None,
        };
        if let Some(adapter) = &self.adapter {
            input.update = adapter.update(name, &input)?;
        }
        Ok(input)
    }

    /// The first number of a tensor that is infinite or NaN, and its index.
    pub fn first_not_finite(&self, name: &str) -> Result<Option<(usize, f32)>> {
        let input = self.open_tensor(name)?;
        let mut values = vec![0.0; 1 << 16];
        for start in (0..input.len()).step_by(values.len()) {
            let count = values.len().min(input.len() - start);
            let values = &mut values[..count];
            input.read(start, values);
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Ok(Some((start + at, values[at])));
            }
            input.done(start..start + count);
        }
        Ok(None)
    }

    /// The file that a tensor is read from.
    pub fn file_of(&self, name: &str) -> &Path {
        self.checkpoint.file_of(name).unwrap_or(&self.dir)
    }

    /// The files that the model is read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let adapter = self
            .adapter
            .iter()
            .flat_map(|adapter| adapter.checkpoint.files());
        self.checkpoint.files().chain(adapter)
    }

    /// Tells the system what becomes of a tensor's pages. Has no effect on results.
    pub fn advise(&self, name: &str, pages: Pages) {
        let Some(info) = self.checkpoint.info(name) else {
            return;
        };
        let length = info.end - info.begin;
        match pages {
            Pages::Soon => self.checkpoint.read_ahead(name, 0..length.min(AHEAD)),
            Pages::Keep => self.checkpoint.release(name, 0..length, false),
            Pages::Drop => self.checkpoint.release(name, 0..length, true),
        }
    }

    /// The name under which the model has `name`: with or without the prefix of the whole model, or as
    /// the tensor that it is tied to.
    pub fn find(&self, name: &str) -> Option<String> {
        let has = |name: &str| self.checkpoint.info(name).is_some();
        if has(name) {
            return Some(name.to_owned());
        }
        let spelt = PREFIXES
            .iter()
            .map(|prefix| match name.strip_prefix(prefix) {
                Some(rest) => rest.to_owned(),
                None => format!("{prefix}{name}"),
            });
        let mut spelt = spelt.filter(|name| has(name));
        spelt
            .next()
            .or_else(|| self.tie.instead_of(name).map(str::to_owned))
    }

    /// Whether a tensor is none of the model's parameters: a buffer that old programs stored, the
    /// second copy of a tied embedding, or scales.
    pub fn ignores(&self, name: &str) -> bool {
        self.is_buffer(name) || self.tie.is_copy(name) || self.scales.contains(name)
    }

    /// Whether a tensor is a buffer that models compute themselves.
    pub fn is_buffer(&self, name: &str) -> bool {
        let info = self.checkpoint.info(name);
        info.is_some_and(|info| is_buffer(name, &info.shape))
    }
}

/// What is before the names of the trunk's tensors in files of whole models.
const PREFIXES: [&str; 14] = [
    "model.",
    "transformer.",
    "gpt_neox.",
    "bert.",
    "roberta.",
    "distilbert.",
    "electra.",
    "deberta.",
    "mpnet.",
    "albert.",
    "rwkv.",
    "backbone.",
    "model.language_model.",
    "language_model.",
];
