//! LoRA adapters in PEFT's layout, applied to a tensor while it is read.
//!
//! ```text
//! adapter_config.json            r, lora_alpha and what is said of single modules
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r × in), .lora_B.weight (out × r)
//!                                .lora_embedding_A (r × rows), .lora_embedding_B (columns × r)
//!                                .lora_magnitude_vector (out): DoRA
//!                                .weight, .base_layer.weight: in place of the model's own
//! ```
//!
//! The weight of an adapted module is W + s · B A, with s = lora_alpha / r, or lora_alpha / √r with
//! `use_rslora`; an embedding's is W + s · (B A)ᵀ. It is computed in `f32` and not rounded to the
//! dtype of W.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::{CONFIG, LoraConfig};
use super::low_rank::{LowRank, Update};
use super::names::{PREFIX, Part, part};
use crate::artifact::digest;
use crate::error::{Context, Error, Result};
use crate::tensors::{Checkpoint, Elements};

/// The file of the matrices.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// An open adapter.
pub struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its matrices.
    pub checkpoint: Checkpoint,
    /// Its settings as they are in the file.
    pub text: String,
    config: LoraConfig,
    /// By the name of the weight.
    modules: BTreeMap<String, Parts>,
    /// By the name of the weight: the tensor in its place.
    whole: BTreeMap<String, String>,
}

/// The tensors of an adapted weight.
#[derive(Default)]
struct Parts {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
    embedding: bool,
}

impl Parts {
    /// One of its tensors.
    fn any(&self) -> &str {
        let mut all = [&self.a, &self.b, &self.magnitude].into_iter().flatten();
        all.next().map_or("", String::as_str)
    }
}

/// The shape of a tensor of the model that an adapter is for.
pub type ShapeOf<'a> = dyn Fn(&str) -> Option<&'a [usize]> + 'a;

