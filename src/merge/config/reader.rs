//! What all parts of a configuration are read with.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result, did_you_mean};
use crate::merge::methods::Method;

/// What reading a configuration needs to know, and what it has to say.
pub struct Reader {
    /// The method.
    pub method: &'static Method,
    /// The folder that model paths are relative to.
    pub root: PathBuf,
    /// What has no effect.
    pub warnings: Vec<String>,
}

impl Reader {
    /// Of a configuration with this method and folder.
    pub fn new(method: &'static Method, root: &Path) -> Self {
        Self {
            method,
            root: root.to_path_buf(),
            warnings: Vec::new(),
        }
    }

    /// Says that something has no effect, once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Says of keys that are none of `keys` that they have no effect.
    ///
    /// # Errors
    ///
    /// A key that is near to a known one, or that belongs under `parameters`.
    pub fn known(&mut self, map: &Map<String, Value>, keys: &[&str], place: &str) -> Result<()> {
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            let problem = format!("unknown key `{key}` in {place}");
            if self.method.parameter(key).is_some() {
                return Err(Error::usage(problem).remedy("give it under `parameters`"));
            }
            if let Some(remedy) = did_you_mean(key, keys.iter().copied()) {
                return Err(Error::usage(problem).remedy(remedy));
            }
            self.warn(format!("{problem}: it has no effect"));
        }
        Ok(())
    }
}
