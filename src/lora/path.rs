//! `BASE+ADAPTER`: a model, and a LoRA adapter on top of it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::adapter::Adapter;
use super::base::Base;
use super::split::split;
use crate::checkpoint::{
    CONFIG, Found, adapter_digest, is_gguf, locate as locate_base, model_digest,
};
use crate::error::{Error, Result};
use crate::files::digest;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPath {
    /// A Hugging Face model folder, or a GGUF file.
    pub base: PathBuf,
    /// The folder of a LoRA adapter on top of it.
    pub adapter: Option<PathBuf>,
}

impl ModelPath {
    /// Digest of the weights that the model has: of its files, and of the adapter's where it has
    /// one.
    ///
    /// # Errors
    /// Files that cannot be read; no weights.
    pub fn digest(&self) -> Result<String> {
        let base = model_digest(&self.base)?;
        match &self.adapter {
            None => Ok(base),
            Some(dir) => Ok(digest::text(&format!("{base} + {}", adapter_digest(dir)?))),
        }
    }

    /// Whether there is a model here, whole or not.
    pub fn is_there(&self) -> bool {
        let base = is_gguf(&self.base) || self.base.join(CONFIG).exists();
        base && self.adapter.as_ref().is_none_or(|dir| dir.is_dir())
    }

    /// Opens the adapter, if there is one, for the model `base`.
    ///
    /// # Errors
    /// Those of [`Adapter::open`].
    pub fn open_adapter(&self, base: &Base) -> Result<Option<Adapter>> {
        let open = |dir: &PathBuf| Adapter::open(dir, base);
        self.adapter.as_ref().map(open).transpose()
    }

    /// What a scoreboard calls it: the name of the folder or file, and that of the adapter's folder
    /// after a `-`.
    pub fn name(&self) -> String {
        let base = match is_gguf(&self.base) {
            true => self.base.file_stem(),
            false => self.base.file_name(),
        };
        let adapter = self.adapter.as_ref().and_then(|dir| dir.file_name());
        let names: Vec<_> = base
            .into_iter()
            .chain(adapter)
            .map(OsStr::to_string_lossy)
            .collect();
        names.join("-")
    }

    /// The model itself.
    ///
    /// # Errors
    /// It has an adapter; `role` says what it is wanted for.
    pub fn plain(self, role: &str) -> Result<PathBuf> {
        match self.adapter {
            None => Ok(self.base),
            Some(_) => Err(Error::usage(format!(
                "{role} cannot be a model with an adapter, found `{self}`"
            ))
            .remedy("write the whole model first: `fuselm merge` with `passthrough`")),
        }
    }
}

impl From<PathBuf> for ModelPath {
    fn from(base: PathBuf) -> Self {
        Self {
            base,
            adapter: None,
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelPath {
    fn from(base: &P) -> Self {
        base.as_ref().to_path_buf().into()
    }
}

impl From<&ModelPath> for ModelPath {
    fn from(path: &ModelPath) -> Self {
        path.clone()
    }
}

/// As it is written.
impl fmt::Display for ModelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base.display())?;
        match &self.adapter {
            Some(adapter) => write!(f, "+{}", adapter.display()),
            None => Ok(()),
        }
    }
}

/// Finds the model `name`: a folder, a hub id or a GGUF file, and after a `+` the folder of an
/// adapter.
///
/// # Errors
/// There is no such model, or no such adapter.
pub fn locate(name: &str) -> Result<ModelPath> {
    let (base, adapter) = split(name, |name| Path::new(name).exists());
    let base = locate_base(base)?;
    let found = Found::at(&base);
    if matches!(found, Found::Adapter(_)) {
        return Err(found.no_model(&base));
    }
    let adapter = adapter.map(PathBuf::from);
    if let Some(dir) = adapter.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(
            Error::usage(format!("adapter `{}`: no such folder", dir.display()))
                .remedy("write `MODEL+ADAPTER` with the folder of a LoRA adapter"),
        );
    }
    Ok(ModelPath { base, adapter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_an_adapter_is_located_as_both() {
        let dir = tempfile::tempdir().unwrap();
        let [base, adapter] = ["base", "adapter"].map(|name| dir.path().join(name));
        std::fs::create_dir(&base).unwrap();
        let name = format!("{}+{}", base.display(), adapter.display());
        let error = locate(&name).unwrap_err().to_string();
        assert!(error.contains("adapter`: no such folder"), "{error}");
        std::fs::create_dir(&adapter).unwrap();
        let found = locate(&name).unwrap();
        assert_eq!(
            (&found.base, found.adapter.as_ref()),
            (&base, Some(&adapter))
        );
        assert_eq!(found.to_string(), name);
        assert_eq!(found.name(), "base-adapter");
        std::fs::write(
            adapter.join("adapter_config.json"),
            r#"{"base_model_name_or_path": "x/y"}"#,
        )
        .unwrap();
        let error = locate(adapter.to_str().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("a LoRA adapter for `x/y`") && error.contains("`x/y+"),
            "{error}"
        );
        let error = found.plain("the pivot").unwrap_err().to_string();
        assert!(error.contains("the pivot cannot be"), "{error}");
        assert_eq!(
            locate(base.to_str().unwrap()).unwrap(),
            ModelPath::from(&base)
        );
    }
}
