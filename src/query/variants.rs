//! The results of a run's variants beside its own.

use std::fs;
use std::path::Path;

use super::session::{Params, Session};
use crate::artifact::{Kind, RunDir};
use crate::error::{Context, Error, Result};

/// The schema that holds one table for each variant.
const SCHEMA: &str = "variants";

/// The variants of a run that have results, sorted.
pub(super) fn names(run: &RunDir) -> Result<Vec<String>> {
    let dir = run.root().join("variants");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&dir, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.at(&dir)?;
        if entry.path().join(Kind::EvalItems.name()).is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

impl Session {
    /// Creates the view `run_eval_items`: `eval_items` of the run (`run` is empty) and of its
    /// variants.
    pub(super) fn create_variant_view(&self, run: &Path) -> Result<()> {
        let run = RunDir::new(run);
        let names = names(&run)?;
        let mut union = "SELECT '' AS run, * FROM eval_items".to_owned();
        if !names.is_empty() {
            self.create_schema(SCHEMA)?;
        }
        for name in names {
            let table = format!("{SCHEMA}.\"{}\"", name.replace('"', "\"\""));
            let root = run.root().join("variants").join(&name);
            self.create_kind_table(Kind::EvalItems.name(), &table, &root)?;
            let text = name.replace('\'', "''");
            union += &format!(" UNION ALL SELECT '{text}' AS run, * FROM {table}");
        }
        self.query(
            &format!("CREATE OR REPLACE VIEW run_eval_items AS {union}"),
            &Params::new(),
        )?;
        Ok(())
    }
}
