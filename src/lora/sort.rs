//! What each tensor of an adapter's file is to the model, as PEFT reads it.

use std::collections::{BTreeMap, BTreeSet};

use super::adapter::Adapter;
use super::base::Base;
use super::names::{PREFIX, Part, part, weight_of};
use super::parameters::Parameters;
use super::parts::{Kind, Parts, TokenRows};
use super::read::TokenIds;
use crate::error::{Error, Result};
use crate::tensors::layer;

/// Why a tensor is not applied.
const UNTARGETED: &str = "`target_modules` and what narrows it down do not name their modules";
const UNREAD: &str = "PEFT does not read tensors of these names for such modules and settings";

/// Finds what each tensor is. Returns what is said of those that are not applied.
///
/// # Errors
/// Tensors that are no part of an adapter or stand for the same; modules that the model does not
/// have; parts that the settings promise and the file lacks; no tensor that is applied.
pub(super) fn sort(adapter: &mut Adapter, base: &Base) -> Result<Vec<String>> {
    let names: Vec<String> = adapter
        .checkpoint
        .tensors()
        .map(|t| t.name.clone())
        .collect();
    let inner = |name: &String| name.strip_prefix(PREFIX).map(str::to_owned);
    let with_tokens = names.iter().filter_map(|name| {
        let name = inner(name)?;
        let (module, part) = part(&name)?;
        (part == Part::Tokens).then(|| module.to_owned())
    });
    let mut sorter = Sorter {
        base,
        with_tokens: match adapter.settings.tokens {
            Some(_) => with_tokens.collect(),
            None => BTreeSet::new(),
        },
        parameters: Parameters::find(adapter, base, &names)?,
        shared: BTreeMap::new(),
        ignored: BTreeMap::new(),
        adapter,
    };
    for name in &names {
        sorter.check_dtype(name)?;
        match inner(name) {
            Some(inner) => sorter.place(name, &inner)?,
            None => return Err(sorter.unknown(name)),
        }
    }
    sorter.targets_something(&names)?;
    sorter.tie()?;
    sorter.saved_are_there()?;
    let mut ignored = sorter.said();
    ignored.extend(sorter.unadapted());
    let empty = adapter.modules.is_empty() && adapter.replaced.is_empty();
    if empty && adapter.tokens.is_empty() {
        let why = ignored.first().map_or("it is empty", String::as_str);
        let problem = format!("there is no adapter in this file for this model: {why}");
        return Err(adapter.unfit(problem).remedy(
            "check that `target_modules`, `exclude_modules` and `layers_to_transform` name the \
             modules that the file has tensors for",
        ));
    }
    Ok(ignored)
}

/// What is known of the tensors so far.
pub(super) struct Sorter<'a> {
    pub(super) adapter: &'a mut Adapter,
    pub(super) base: &'a Base,
    /// Modules some of whose rows are replaced, as the adapter calls them.
    with_tokens: BTreeSet<String>,
    pub(super) parameters: Parameters,
    /// Of embedding and head that are one tensor: what takes the place of both.
    pub(super) shared: BTreeMap<String, String>,
    /// By the reason: the tensors that are not applied.
    pub(super) ignored: BTreeMap<&'static str, Vec<String>>,
}

