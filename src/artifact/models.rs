//! Rows of `models`: who takes part in a run.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::UInt64Type;

use super::rows::numbers;
use super::{Artifact, Existing, Kind, Provenance, Writer};
use crate::error::{Context, Error, Result};

/// A model of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its name in the run.
    pub name: String,
    /// Whether the result will be like it.
    pub is_pivot: bool,
    /// Name of its vocabulary in the run: that of the first model that has it.
    pub vocabulary: String,
    /// Its folder or GGUF file, or that of its tokenizer where nothing else is known.
    pub location: String,
    /// Digest of its weights; empty where there are none.
    pub digest: String,
    /// Architecture; empty where it is not known.
    pub architecture: String,
    /// Number of parameters; 0 where it is not known.
    pub parameters: u64,
}

/// Writes the artifact, in the place of what is there.
///
/// # Errors
/// Failed writes.
pub fn write(dir: &Path, rows: &[ModelRow]) -> Result<()> {
    let mut rows: Vec<&ModelRow> = rows.iter().collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let mut provenance = Provenance::new(Kind::Models);
    for row in &rows {
        let ModelRow {
            digest, location, ..
        } = row;
        let known_by = format!("{} {digest} {location} {}", role(row), row.vocabulary);
        provenance = provenance.input(&row.name, known_by);
    }
    let texts = |text: fn(&ModelRow) -> &str| -> ArrayRef {
        let values = rows.iter().map(|row| text(row));
        Arc::new(StringArray::from_iter_values(values))
    };
    let columns: Vec<ArrayRef> = vec![
        texts(|row| &row.name),
        texts(role),
        texts(|row| &row.vocabulary),
        texts(|row| &row.location),
        texts(|row| &row.digest),
        texts(|row| &row.architecture),
        Arc::new(UInt64Array::from_iter_values(
            rows.iter().map(|row| row.parameters),
        )),
    ];
    let batch = RecordBatch::try_new(Kind::Models.schema(), columns)
        .during(|| "building `models` rows".into())?;
    Writer::create(dir, provenance, Existing::Replace)?.write_only(&batch)
}

fn role(row: &ModelRow) -> &str {
    match row.is_pivot {
        true => "pivot",
        false => "source",
    }
}

/// Reads the artifact.
///
/// # Errors
/// Damaged files, roles that are not known.
pub fn read(dir: &Path) -> Result<Vec<ModelRow>> {
    let mut rows = Vec::new();
    for part in Artifact::open(dir, Kind::Models)?.parts() {
        for batch in part.batches()? {
            let batch = batch?;
            let text = |column: usize, at: usize| -> String {
                batch.column(column).as_string::<i32>().value(at).to_owned()
            };
            let parameters = numbers::<UInt64Type>(&batch, "parameters")?;
            for at in 0..batch.num_rows() {
                let is_pivot = match text(1, at).as_str() {
                    "pivot" => true,
                    "source" => false,
                    other => {
                        let problem = format!("`role` is `{other}`, expected `pivot` or `source`");
                        return Err(Error::file(part.path(), problem));
                    }
                };
                rows.push(ModelRow {
                    name: text(0, at),
                    is_pivot,
                    vocabulary: text(2, at),
                    location: text(3, at),
                    digest: text(4, at),
                    architecture: text(5, at),
                    parameters: parameters.value(at),
                });
            }
        }
    }
    Ok(rows)
}

/// Adds models to the artifact, or replaces those of the same name: what single commands do, which
/// see one model after the other. Where they know which one is the `pivot`, no other is; else a
/// name keeps its role.
///
/// # Errors
/// An artifact that cannot be read or written.
pub fn register(dir: &Path, new: Vec<ModelRow>, pivot: Option<&str>) -> Result<()> {
    fs::create_dir_all(dir).at(dir)?;
    // Commands that run side by side add their models one after the other.
    let path = dir.join(".lock");
    let lock = File::create(&path).at(&path)?;
    // File systems without locks: go on without.
    let _ = lock.lock();
    let mut rows = match fs::exists(dir.join("part-00000.parquet")).at(dir)? {
        true => read(dir)?,
        false => Vec::new(),
    };
    let before = rows.clone();
    for mut model in new {
        match rows.iter_mut().find(|row| row.name == model.name) {
            Some(row) => {
                model.is_pivot = row.is_pivot;
                *row = model;
            }
            None => rows.push(model),
        }
    }
    if let Some(pivot) = pivot {
        rows.iter_mut()
            .for_each(|row| row.is_pivot = row.name == pivot);
    }
    if rows == before {
        return Ok(());
    }
    write(dir, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, is_pivot: bool, digest: &str) -> ModelRow {
        ModelRow {
            name: name.to_owned(),
            is_pivot,
            vocabulary: "pivot".to_owned(),
            location: format!("models/{name}"),
            digest: digest.to_owned(),
            architecture: "llama".to_owned(),
            parameters: 7,
        }
    }

    #[test]
    fn models_are_added_and_keep_their_roles() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("models");
        let both = vec![model("pivot", true, ""), model("math", false, "")];
        register(&dir, both.clone(), Some("pivot")).unwrap();
        assert_eq!(
            read(&dir).unwrap(),
            [model("math", false, ""), model("pivot", true, "")]
        );
        // Scored later, when the weights are known.
        register(&dir, vec![model("pivot", false, "abc")], None).unwrap();
        register(&dir, vec![model("code", false, "def")], None).unwrap();
        assert_eq!(
            read(&dir).unwrap(),
            [
                model("code", false, "def"),
                model("math", false, ""),
                model("pivot", true, "abc")
            ]
        );
        // A corpus for another pivot.
        register(&dir, both, Some("math")).unwrap();
        let pivots = read(&dir).unwrap().into_iter().filter(|row| row.is_pivot);
        assert_eq!(pivots.map(|row| row.name).collect::<Vec<_>>(), ["math"]);
    }

    #[test]
    fn models_are_added_from_several_sides_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c", "d", "e", "f"];
        std::thread::scope(|scope| {
            for name in names {
                scope.spawn(|| register(dir.path(), vec![model(name, false, "")], None).unwrap());
            }
        });
        let found = read(dir.path()).unwrap();
        let found: Vec<&str> = found.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(found, names);
    }
}
