//! Opening an adapter for a model: its files are read, its tensors are sorted and checked.

use std::collections::BTreeMap;
use std::path::Path;

use super::adapter::Adapter;
use super::base::Base;
use super::check::check;
use super::read::Settings;
use super::sort::sort;
use crate::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint};
use crate::error::{Context, Error, Result};
use crate::progress;

/// The weights of an adapter as older programs wrote them: pickled.
const PICKLED: &str = "adapter_model.bin";

impl Adapter {
    /// Opens the adapter in `dir` for the model `base`.
    ///
    /// # Errors
    ///
    /// Missing or damaged files; another kind of adapter; settings that are not supported; tensors
    /// that are no part of an adapter; A without B; modules that the model does not have; shapes
    /// that fit neither the model nor the settings; no tensor that PEFT would apply.
    pub fn open(dir: &Path, base: &Base) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            return Err(
                Error::file(dir, format!("expected an adapter, there is no `{CONFIG}`"))
                    .remedy("write `MODEL+ADAPTER` with the folder of a LoRA adapter"),
            );
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let settings = Settings::read(&path, &text)?;
        settings
            .targets
            .check(&path, base, !settings.parameters.is_empty())?;
        let mut adapter = Self {
            dir: dir.to_path_buf(),
            checkpoint: weights(dir)?,
            settings,
            text,
            modules: BTreeMap::new(),
            replaced: BTreeMap::new(),
            tokens: BTreeMap::new(),
            unties: false,
            rows: None,
        };
        let ignored = sort(&mut adapter, base)?;
        adapter.rows = check(&adapter, base)?;
        adapter.unties = parts(&adapter, base);
        for message in ignored {
            progress::warn_once(format!("{}: {message}", dir.display()));
        }
        Ok(adapter)
    }
}

/// Whether head and embedding get parts of their own.
fn parts(adapter: &Adapter, base: &Base) -> bool {
    let Some([embedding, head]) = base.tied() else {
        return false;
    };
    let differ = adapter.modules.get(embedding) != adapter.modules.get(head);
    differ
        || adapter.replaced.get(embedding) != adapter.replaced.get(head)
        || adapter.tokens.get(embedding) != adapter.tokens.get(head)
}

/// The tensors of the adapter in `dir`.
fn weights(dir: &Path) -> Result<Checkpoint> {
    let path = dir.join(WEIGHTS);
    if !path.is_file() {
        let problem = format!("expected `{WEIGHTS}`, there is none");
        let error = Error::file(dir, problem);
        return Err(match dir.join(PICKLED).is_file() {
            true => error.remedy(format!(
                "`{PICKLED}` is pickled, which can run code and is not read; load the adapter with \
                 PEFT and save it again: `save_pretrained(…, safe_serialization=True)`"
            )),
            false => error.remedy("copy the adapter again, with its weights"),
        });
    }
    Checkpoint::open(&path)
}
