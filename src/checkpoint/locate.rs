//! Finding a model: a folder, or an id on the Hugging Face hub.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};

use super::carried::{is_downloaded, is_of_tokenizer};
use super::companions::{CONFIG, INDEX, SINGLE, TOKENIZER};
use super::found::{Found, folder_of};
use super::gguf::is_gguf;
use super::index::Index;
use crate::error::{Error, Result};
use crate::progress;

/// The folder of the model `name`: an existing folder, or a Hugging Face hub id (`owner/name`);
/// or a GGUF file.
///
/// A hub id is looked up in the local cache (`HF_HOME`) first and downloaded into it if it is not
/// there whole: configuration, tokenizer and safetensors files. `HF_HUB_OFFLINE=1` forbids that.
///
/// # Errors
/// `name` is neither; the download failed, or is forbidden.
pub fn locate(name: &str) -> Result<PathBuf> {
    find(name, Wanted::Model)
}

/// Where the tokenizer of `model` (as [`locate()`] returns it) is: in the folder called `given` (a
/// folder or a hub id), or else in the model's own; a GGUF file has one itself, before which a
/// `tokenizer.json` beside it counts.
///
/// # Errors
/// Those of [`locate()`].
pub fn tokenizer_dir(model: &Path, given: Option<&str>) -> Result<PathBuf> {
    if let Some(name) = given {
        return find(name, Wanted::Tokenizer);
    }
    if !is_gguf(model) {
        return Ok(model.to_owned());
    }
    let dir = match model.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok(match dir.join(TOKENIZER).is_file() {
        true => dir,
        false => model.to_owned(),
    })
}

/// What is looked for under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Configuration, tokenizer and weights.
    Model,
    /// No more than the files that are not weights.
    Tokenizer,
}

fn find(name: &str, wanted: Wanted) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() || (wanted == Wanted::Model && is_gguf(path)) {
        return Ok(path.to_owned());
    }
    if path.exists() {
        let found = Found::at(path);
        let what = match found {
            Found::Other => "a file".to_owned(),
            _ => found.describe().unwrap_or_else(|| "a file".to_owned()),
        };
        let problem = format!("expected a model folder, found {what}");
        return Err(
            Error::file(path, problem).remedy(match (&found, folder_of(path)) {
                (_, Some(folder)) => format!("give its folder, `{}`", folder.display()),
                (Found::Other, None) => {
                    "give the folder that holds `config.json`, or a `.gguf` file".to_owned()
                }
                (_, None) => found.remedy(path),
            }),
        );
    }
    if !is_hub_id(name) {
        return Err(Error::usage(format!(
            "model `{name}`: no such folder, and not a Hugging Face id of the form `owner/name`"
        )));
    }
    let repo = Repo::model(name.to_owned());
    if let Some(dir) = cached(&Cache::from_env(), &repo, wanted) {
        return Ok(dir);
    }
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0")) {
        return Err(Error::usage(format!(
            "model `{name}`: no such folder, and not in the Hugging Face cache"
        ))
        .remedy("unset `HF_HUB_OFFLINE` to download it"));
    }
    download(name, repo, wanted)
}

fn is_hub_id(name: &str) -> bool {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 96
            && !part.contains("..")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split_once('/')
        .is_some_and(|(owner, model)| plain(owner) && plain(model))
}

/// The snapshot in the cache, if what is wanted is there whole.
fn cached(cache: &Cache, repo: &Repo, wanted: Wanted) -> Option<PathBuf> {
    let files = cache.repo(repo.clone());
    if wanted == Wanted::Tokenizer {
        return Some(files.get(TOKENIZER)?.parent()?.to_owned());
    }
    let dir = files.get(CONFIG)?.parent()?.to_owned();
    let complete = match files.get(SINGLE) {
        Some(_) => true,
        None => {
            let index = Index::read(&files.get(INDEX)?).ok()?;
            index.files().iter().all(|shard| dir.join(shard).exists())
        }
    };
    complete.then_some(dir)
}

