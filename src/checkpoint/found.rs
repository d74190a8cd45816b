//! What lies at a path where a model was expected, by the names of its files.

use std::fs;
use std::path::{Path, PathBuf};

use super::companions::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, SINGLE, TOKENIZER};
use super::companions::{TOKENIZER_CONFIG, is_weights};
use super::gguf::is_gguf;
use crate::error::Error;
use crate::files::read_json;

/// What a path is, as far as names say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A folder with safetensors weights under the names that transformers gives them.
    Model,
    /// The folder of an adapter, and the base that its settings name.
    Adapter(Option<String>),
    /// A GGUF file.
    Gguf,
    /// A single safetensors file.
    Safetensors,
    /// A file of weights in another format, or a folder whose weights are such files: one of their
    /// names.
    OtherWeights(String),
    /// A folder with safetensors files under other names: one of them.
    OtherNames(String),
    /// A folder with a tokenizer or a configuration, without weights.
    NoWeights,
    /// Nothing of a model.
    Other,
    /// There is nothing.
    Nothing,
}

impl Found {
    /// Looks at `path`.
    pub fn at(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.exists() {
            return Self::Nothing;
        }
        if is_gguf(path) {
            return Self::Gguf;
        }
        if path.is_file() {
            return match name.ends_with(".safetensors") {
                true => Self::Safetensors,
                false if is_weights(&name) => Self::OtherWeights(name.into_owned()),
                false => Self::Other,
            };
        }
        let has = |name: &str| path.join(name).is_file();
        if has(SINGLE) || has(INDEX) {
            return Self::Model;
        }
        if has(ADAPTER_CONFIG) || has(ADAPTER_WEIGHTS) || has("adapter_model.bin") {
            return Self::Adapter(base_of(path));
        }
        let weights = weights_in(path);
        let safetensors = weights.iter().find(|name| name.ends_with(".safetensors"));
        match (safetensors, weights.first()) {
            (Some(name), _) => Self::OtherNames(name.clone()),
            (None, Some(name)) => Self::OtherWeights(name.clone()),
            (None, None) if has(CONFIG) || has(TOKENIZER) || has(TOKENIZER_CONFIG) => {
                Self::NoWeights
            }
            (None, None) => Self::Other,
        }
    }

    /// What it is, in words; nothing for a model and for what does not exist.
    pub fn describe(&self) -> Option<String> {
        Some(match self {
            Self::Model | Self::Nothing => return None,
            Self::Adapter(Some(base)) => format!("a LoRA adapter for `{base}`, no model"),
            Self::Adapter(None) => "a LoRA adapter, no model".to_owned(),
            Self::Gguf => "a GGUF file".to_owned(),
            Self::Safetensors => "a single safetensors file, no model folder".to_owned(),
            Self::OtherWeights(name) => {
                let format = format_of(name);
                format!("{format} (`{name}`), and no safetensors weights")
            }
            Self::OtherNames(name) if name.starts_with("consolidated") => {
                format!("weights in the layout of their makers (`{name}`), not in Hugging Face's")
            }
            Self::OtherNames(name) => {
                format!("a folder with `{name}`, but neither `{SINGLE}` nor `{INDEX}`")
            }
            Self::NoWeights => "a folder without weights".to_owned(),
            Self::Other => "nothing of a model".to_owned(),
        })
    }

    /// What to do where the weights at `path` are needed as safetensors.
    pub fn remedy(&self, path: &Path) -> String {
        match self {
            Self::Adapter(base) => {
                let base = base.as_deref().unwrap_or("MODEL");
                format!("name it after its model: `{base}+{}`", path.display())
            }
            Self::Gguf => "give the folder of the model that it was made from".to_owned(),
            Self::Safetensors => {
                let folder = path.parent().unwrap_or(path);
                match Self::at(folder) {
                    Self::Model => format!("give its folder, `{}`", folder.display()),
                    _ => format!("put it in a folder, as `{SINGLE}` beside the `{CONFIG}`"),
                }
            }
            Self::OtherWeights(name) if name.ends_with(".gguf") => {
                format!(
                    "give the file itself, `{}`, or the folder of the model that it was made from",
                    path.join(name).display()
                )
            }
            Self::OtherWeights(_) => {
                "load the model with transformers and save it (`save_pretrained`): that writes \
                 safetensors"
                    .to_owned()
            }
            Self::OtherNames(name) if name.contains("-of-") => format!(
                "download the model again: `{INDEX}`, which says what is in each shard, is missing"
            ),
            Self::OtherNames(_) => {
                format!("give the folder of the model in Hugging Face's layout (`{SINGLE}`)")
            }
            Self::NoWeights | Self::Other | Self::Model | Self::Nothing => {
                format!("give the folder that holds `{CONFIG}` and safetensors files")
            }
        }
    }

