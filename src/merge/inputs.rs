//! The models that take part in a merge.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::MergeConfig;
use crate::checkpoint::{Checkpoint, read_config};
use crate::error::{Error, Result};
use crate::lora::{Adapter, Update};
use crate::tensors::{Elements, Quantisation, ScaleMap, Scales, Stored, View, layer, widen};

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
}

impl Model {
    /// Opens a model's folder, with the folder of an adapter after a `+`.
    pub fn open(config: &MergeConfig, name: &str) -> Result<Self> {
        let (dir, adapter) = config.folders(name);
        let checkpoint = Checkpoint::open(&dir)?;
        let shape = |name: &str| Some(checkpoint.info(name)?.shape.as_slice());
        let adapter = adapter
            .map(|adapter| Adapter::open(&adapter, &shape))
            .transpose()?;
        let (config, path) = read_config(&dir)?;
        let quantisation = Quantisation::of(&config, &path)?;
        let tensors: Vec<_> = checkpoint.tensors().map(Stored::from).collect();
        let scales = ScaleMap::new(&dir, &tensors, quantisation.as_ref())?;
        Ok(Self {
            name: name.to_owned(),
            dir,
            checkpoint,
            config: Value::Object(config),
            adapter,
            scales,
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

    pub fn ties_embeddings(&self) -> bool {
        self.config.get("tie_word_embeddings") == Some(&Value::Bool(true))
            && self.checkpoint.info(EMBEDDING).is_some()
    }

    /// The number of layers: as configured, else one more than the highest in a name.
    pub fn layers(&self) -> usize {
        let configured = ["num_hidden_layers", "n_layer", "num_layers"]
            .iter()
            .find_map(|key| self.config.get(*key)?.as_u64());
        let named = || {
            let layers = self.checkpoint.tensors().filter_map(|t| layer(&t.name));
            layers
                .map(|(_, layer, _)| layer.saturating_add(1))
                .max()
                .unwrap_or(0)
        };
        configured.map_or_else(named, |layers| layers as usize)
    }

    /// The name under which the model has `name`: an untied head may be tied here.
    pub fn find(&self, name: &str) -> Option<String> {
        if self.checkpoint.info(name).is_some() {
            return Some(name.to_owned());
        }
        (name == HEAD && self.ties_embeddings()).then(|| EMBEDDING.to_owned())
    }

    /// Whether a tensor is none of the model's parameters: a buffer that old programs stored, the
    /// second copy of a tied embedding, or scales.
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with("rotary_emb.inv_freq")
            || (name == HEAD && self.ties_embeddings())
            || self.scales.contains(name)
    }
}

pub(super) const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
