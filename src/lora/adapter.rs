//! LoRA adapters in PEFT's layout, open for reading.
//!
//! ```text
//! adapter_config.json            r, lora_alpha and what is said of single modules
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r × in), .lora_B.weight (out × r)
//!                                .lora_embedding_A (r × rows), .lora_embedding_B (columns × r)
//!                                .lora_magnitude_vector (out): DoRA
//!                                .weight, .base_layer.weight: in place of the model's own
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::LoraConfig;
use super::names::{PREFIX, Part, part};
use crate::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint};
use crate::error::{Context, Error, Result};

/// An open adapter.
pub struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its matrices.
    pub checkpoint: Checkpoint,
    /// Its settings as they are in the file.
    pub text: String,
    pub(super) config: LoraConfig,
    /// By the name of the weight.
    pub(super) modules: BTreeMap<String, Parts>,
    /// By the name of the weight: the tensor in its place.
    pub(super) replaced: BTreeMap<String, String>,
}

/// The tensors of an adapted weight.
#[derive(Default)]
pub(super) struct Parts {
    pub a: Option<String>,
    pub b: Option<String>,
    pub magnitude: Option<String>,
    pub embedding: bool,
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
            replaced: BTreeMap::new(),
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
        (self.modules, self.replaced) = (modules, whole);
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
    pub(super) fn flips(&self, module: &Parts) -> bool {
        self.config.transposed || module.embedding
    }
}

/// The module of a weight.
pub(super) fn name_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