    /// The error of who needs a model folder with safetensors weights at `path`.
    pub fn no_model(&self, path: &Path) -> Error {
        let what = match self.describe() {
            Some(what) => format!("expected a model folder with safetensors weights, found {what}"),
            None => "there is no such model folder".to_owned(),
        };
        Error::file(path, what).remedy(self.remedy(path))
    }
}

/// The base that an adapter's settings name.
fn base_of(dir: &Path) -> Option<String> {
    let settings = read_json(&dir.join(ADAPTER_CONFIG)).ok()??;
    let base = settings.get("base_model_name_or_path")?.as_str()?;
    (!base.is_empty()).then(|| base.to_owned())
}

/// The files of weights in a folder, by name; those that a model is likely to consist of first.
fn weights_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let names = files.filter_map(|entry| entry.file_name().into_string().ok());
    // States of a training lie beside models, and are none.
    const STATES: [&str; 5] = [
        "training_args",
        "optimizer",
        "scheduler",
        "rng_state",
        "scaler",
    ];
    let mut names: Vec<String> = names
        .filter(|name| is_weights(name) && !name.ends_with(".index.json"))
        .filter(|name| !STATES.iter().any(|state| name.starts_with(state)))
        .collect();
    names.sort();
    names
}

/// What wrote a file of weights, by its ending.
fn format_of(name: &str) -> &'static str {
    let end = name.rsplit('.').next().unwrap_or_default();
    match end.to_ascii_lowercase().as_str() {
        "bin" | "pt" | "pth" | "ckpt" => "pickled weights of PyTorch",
        "gguf" => "GGUF files",
        "onnx" | "onnx_data" => "weights in ONNX's format",
        "msgpack" => "weights in Flax's format",
        "h5" => "weights in Keras's format",
        _ => "weights in another format",
    }
}

/// Whether a folder has weights of any kind: those of a model that is not to be trained from
/// scratch.
pub fn has_weights(path: &Path) -> bool {
    let found = Found::at(path);
    matches!(
        found,
        Found::Model | Found::Gguf | Found::OtherWeights(_) | Found::OtherNames(_)
    )
}

/// Where the folder of a model is, if `path` is a file in it that stands for all of it.
pub fn folder_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stands = name == CONFIG || name == INDEX || name == ADAPTER_CONFIG || name == TOKENIZER;
    let folder = path.parent().filter(|_| stands && path.is_file())?;
    Some(match folder == Path::new("") {
        true => PathBuf::from("."),
        false => folder.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_called_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, files: &[(&str, &str)]| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            for (file, text) in files {
                fs::write(path.join(file), text).unwrap();
            }
            path
        };
        let said = |path: &Path| Found::at(path).no_model(path).to_string();
        let base = r#"{"base_model_name_or_path": "org/base"}"#;
        let adapter = folder(
            "lora",
            &[("adapter_config.json", base), ("adapter_model.bin", "")],
        );
        let error = said(&adapter);
        assert!(error.contains("a LoRA adapter for `org/base`"), "{error}");
        assert!(error.contains("`org/base+"), "{error}");
        let bins = folder(
            "bins",
            &[
                ("config.json", "{}"),
                ("pytorch_model-00001-of-00002.bin", ""),
                ("training_args.bin", ""),
            ],
        );
        let error = said(&bins);
        assert!(
            error.contains("pickled weights of PyTorch") && error.contains("save_pretrained"),
            "{error}"
        );
        assert!(has_weights(&bins) && !has_weights(&adapter));
        let mistral = folder(
            "mistral",
            &[("consolidated.safetensors", ""), ("params.json", "{}")],
        );
        assert!(said(&mistral).contains("in the layout of their makers"));
        let shards = folder("shards", &[("model-00001-of-00002.safetensors", "")]);
        assert!(said(&shards).contains("which says what is in each shard"));
        let ggufs = folder("ggufs", &[("x-Q4_K_M.gguf", "")]);
        assert!(said(&ggufs).contains("ggufs/x-Q4_K_M.gguf"));
        assert!(said(&ggufs.join("x-Q4_K_M.gguf")).contains("found a GGUF file"));
        let tokenizer = folder(
            "tokenizer",
            &[("tokenizer.json", "{}"), ("training_args.bin", "")],
        );
        assert!(said(&tokenizer).contains("a folder without weights"));
        assert!(!has_weights(&tokenizer));
        let model = folder("model", &[("config.json", "{}"), ("model.safetensors", "")]);
        assert_eq!(Found::at(&model), Found::Model);
        let file = model.join("model.safetensors");
        let error = said(&file);
        assert!(error.contains("a single safetensors file"), "{error}");
        assert!(
            error.contains(&format!("give its folder, `{}`", model.display())),
            "{error}"
        );
        assert!(said(&dir.path().join("none")).contains("no such model folder"));
        assert!(said(&folder("empty", &[])).contains("nothing of a model"));
        assert_eq!(folder_of(&model.join("config.json")), Some(model.clone()));
        assert_eq!(folder_of(&file), None);
    }
}
