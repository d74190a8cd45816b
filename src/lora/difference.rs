//! Which tensors of two checkpoints differ, and how an adapter can hold the difference.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::base::{Base, is_expert, is_projection_name};
use super::names::names_module;
use crate::checkpoint::{Checkpoint, read_config, refuse_packed};
use crate::error::{Error, Result};
use crate::tensors::{View, is_buffer, layer};

/// The head, and the embeddings that it may be.
const HEAD: &str = "lm_head.weight";

/// How the difference of a tensor is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// As A and B; `flipped` where PEFT wants those of the transpose.
    Adapted { flipped: bool, embedding: bool },
    /// Whole, with its module, in `modules_to_save`.
    Saved,
    /// Whole, below an adapted module.
    Below,
    /// Whole, under its own name: PEFT puts it in the place of the model's.
    Plain,
    /// Not at all.
    Missed,
}

/// A tensor, and how its difference is held.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    /// The base's tensor.
    pub tensor: String,
    /// The name of its module in the adapter, and what comes after it.
    pub module: String,
    pub parameter: String,
    pub held: Held,
    /// Whether there is one: what was asked for is adapted in any case.
    pub differs: bool,
}

impl Difference {
    /// Whether it is held as A and B.
    pub fn is_adapted(&self) -> bool {
        matches!(self.held, Held::Adapted { .. })
    }

    /// The last part of the module's name.
    pub fn last_part(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or_default()
    }
}

/// Two checkpoints of one architecture.
pub(super) struct Pair {
    pub base: Checkpoint,
    pub tuned: Checkpoint,
    known: Base,
    /// What transformers puts before the names of the base's tensors when it loads it.
    prefix: &'static str,
    /// The tensor that is the head, where the base stores none.
    embedding: Option<String>,
}

impl Pair {
    /// Opens both.
    ///
    /// # Errors
    /// Checkpoints that cannot be read.
    pub fn open(base: &Path, tuned: &Path) -> Result<Self> {
        let (base, tuned) = (Checkpoint::open(base)?, Checkpoint::open(tuned)?);
        refuse_packed(&base)?;
        refuse_packed(&tuned)?;
        let config = Value::Object(
            read_config(base.dir())
                .map(|(map, _)| map)
                .unwrap_or_default(),
        );
        let shapes = base.tensors().map(|t| (t.name.clone(), t.shape.clone()));
        let known = Base::new(shapes, &config, None);
        let embedding = match base.info(HEAD) {
            None => {
                let mut tensors = base.tensors();
                let found = tensors.find(|tensor| known.is_by_token(&tensor.name));
                found.map(|tensor| tensor.name.clone())
            }
            Some(_) => None,
        };
        Ok(Self {
            prefix: prefix(&config, &base),
            embedding,
            known,
            base,
            tuned,
        })
    }

    /// Whether head and embedding are one tensor, of both.
    pub fn is_tied(&self) -> bool {
        self.embedding.is_some() && !self.has_own_head()
    }

    /// Whether the tuned model has a head of its own, and the base's is its embedding.
    fn has_own_head(&self) -> bool {
        let Some(embedding) = &self.embedding else {
            return false;
        };
        match (self.tuned.tensor(HEAD), self.tuned.tensor(embedding)) {
            (Ok(head), Ok(embedding)) => head.bytes != embedding.bytes,
            _ => false,
        }
    }

    /// A tensor of the base and of the tuned model. A head that one of them does not store is its
    /// embedding.
    ///
    /// # Errors
    /// There is none; another shape; numbers that are not compared.
    pub fn views(&self, tensor: &str) -> Result<[View<'_>; 2]> {
        let name = |checkpoint: &Checkpoint| {
            let stored = checkpoint.info(tensor).is_some() || tensor != HEAD;
            let mut names = checkpoint.tensors().map(|tensor| tensor.name.as_str());
            let embedding = names.find(|name| *name != HEAD && self.known.is_by_token(name));
            match (stored, embedding) {
                (false, Some(embedding)) => embedding.to_owned(),
                _ => tensor.to_owned(),
            }
        };
        let (a, b) = (name(&self.base), name(&self.tuned));
        let (own, other) = (self.base.tensor(&a)?, self.tuned.tensor(&b)?);
        if other.shape != own.shape || other.dtype.is_float() != own.dtype.is_float() {
            return Err(Error::input(
                self.tuned.dir().display(),
                format!(
                    "tensor `{tensor}` is {} {:?}, the base model has {} {:?}",
                    other.dtype, other.shape, own.dtype, own.shape
                ),
            )
            .remedy("give two checkpoints of one architecture and vocabulary"));
        }
        for (checkpoint, dtype) in [(&self.base, own.dtype), (&self.tuned, other.dtype)] {
            if dtype.is_f8() {
                let problem = format!("tensor `{tensor}` has 8-bit numbers");
                return Err(Error::file(checkpoint.dir(), problem).remedy(
                    "write the model in bfloat16 first: `fuselm merge` with `passthrough`",
                ));
            }
        }
        Ok([own, other])
    }

    /// How many modules of the base with a matrix have this last part of their names.
    pub fn matrices(&self, last: &str) -> usize {
        let matrices = self.base.tensors().filter(|tensor| tensor.shape.len() == 2);
        let modules = matrices.filter_map(|tensor| tensor.name.strip_suffix(".weight"));
        modules.filter(|module| names_module(last, module)).count()
    }