fn download(name: &str, repo: Repo, wanted: Wanted) -> Result<PathBuf> {
    let failed = |error: hf_hub::api::sync::ApiError| {
        Error::usage(format!(
            "model `{name}`: no such folder, and it could not be downloaded from the Hugging Face hub: {error}"
        ))
        .remedy("check the name and the connection, or give a local folder")
    };
    let api = ApiBuilder::from_env()
        .with_progress(false)
        .build()
        .map_err(failed)?;
    let files: ApiRepo = api.repo(repo);
    let listed: Vec<String> = files
        .info()
        .map_err(failed)?
        .siblings
        .into_iter()
        .map(|sibling| sibling.rfilename)
        .collect();
    let has = |file: &str| listed.iter().any(|name| name == file);
    let fetch = |file: &str| {
        progress::check_interrupt()?;
        progress::note(format!("downloading {name}: {file}"));
        files.get(file).map_err(failed)
    };
    let first = match wanted {
        Wanted::Model => fetch(CONFIG)?,
        Wanted::Tokenizer => fetch(TOKENIZER)?,
    };
    let wanted_too = |file: &&String| match wanted {
        Wanted::Model => is_downloaded(file),
        Wanted::Tokenizer => is_of_tokenizer(file),
    };
    for file in listed.iter().filter(wanted_too) {
        fetch(file)?;
    }
    if wanted == Wanted::Tokenizer {
        // Weights are not wanted.
    } else if has(SINGLE) {
        fetch(SINGLE)?;
    } else if has(INDEX) {
        for shard in Index::read(&fetch(INDEX)?)?.files() {
            fetch(shard)?;
        }
    } else {
        return Err(Error::usage(format!(
            "model `{name}` has no safetensors files on the Hugging Face hub"
        )));
    }
    match first.parent() {
        Some(dir) => Ok(dir.to_owned()),
        None => Err(Error::file(&first, "not inside a folder")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_taken_as_they_are_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locate(dir.path().to_str().unwrap()).unwrap(), dir.path());
        for name in [
            "./missing",
            "/missing/model",
            "a/b/c",
            "../missing",
            "a/..b",
            "",
        ] {
            let error = locate(name).unwrap_err().to_string();
            assert!(error.contains("owner/name"), "{name}: {error}");
        }
        let file = dir.path().join("x");
        std::fs::write(&file, "").unwrap();
        let error = locate(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("found a file"), "{error}");
        let gguf = dir.path().join("x.gguf");
        std::fs::write(&gguf, "").unwrap();
        assert_eq!(locate(gguf.to_str().unwrap()).unwrap(), gguf);
    }

    #[test]
    fn a_tokenizer_beside_a_gguf_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let gguf = dir.path().join("x.gguf");
        std::fs::write(&gguf, "").unwrap();
        assert_eq!(tokenizer_dir(&gguf, None).unwrap(), gguf);
        let given = other.path().to_str().unwrap();
        assert_eq!(tokenizer_dir(&gguf, Some(given)).unwrap(), other.path());
        assert!(tokenizer_dir(&gguf, Some("./missing")).is_err());
        std::fs::write(dir.path().join(TOKENIZER), "").unwrap();
        assert_eq!(tokenizer_dir(&gguf, None).unwrap(), dir.path());
        assert_eq!(tokenizer_dir(dir.path(), None).unwrap(), dir.path());
    }

    #[test]
    fn whole_snapshots_are_found_in_the_cache() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("models--o--m");
        let snapshot = model.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("refs/main"), "abc").unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        std::fs::write(snapshot.join(INDEX), index).unwrap();
        std::fs::write(snapshot.join("1.safetensors"), "").unwrap();
        let find = || {
            cached(
                &Cache::new(home.path().to_owned()),
                &Repo::model("o/m".to_owned()),
                Wanted::Model,
            )
        };
        assert_eq!(find(), None);
        std::fs::write(snapshot.join("2.safetensors"), "").unwrap();
        assert_eq!(find(), Some(snapshot.clone()));
    }
}