impl Adapter {
    /// Opens the adapter in `dir` for a model that has tensors of these shapes.
    ///
    /// # Errors
    ///
    /// Missing or damaged files; another kind of adapter; settings that are not supported; tensors
    /// that are no part of an adapter; A without B; modules that the model does not have; shapes
    /// that fit neither the model nor the settings.
    pub fn open(dir: &Path, shape_of: &ShapeOf<'_>) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            return Err(
                Error::file(dir, format!("expected an adapter, there is no `{CONFIG}`"))
                    .remedy("write `MODEL+ADAPTER` with the folder of a LoRA adapter"),
            );
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let mut adapter = Self {
            dir: dir.to_path_buf(),
            checkpoint: Checkpoint::open(&dir.join(WEIGHTS))?,
            config: LoraConfig::read(&path, &text)?,
            text,
            modules: BTreeMap::new(),
            whole: BTreeMap::new(),
        };
        adapter.sort(shape_of)?;
        let modules = || adapter.modules.iter();
        // What the model does not have is said first: it also leaves halves without the other.
        if let Some((weight, module)) = modules().find(|(weight, _)| shape_of(weight).is_none()) {
            let problem = format!("the model has no tensor `{weight}`");
            return Err(adapter.bad(module.any(), problem));
        }
        for (weight, module) in modules() {
            adapter.check(weight, module, shape_of(weight).unwrap_or_default())?;
        }
        Ok(adapter)
    }

    /// An error about one of the tensors.
    fn bad(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        let problem = format!("tensor `{name}`: {problem}");
        Error::file(&self.dir.join(WEIGHTS), problem).remedy(format!(
            "check that model, adapter and `{CONFIG}` belong together"
        ))
    }

    /// Finds what each tensor is.
    fn sort(&mut self, shape_of: &ShapeOf<'_>) -> Result<()> {
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        let mut whole = BTreeMap::new();
        for tensor in self.checkpoint.tensors() {
            let name = &tensor.name;
            if !tensor.dtype.is_float() || tensor.dtype.is_f8() {
                let found = tensor.dtype;
                let problem = format!("expected dtype F16, BF16, F32 or F64, found {found}");
                return Err(self.bad(name, problem));
            }
            let inner = name.strip_prefix(PREFIX).unwrap_or_default();
            let second = match part(inner) {
                Some((module, Part::Whole, _)) => {
                    whole.insert(format!("{module}.weight"), name.clone())
                }
                Some((module, part, embedding)) => {
                    let found = modules.entry(format!("{module}.weight")).or_default();
                    found.embedding |= embedding;
                    let place = match part {
                        Part::A => &mut found.a,
                        Part::B => &mut found.b,
                        _ => &mut found.magnitude,
                    };
                    place.replace(name.clone())
                }
                None if shape_of(inner).is_some() => whole.insert(inner.to_owned(), name.clone()),
                None => {
                    let expected = format!(
                        "expected `{PREFIX}<module>.lora_A.weight` or `.lora_B.weight`, or a \
                         tensor of the model"
                    );
                    return Err(self.bad(name, expected));
                }
            };
            if second.is_some() {
                return Err(self.bad(name, "the module has another one"));
            }
        }
        for (weight, name) in &whole {
            let found = self.shape(name);
            match shape_of(weight) {
                Some(own) if own == found => {}
                Some(own) => {
                    let problem = format!("expected the model's shape {own:?}, found {found:?}");
                    return Err(self.bad(name, problem));
                }
                None => return Err(self.bad(name, format!("the model has no tensor `{weight}`"))),
            }
        }
        if modules.is_empty() {
            let path = self.dir.join(WEIGHTS);
            return Err(Error::file(&path, "there is no adapter in this file"));
        }
        (self.modules, self.whole) = (modules, whole);
        Ok(())
    }

    /// The shape of one of the adapter's tensors.
    fn shape(&self, name: &str) -> &[usize] {
        let info = self.checkpoint.info(name);
        info.map_or(&[], |info| info.shape.as_slice())
    }

    /// Checks the shapes of a module whose weight in the model has the shape `own`.
    fn check(&self, weight: &str, module: &Parts, own: &[usize]) -> Result<()> {
        let (Some(a), Some(b)) = (&module.a, &module.b) else {
            let problem = format!("`{weight}` has A without B, or B without A");
            return Err(self
                .bad(module.any(), problem)
                .remedy("the adapter is incomplete"));
        };
        let &[rows, columns] = own else {
            let problem = format!("only matrices can be adapted, `{weight}` has shape {own:?}");
            return Err(self.bad(a, problem));
        };
        let (rows, columns) = match self.flips(module) {
            true => (columns, rows),
            false => (rows, columns),
        };
        let stored = self.shape(a).first().copied().unwrap_or(0).max(1);
        let rank = self.config.rank_of(name_of(weight)).unwrap_or(stored);
        for (name, expected) in [(a, [rank, columns]), (b, [rows, rank])] {
            let found = self.shape(name);
            if found != expected {
                return Err(self.bad(
                    name,
                    format!(
                        "expected shape {expected:?} for rank {rank} and the model's `{weight}` \
                         of {own:?}, found {found:?}"
                    ),
                ));
            }
        }
        match &module.magnitude {
            Some(name) if self.flips(module) => {
                Err(self.bad(name, "DoRA of embeddings is not supported"))
            }
            Some(name) if self.shape(name) != [rows] => {
                let found = self.shape(name);
                let problem =
                    format!("expected shape [{rows}], a length for each row, found {found:?}");
                Err(self.bad(name, problem))
            }
            _ => Ok(()),
        }
    }

    /// Whether the weight is stored as the transpose of B A.
    fn flips(&self, module: &Parts) -> bool {
        self.config.transposed || module.embedding
    }

    /// The adapter's tensor that takes the place of the model's tensor `name`, if there is one.
    pub fn whole(&self, name: &str) -> Option<&str> {
        self.whole.get(name).map(String::as_str)
    }

    /// The update of the tensor `name`, which is `weight` without it, if the adapter has one.
    /// Memory: 4 bytes for each element of A and B.
    ///
    /// # Errors
    ///
    /// None that [`Adapter::open`] did not have.
    pub fn update(&self, name: &str, weight: &dyn Elements) -> Result<Option<Update>> {
        let Some(module) = self.modules.get(name) else {
            return Ok(None);
        };
        let (Some(a), Some(b)) = (&module.a, &module.b) else {
            return Ok(None);
        };
        let (a, b) = (self.checkpoint.tensor(a)?, self.checkpoint.tensor(b)?);
        let rank = a.shape[0];
        let scale = self.config.scale(name_of(name), rank) as f32;
        let product = LowRank::new(scale, rank, a.to_f32(), b.to_f32(), self.flips(module));
        let update = Update::of(product);
        Ok(Some(match &module.magnitude {
            None => update,
            Some(lengths) => {
                let lengths = self.checkpoint.tensor(lengths)?.to_f32();
                update.with_lengths(weight, &lengths)
            }
        }))
    }

    /// Whether the tensor `name` is another one with the adapter.
    pub fn changes(&self, name: &str) -> bool {
        self.modules.contains_key(name) || self.whole.contains_key(name)
    }

    /// The tensor `name` with the adapter; `read` reads the model's own.
    ///
    /// # Errors
    ///
    /// Those of `read`; a number that is infinite or NaN.
    pub fn adapted(&self, name: &str, read: impl FnOnce() -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut values = match self.whole(name) {
            Some(stored) => self.checkpoint.tensor(stored)?.to_f32(),
            None => read()?,
        };
        if let Some(update) = self.update(name, &values)? {
            update.apply_to_all(&mut values);
        }
        self.finite(name, values)
    }

    /// Some rows, of `width` numbers, of the matrix `name` with the adapter; `read` reads those of
    /// the model's own, or all where there is no choice.
    ///
    /// # Errors
    ///
    /// Those of `read`; a number that is infinite or NaN.
    pub fn adapted_rows(
        &self,
        name: &str,
        width: usize,
        rows: &[u32],
        read: impl Fn(Option<&[u32]>) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let starts = || rows.iter().map(|row| *row as usize * width);
        let chosen = |all: &dyn Elements| {
            let mut values = vec![0.0; rows.len() * width];
            let pieces = values.chunks_exact_mut(width);
            starts().zip(pieces).for_each(|(at, out)| all.read(at, out));
            values
        };
        // DoRA's factor of a row depends on its own row alone, but is computed for all.
        let rescales = self
            .modules
            .get(name)
            .is_some_and(|m| m.magnitude.is_some());
        let mut values = match self.whole(name) {
            _ if rescales => return Ok(chosen(&self.adapted(name, || read(None))?)),
            Some(stored) => chosen(&self.checkpoint.tensor(stored)?),
            None => read(Some(rows))?,
        };
        if let Some(update) = self.update(name, &values)? {
            let pieces = values.chunks_exact_mut(width);
            starts()
                .zip(pieces)
                .for_each(|(at, row)| update.apply(at, row));
        }
        self.finite(name, values)
    }

    fn finite(&self, name: &str, values: Vec<f32>) -> Result<Vec<f32>> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let problem = format!(
                    "tensor `{name}` of the model with this adapter: number {at} is {}",
                    values[at]
                );
                Err(Error::file(&self.dir.join(WEIGHTS), problem)
                    .remedy("the adapter or the model is damaged; copy them again"))
            }
        }
    }
}

/// The module of a weight.
fn name_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Digest of the adapter in the folder `dir`: of the files that say what it adds.
///
/// # Errors
///
/// A file that cannot be read.
pub fn adapter_digest(dir: &Path) -> Result<String> {
    let mut all = String::new();
    for name in [CONFIG, WEIGHTS] {
        let path = dir.join(name);
        if path.exists() {
            all += &format!("{name} {}\n", digest::file(&path)?);
        }
    }
    Ok(digest::text(&all))
}
