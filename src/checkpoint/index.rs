//! The list of a checkpoint's shards.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::tensors::Pairs;

/// Which shard each tensor is in, as `model.safetensors.index.json` says.
pub(super) struct Index {
    path: PathBuf,
    /// Tensors and the files they are in, as paths in the index's folder.
    pub tensors: Vec<(String, String)>,
    /// Places of the tensors in the list.
    by_name: HashMap<String, usize>,
}

impl Index {
    /// Reads the index at `path`.
    ///
    /// # Errors
    /// It cannot be read, has no map of tensors to files, names a tensor twice or a file outside
    /// its folder (files in folders of that folder are inside, and links are followed).
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Text {
            weight_map: Pairs<Value>,
        }
        let text = std::fs::read(path).at(path)?;
        let parsed: Text = serde_json::from_slice(&text).map_err(|error| {
            Error::file(
                path,
                format!("expected a weight map in the field `weight_map`: {error}"),
            )
        })?;
        let mut index = Self {
            path: path.to_path_buf(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
        };
        for (tensor, file) in parsed.weight_map.0 {
            let Value::String(name) = &file else {
                return Err(index.wrong(&tensor, format!("expected a file's name, found `{file}`")));
            };
            let mut parts = Path::new(name).components();
            if name.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
                return Err(index.wrong(&tensor, format!("`{name}` lies outside the folder")));
            }
            index.by_name.insert(tensor.clone(), index.tensors.len());
            index.tensors.push((tensor, name.clone()));
        }
        Ok(index)
    }

    /// The files, each once, by name.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.tensors.iter().map(|(_, file)| file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, tensor: &str) -> Option<&str> {
        let place = self.by_name.get(tensor)?;
        Some(self.tensors[*place].1.as_str())
    }

    /// Where a file of the index lies.
    ///
    /// # Errors
    /// It is not there.
    pub fn shard(&self, file: &str) -> Result<PathBuf> {
        let path = self.path.with_file_name("").join(file);
        if path.is_file() {
            return Ok(path);
        }
        let tensor = self.tensors.iter().find(|(_, name)| name == file);
        let tensor = tensor.map_or("", |(tensor, _)| tensor);
        Err(self
            .wrong(tensor, format!("shard `{file}` is missing"))
            .remedy("download the model again, its weights are incomplete"))
    }

    /// The error for a tensor that is not where the index says.
    pub fn misplaced(&self, tensor: &str, file: &str) -> Error {
        self.wrong(
            tensor,
            format!("tensor `{tensor}` is not in shard `{file}`"),
        )
        .remedy("download the model again, index and shards do not belong together")
    }

    fn wrong(&self, tensor: &str, problem: String) -> Error {
        Error::file(
            &self.path,
            format!("field `weight_map.{tensor}`: {problem}"),
        )
    }
}