    /// Tensors of the tuned model that the base lacks.
    pub fn extras(&self) -> Vec<&str> {
        let names = self.tuned.tensors().map(|tensor| tensor.name.as_str());
        let extra = names.filter(|name| self.base.info(name).is_none() && *name != HEAD);
        extra.collect()
    }

    /// The tensors that are held, and those that differ and are not. With `targets`, only what they
    /// name is held.
    ///
    /// # Errors
    /// Those of [`Pair::views`]; targets that no matrix has.
    pub fn differences(&self, targets: &[String]) -> Result<Vec<Difference>> {
        let mut used = vec![false; targets.len()];
        let mut found = Vec::new();
        let head = self.has_own_head().then_some(HEAD);
        let names = self
            .base
            .tensors()
            .filter(|info| !is_buffer(&info.name, &info.shape));
        let names = names.map(|info| info.name.as_str()).chain(head);
        for tensor in names {
            let [own, other] = self.views(tensor)?;
            if !own.dtype.is_float() {
                continue;
            }
            let (module, parameter) = tensor.rsplit_once('.').unwrap_or((tensor, ""));
            let target = targets
                .iter()
                .position(|target| names_module(target, module));
            if let Some(at) = target.filter(|_| parameter == "weight" && own.shape.len() == 2) {
                used[at] = true;
            }
            let differs = own.bytes != other.bytes || own.dtype != other.dtype;
            let wanted = targets.is_empty() || target.is_some();
            found.push(Difference {
                held: self.held(tensor, own.shape, wanted, target.is_some()),
                module: self.spelt(module),
                parameter: parameter.to_owned(),
                tensor: tensor.to_owned(),
                differs,
            });
        }
        if let Some(at) = used.iter().position(|used| !used) {
            let problem = format!("no matrix of the model is named `{}`", targets[at]);
            return Err(Error::usage(problem).remedy("give names like `q_proj`"));
        }
        settle(&mut found);
        Ok(found)
    }

    /// How the difference of a tensor is held; `wanted`: it is to be, `named`: as A and B.
    fn held(&self, tensor: &str, shape: &[usize], wanted: bool, named: bool) -> Held {
        let Some((module, parameter)) = tensor.rsplit_once('.') else {
            return Held::Missed;
        };
        if !wanted || shape.len() > 2 || shape.contains(&0) {
            return Held::Missed;
        }
        let embedding = self.known.is_embedding(module);
        let in_layer = layer(tensor).is_some();
        let projects =
            in_layer && !embedding && is_projection_name(module, self.known.model_type());
        let is_unread = is_expert(module) && !projects;
        if parameter == "weight" && shape.len() == 2 && (named && !is_unread || projects) {
            let flipped = embedding || self.known.is_transposed(module);
            return Held::Adapted { flipped, embedding };
        }
        if is_expert(module) {
            return Held::Missed;
        }
        let of_module = matches!(parameter, "weight" | "bias");
        let is_shared = self.is_tied() && self.known.is_by_token(tensor);
        let is_matrix = shape.len() == 2 && in_layer && !embedding;
        match of_module && !is_shared && !is_matrix {
            true => Held::Saved,
            false => Held::Plain,
        }
    }

    /// A module's name as transformers has it.
    fn spelt(&self, module: &str) -> String {
        match self.known.is_head(module) && !module.contains('.') {
            true => module.to_owned(),
            false => format!("{}{module}", self.prefix),
        }
    }
}

/// Biases of adapted modules lie below them; a module is saved with all that it has, or not at all.
fn settle(found: &mut Vec<Difference>) {
    let modules = |test: &dyn Fn(&Difference) -> bool| -> BTreeSet<String> {
        let some = found.iter().filter(|difference| test(difference));
        some.map(|difference| difference.module.clone()).collect()
    };
    let adapted = modules(&Difference::is_adapted);
    let saved = modules(&|d| d.held == Held::Saved && d.differs);
    let plain = modules(&|d| d.held == Held::Plain && matches!(&*d.parameter, "weight" | "bias"));
    for difference in found.iter_mut() {
        if matches!(difference.held, Held::Saved | Held::Missed)
            && difference.parameter == "bias"
            && adapted.contains(&difference.module)
        {
            difference.held = Held::Below;
        }
        if difference.held == Held::Saved && plain.contains(&difference.module) {
            difference.held = Held::Plain;
        }
    }
    found.retain(|difference| match difference.held {
        Held::Adapted { .. } => true,
        Held::Saved => saved.contains(&difference.module),
        Held::Below | Held::Plain | Held::Missed => difference.differs,
    });
}

/// What transformers puts before the names of tensors when it loads a model for texts whose
/// checkpoint was written without its head.
fn prefix(config: &Value, base: &Checkpoint) -> &'static str {
    let known = match config["model_type"].as_str().unwrap_or_default() {
        "gpt2" | "gpt_bigcode" | "bloom" | "gptj" | "gpt_neo" | "codegen" | "mpt" | "falcon" => {
            "transformer."
        }
        "gpt_neox" => "gpt_neox.",
        _ => "model.",
    };
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let has_head = class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel");
    let mut names = base.tensors().map(|tensor| tensor.name.as_str());
    let bare = names.any(|name| {
        let starts = ["layers.", "h.", "blocks."];
        starts.iter().any(|start| name.starts_with(start))
    });
    if has_head && bare { known } else { "" }
}
