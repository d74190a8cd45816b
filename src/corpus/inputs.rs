//! Which files `inputs` means: files, all that have records in a folder, those that fit a pattern.

use std::fs;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern, glob_with};

use crate::error::{Context, Error, Result};
use crate::progress::note;

/// How files with records are called; `.gz` and `.zst` may follow.
const ENDINGS: [&str; 4] = [".jsonl", ".ndjson", ".json", ".parquet"];

/// Names are matched as a shell does.
const LIKE_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The files that `inputs` means, relative to the folder `base`: each in its place, those of a folder
/// (and the folders in it) or pattern in the order of their paths.
///
/// # Errors
/// A pattern that is none, or that no file fits; a folder without records. A file that is not there
/// is left to who reads it.
pub fn files_of(inputs: &[PathBuf], base: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        let path = base.join(input);
        if path.is_dir() {
            files.extend(in_folder(&path)?);
        } else if !path.exists() && is_pattern(input) {
            files.extend(fitting(input, base)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn fitting(input: &Path, base: &Path) -> Result<Vec<PathBuf>> {
    let wrong =
        |problem: String| Error::usage(format!("`corpus.inputs`: `{}` {problem}", input.display()));
    let own = Path::new(&Pattern::escape(&base.to_string_lossy())).join(input);
    let paths = glob_with(&own.to_string_lossy(), LIKE_A_SHELL)
        .map_err(|error| wrong(format!("is no pattern: {}", error.msg)))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| Error::io(error.path().to_path_buf(), error.into()))?;
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(wrong(format!("fits no file in `{}`", base.display()))),
        false => Ok(files),
    }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    let mut folders = vec![folder.to_path_buf()];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(&dir).at(&dir)? {
            let entry = entry.at(&dir)?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            // Links to folders might lead in circles.
            match entry.file_type().at(&path)?.is_dir() {
                true => folders.push(path),
                false if has_records(&name) => files.push(path),
                false => others.push(name.into_owned()),
            }
        }
    }
    files.sort();
    others.sort();
    if files.is_empty() {
        let endings = ENDINGS.join("`, `");
        return Err(
            Error::file(folder, "has no file with records").remedy(format!(
                "known endings are `{endings}`, also with `.gz` or `.zst`"
            )),
        );
    }
    if !others.is_empty() {
        note(format!(
            "{}: {} files read; left out by their names: {}",
            folder.display(),
            files.len(),
            others.join(", ")
        ));
    }
    Ok(files)
}

fn has_records(name: &str) -> bool {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let name = name.strip_suffix(".zst").unwrap_or(name);
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_mean_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        // A folder whose name would be a pattern.
        let base = dir.path().join("a[1]");
        let names = [
            "b.jsonl",
            "a.JSON.gz",
            "note.txt",
            "deep/c.parquet",
            "deep/.hidden.jsonl",
            "b[1].jsonl",
        ];
        for name in names {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |inputs: &[&str]| -> Result<Vec<String>> {
            let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
            let name = |path: PathBuf| {
                let path = path
                    .strip_prefix(&base)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                path.trim_start_matches("./").to_owned()
            };
            Ok(files_of(&inputs, &base)?.into_iter().map(name).collect())
        };
        assert_eq!(
            found(&["."]).unwrap(),
            ["a.JSON.gz", "b.jsonl", "b[1].jsonl", "deep/c.parquet"]
        );
        assert_eq!(
            found(&["no.jsonl", "b[1].jsonl"]).unwrap(),
            ["no.jsonl", "b[1].jsonl"]
        );
        assert_eq!(found(&["*.jsonl"]).unwrap(), ["b.jsonl", "b[1].jsonl"]);
        assert_eq!(found(&["**/*.parquet"]).unwrap(), ["deep/c.parquet"]);
        let error = found(&["*.csv"]).unwrap_err().to_string();
        assert!(error.contains("`*.csv` fits no file"), "{error}");
        assert!(
            found(&["***"])
                .unwrap_err()
                .to_string()
                .contains("no pattern")
        );
        fs::remove_file(base.join("deep/c.parquet")).unwrap();
        let error = found(&["deep"]).unwrap_err().to_string();
        assert!(error.contains("has no file with records"), "{error}");
    }
}
