//! `merge_stats`: who contributed what, as an artifact.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::record_batch::RecordBatch;

use super::plan::Plan;
use super::run::MergeStat;
use crate::artifact::{Existing, Kind, Provenance, Writer};
use crate::checkpoint::{ADAPTER_WEIGHTS, TOKENIZER, model_digest};
use crate::error::{Context, Result};
use crate::files::digest;

impl Plan {
    /// What determines the rows of `merge_stats`: the configuration (without paths of models)
    /// and the digests of the models. Reads all weights once, unless their digests are cached.
    ///
    /// # Errors
    ///
    /// Files that cannot be read.
    pub fn provenance(&self) -> Result<Provenance> {
        let mut provenance = Provenance::new(Kind::MergeStats).options(self.config.source.clone());
        for model in &self.models {
            provenance = provenance.input(&model.name, model_digest(&model.dir)?);
            if self.tokenizer.is_some() {
                let tokens = digest::file(&model.dir.join(TOKENIZER))?;
                provenance = provenance.input(format!("{} (tokenizer)", model.name), tokens);
            }
            if let Some(adapter) = &model.adapter {
                let weights = digest::file(&adapter.dir.join(ADAPTER_WEIGHTS))?;
                provenance = provenance.input(format!("{} (adapter)", model.name), weights);
            }
        }
        Ok(provenance)
    }
}

/// Writes the rows of a merge, sorted by tensor and model, into the artifact folder `dir`.
///
/// # Errors
///
/// Another result in `dir` with [`Existing::Refuse`], failed writes.
pub fn write_stats(
    stats: &[MergeStat],
    dir: &Path,
    provenance: Provenance,
    existing: Existing,
) -> Result<()> {
    let mut rows: Vec<&MergeStat> = stats.iter().collect();
    rows.sort_by(|a, b| (&a.tensor, &a.model).cmp(&(&b.tensor, &b.model)));
    let text = |of: fn(&MergeStat) -> &String| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(of(row)))
                .collect::<StringArray>(),
        )
    };
    let number = |of: fn(&MergeStat) -> f64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| of(row)).collect::<Float64Array>())
    };
    let columns = vec![
        text(|row| &row.tensor),
        text(|row| &row.model),
        number(|row| row.coefficient),
        number(|row| row.selected_fraction),
        number(|row| row.kept_fraction),
        number(|row| row.delta_norm),
    ];
    let batch = RecordBatch::try_new(Kind::MergeStats.schema(), columns)
        .during(|| "gathering the rows of merge_stats".into())?;
    let writer = Writer::create(dir, provenance, existing)?;
    if writer.is_complete() {
        return Ok(());
    }
    writer.write_only(&batch)
}