impl Sorter<'_> {
    fn check_dtype(&self, name: &str) -> Result<()> {
        let dtype = self.adapter.checkpoint.info(name).map(|info| info.dtype);
        match dtype {
            Some(found) if !found.is_float() || found.is_f8() => {
                let problem = format!("expected dtype F16, BF16, F32 or F64, found {found}");
                Err(self.adapter.bad(name, problem))
            }
            _ => Ok(()),
        }
    }

    /// Whether the file has a tensor of this name without the prefix.
    fn has(&self, inner: &str) -> bool {
        let name = format!("{PREFIX}{inner}");
        self.adapter.checkpoint.info(&name).is_some()
    }

    fn unknown(&self, name: &str) -> Error {
        let expected = format!(
            "expected `{PREFIX}<module>.lora_A.weight` or `.lora_B.weight`, or a tensor of the model"
        );
        self.adapter.bad(name, expected)
    }

    pub(super) fn is_target(&self, module: &str) -> bool {
        let settings = &self.adapter.settings;
        let has = |module: &str| settings.targets.has(module, self.base);
        let tied = self.base.tied().filter(|_| settings.keep_tied);
        let tied = tied.map(|names| names.map(|name| name.strip_suffix(".weight").unwrap_or(name)));
        match tied {
            Some(tied) if tied.contains(&module) => tied.into_iter().any(has),
            _ => has(module),
        }
    }

    fn ignore(&mut self, name: &str, why: &'static str) {
        self.ignored.entry(why).or_default().push(name.to_owned());
    }

    /// The model's name of a tensor.
    fn find(&self, name: &str, tensor: &str) -> Result<String> {
        let found = self.base.find(tensor);
        found.ok_or_else(|| {
            let problem = format!("the model has no tensor `{tensor}`");
            self.adapter.bad(name, problem)
        })
    }

    /// Puts the tensor `name`, which is `inner` without the prefix, into its place.
    fn place(&mut self, name: &str, inner: &str) -> Result<()> {
        let Some((module, part)) = part(inner) else {
            return self.whole(name, inner);
        };
        if let Some(places) = self.parameters.place(name) {
            for (tensor, parts) in places {
                let known = self.adapter.modules.entry(tensor.clone());
                let known = known.or_insert_with(|| parts.clone());
                let half = match part {
                    Part::A => &mut known.a,
                    _ => &mut known.b,
                };
                *half = Some(name.to_owned());
            }
            return Ok(());
        }
        match part {
            Part::Before => {}
            // Some versions of PEFT write a saved module twice, and read the shorter name.
            Part::Saved(own) if self.has(&format!("{module}.{own}")) => {}
            Part::Saved(own) => {
                let tensor = self.find(name, &format!("{module}.{own}"))?;
                self.replace(name, tensor, false)?;
            }
            Part::Below(own) => {
                let tensor = self.find(name, &format!("{module}.{own}"))?;
                match self.is_target(module) || self.with_tokens.contains(module) {
                    true => self.replace(name, tensor, true)?,
                    false => self.ignore(name, UNREAD),
                }
            }
            Part::Tokens => self.tokens(name, module)?,
            half => self.half(name, module, half)?,
        }
        Ok(())
    }

    /// A tensor in the place of the model's own.
    fn whole(&mut self, name: &str, inner: &str) -> Result<()> {
        let (module, _) = inner.rsplit_once('.').unwrap_or((inner, ""));
        let Some(tensor) = self.base.find(inner) else {
            return Err(
                match inner.ends_with(".weight") || inner.ends_with(".bias") {
                    true if !inner.contains(".lora_") => {
                        let problem = format!("the model has no tensor `{inner}`");
                        self.adapter.bad(name, problem)
                    }
                    _ => self.unknown(name),
                },
            );
        };
        if self.adapter.settings.is_saved(inner) {
            return self.replace(name, tensor, false);
        }
        // Below an adapter, the module's own tensors have other names.
        match self.is_target(module) || self.with_tokens.contains(module) {
            true => self.ignore(name, UNREAD),
            false => self.replace(name, tensor, true)?,
        }
        Ok(())
    }

    /// Puts a tensor in the place of one of the model's; `shared`: where that is embedding and head,
    /// of both.
    fn replace(&mut self, name: &str, tensor: String, shared: bool) -> Result<()> {
        let is_tied = self
            .base
            .tied()
            .is_some_and(|tied| tied.contains(&tensor.as_str()));
        let place = match shared && is_tied {
            true => &mut self.shared,
            false => &mut self.adapter.replaced,
        };
        match place.insert(tensor, name.to_owned()) {
            None => Ok(()),
            Some(_) => Err(self.adapter.bad(name, "the module has another one")),
        }
    }

    /// A, B or another part of an adapted module.
    fn half(&mut self, name: &str, module: &str, part: Part) -> Result<()> {
        let tensor = self.find(name, &weight_of(module))?;
        if !self.is_target(module) {
            self.ignore(name, UNTARGETED);
            return Ok(());
        }
        let (dora, bias) = (self.adapter.settings.dora, self.adapter.settings.bias);
        let looks_up = self.base.is_embedding(module);
        // What is in a layer and no known embedding is a projection.
        let projects = !looks_up && (layer(&tensor).is_some() || self.base.is_head(module));
        let unread = match part {
            Part::A | Part::B => looks_up,
            Part::EmbeddingA | Part::EmbeddingB => projects,
            Part::Magnitude => !dora,
            Part::Bias => !bias || looks_up,
            _ => true,
        };
        if unread {
            self.ignore(name, UNREAD);
            return Ok(());
        }
        let settings = &self.adapter.settings;
        let (rank, scale) = (settings.rank(module), settings.scale(module));
        let (tensor, kind) = match part {
            Part::Bias => (self.find(name, &format!("{module}.bias"))?, Kind::Bias),
            _ if looks_up || matches!(part, Part::EmbeddingA | Part::EmbeddingB) => {
                (tensor, Kind::Embedding)
            }
            _ if self.base.is_transposed(module) => (tensor, Kind::Transposed),
            _ => (tensor, Kind::Linear),
        };
        let known = self.adapter.modules.entry(tensor);
        let known = known.or_insert_with(|| Parts::new(kind, rank, scale));
        // Of an embedding whose name is not known, the magnitude may have come first.
        if kind == Kind::Embedding {
            known.kind = kind;
        }
        let place = match part {
            Part::A | Part::EmbeddingA => &mut known.a,
            Part::Magnitude => &mut known.magnitude,
            _ => &mut known.b,
        };
        match place.replace(name.to_owned()) {
            None => Ok(()),
            Some(_) => Err(self.adapter.bad(name, "the module has another one")),
        }
    }

    /// The rows of some tokens.
    fn tokens(&mut self, name: &str, module: &str) -> Result<()> {
        let ids = match &self.adapter.settings.tokens {
            None => {
                self.ignore(name, UNREAD);
                return Ok(());
            }
            Some(TokenIds::Embedding(ids)) => Some(ids.clone()),
            Some(TokenIds::Named(named)) => {
                let mut named = named.iter();
                let found = named.find(|(end, _)| module.ends_with(end.as_str()));
                found.map(|(_, ids)| ids.clone())
            }
        };
        let tensor = self.find(name, &weight_of(module))?;
        let Some(ids) = ids else {
            let problem = "`trainable_token_indices` does not name its module";
            return Err(self.adapter.bad(name, problem));
        };
        let rows = TokenRows {
            tensor: name.to_owned(),
            ids,
        };
        match self.adapter.tokens.insert(tensor, rows) {
            None => Ok(()),
            Some(_) => Err(self.adapter.bad(name, "the module has another one")),
        }
    }
}
