//! What follows once every tensor of an adapter's file is in its place: what is missing, what head and
//! embedding share, what is said.

use super::names::{PREFIX, part};
use super::parts::Parts;
use super::sort::Sorter;
use crate::error::Result;

impl Sorter<'_> {
    /// Fails where the settings name no module of the model.
    pub fn targets_something(&self, names: &[String]) -> Result<()> {
        let own = self
            .base
            .tensors()
            .filter_map(|name| name.strip_suffix(".weight"));
        let adapted = names
            .iter()
            .filter_map(|name| part(name.strip_prefix(PREFIX)?));
        let mut all = own.chain(adapted.map(|(module, _)| module));
        if !self.parameters.is_empty() || all.any(|module| self.is_target(module)) {
            return Ok(());
        }
        Err(self
            .adapter
            .unfit("`target_modules` and what narrows it down name no module of the model")
            .remedy("PEFT does not load such an adapter; correct the names"))
    }

    /// Fails where a module that is stored whole, or has rows of its own, lacks them.
    pub fn saved_are_there(&self) -> Result<()> {
        let (settings, replaced) = (&self.adapter.settings, &self.adapter.replaced);
        let keeps_tied = self.base.tied().filter(|_| settings.keep_tied);
        for tensor in self.base.tensors() {
            let is_tied = keeps_tied.is_some_and(|tied| tied.contains(&tensor));
            if settings.is_saved(tensor) && !is_tied && !replaced.contains_key(tensor) {
                let problem = format!("`modules_to_save` names `{tensor}`, and the file lacks it");
                return Err(self.adapter.unfit(problem).remedy("copy the adapter again"));
            }
        }
        match settings.tokens.is_some() && self.adapter.tokens.is_empty() {
            true => Err(self
                .adapter
                .unfit("`trainable_token_indices` names tokens, and the file lacks their rows")
                .remedy("copy the adapter again")),
            false => Ok(()),
        }
    }

    /// Gives a head that is the embedding what `ensure_weight_tying` and `trainable_token_indices`
    /// give it.
    pub fn tie(&mut self) -> Result<()> {
        let Some([embedding, head]) = self.base.tied() else {
            return Ok(());
        };
        let adapter = &mut *self.adapter;
        let shared = self.shared.get(embedding).or_else(|| self.shared.get(head));
        if let Some(shared) = shared {
            for name in [embedding, head] {
                let known = adapter.replaced.entry(name.to_owned());
                known.or_insert_with(|| shared.clone());
            }
        }
        if let Some(rows) = adapter.tokens.get(embedding).cloned() {
            adapter.tokens.entry(head.to_owned()).or_insert(rows);
        }
        if !adapter.settings.keep_tied {
            return Ok(());
        }
        let known = ["embed_tokens", "lm_head"];
        let saved = adapter.settings.saved.iter();
        let mut saved = saved.map(|name| name.rsplit('.').next().unwrap_or(name));
        if saved.any(|name| known.contains(&name)) {
            let whole = adapter.replaced.get(embedding);
            let whole = whole.or_else(|| adapter.replaced.get(head)).cloned();
            let Some(whole) = whole else {
                let problem = "`modules_to_save` names the embedding, and the file lacks it";
                return Err(adapter.unfit(problem).remedy("copy the adapter again"));
            };
            for name in [embedding, head] {
                adapter.replaced.insert(name.to_owned(), whole.clone());
                adapter.modules.remove(name);
            }
        } else if let Some(parts) = adapter.modules.get(embedding).cloned() {
            let key = head.strip_suffix(".weight").unwrap_or(head);
            let scale = adapter.settings.scale(key);
            adapter
                .modules
                .insert(head.to_owned(), Parts { scale, ..parts });
        } else if adapter.modules.contains_key(head) {
            let problem =
                "`ensure_weight_tying` adapts the embedding, and the file lacks its A and B";
            return Err(adapter.unfit(problem).remedy("copy the adapter again"));
        }
        Ok(())
    }

    /// What is said of modules that are adapted and have no tensors.
    pub fn unadapted(&self) -> Option<String> {
        let weights = self.base.tensors().filter(|tensor| {
            let module = tensor.strip_suffix(".weight");
            let is_matrix = self
                .base
                .shape(tensor)
                .is_some_and(|shape| shape.len() == 2);
            is_matrix && module.is_some_and(|module| self.is_target(module))
        });
        let lacking: Vec<&str> = weights
            .filter(|tensor| !self.adapter.modules.contains_key(*tensor))
            .collect();
        let first = lacking.first()?;
        Some(format!(
            "{} of the modules that `target_modules` names have no A and B in this file, and stay as \
             they are (`{first}`)",
            lacking.len()
        ))
    }

    /// What is said of the tensors that are not applied.
    pub fn said(&self) -> Vec<String> {
        let ignored = self.ignored.iter();
        let said = ignored.map(|(why, names)| {
            let some: Vec<String> = names
                .iter()
                .take(3)
                .map(|name| format!("`{name}`"))
                .collect();
            let more = if names.len() > 3 { ", …" } else { "" };
            let tensors = if names.len() == 1 {
                "tensor is"
            } else {
                "tensors are"
            };
            let list = some.join(", ");
            format!(
                "{} {tensors} not applied ({list}{more}): {why}",
                names.len()
            )
        });
        said.collect()
    }
}
