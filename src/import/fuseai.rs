//! Data sets that FuseLLM and FuseChat saved with `datasets`: a folder with `state.json`, which
//! names its Arrow files (streams), or a folder of such folders, one a split, of which exactly
//! one is read.
//!
//! A row is a sample: `input_ids`; for each token the k largest logits of what follows
//! (`per_step_logits`, `per_step_indices`; the last, and any beyond the text, are not used);
//! `metric_ce`, or `per_step_metric_ce` for each token but the first. Logits lack their normaliser:
//!
//! * with `per_step_metric_ce` it is known where the true token is listed; else the list gets all
//!   probability but the true token's;
//! * without, the list is taken for everything, as those programs do.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, UInt32Type};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;

use super::{Found, FoundRow, Samples, columns};
use crate::error::{Context, Error, Result};
use crate::text::read_json;

/// The files read, and their samples.
pub(super) fn open(from: &Path) -> Result<(Vec<PathBuf>, Samples)> {
    let dir = split(from)?;
    let path = dir.join("state.json");
    let state = read_json(&path)?.unwrap_or_default();
    let names = state["_data_files"].as_array().map(|files| {
        let names = files.iter().map(|file| file["filename"].as_str());
        names.collect::<Option<Vec<&str>>>()
    });
    let Some(Some(names)) = names else {
        return Err(Error::file(&path, "names no files in `_data_files`"));
    };
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(Error::file(&path, format!("`{name}` is no file name")));
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let inputs = paths.clone();
    let samples = paths
        .into_iter()
        .flat_map(|path| read(path).unwrap_or_else(|error| Box::new(std::iter::once(Err(error)))));
    Ok((inputs, Box::new(samples)))
}

/// The folder of the data set, or of its only split.
fn split(from: &Path) -> Result<PathBuf> {
    if from.join("state.json").is_file() {
        return Ok(from.to_path_buf());
    }
    let mut splits = Vec::new();
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        if path.join("state.json").is_file() {
            splits.push(path);
        }
    }
    match splits.len() {
        1 => Ok(splits.swap_remove(0)),
        0 => Err(Error::file(
            from,
            "is no data set saved by `datasets`: it has no `state.json`",
        )),
        many => {
            Err(Error::file(from, format!("has {many} splits")).remedy("name the folder of one"))
        }
    }
}

fn read(path: PathBuf) -> Result<Samples> {
    let file = BufReader::new(File::open(&path).at(&path)?);
    let batches = StreamReader::try_new(file, None)
        .map_err(|error| Error::file(&path, format!("no readable Arrow stream: {error}")))?;
    let mut first = 0;
    let samples = batches.flat_map(move |batch| {
        let found = batch
            .map_err(|error| Error::file(&path, format!("damaged: {error}")))
            .and_then(|batch| {
                let found = samples(&batch, &path, first);
                first += batch.num_rows();
                found
            });
        match found {
            Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }
    });
    Ok(Box::new(samples))
}

fn samples(batch: &RecordBatch, path: &Path, first: usize) -> Result<Vec<Found>> {
    let place = path.display().to_string();
    let nested = |element| columns::list_of(columns::list_of(element));
    let ids = columns::list_of(DataType::UInt32);
    let ids = columns::required(batch, &place, "input_ids", &ids)?;
    let logits = nested(DataType::Float32);
    let logits = columns::required(batch, &place, "per_step_logits", &logits)?;
    let listed = nested(DataType::UInt32);
    let listed = columns::required(batch, &place, "per_step_indices", &listed)?;
    let ce = columns::optional(batch, &place, "metric_ce", &DataType::Float64)?;
    let steps = columns::list_of(DataType::Float32);
    let steps = columns::optional(batch, &place, "per_step_metric_ce", &steps)?;
    if ce.is_none() && steps.is_none() {
        return Err(Error::file(
            path,
            "has neither `metric_ce` nor `per_step_metric_ce`",
        ));
    }
    let rows = (0..batch.num_rows()).map(|row| {
        let place = format!("{place} row {}", first + row);
        let ids = columns::values::<UInt32Type>(&ids, row);
        let logits = columns::inner::<Float32Type>(&logits, row);
        let listed = columns::inner::<UInt32Type>(&listed, row);
        let steps = steps
            .as_ref()
            .map(|c| columns::values::<Float32Type>(c, row));
        let wanted = ids.len().saturating_sub(1);
        let enough = logits.len() >= wanted && listed.len() >= wanted;
        if !enough || steps.as_ref().is_some_and(|steps| steps.len() < wanted) {
            let problem = format!("{} tokens with {} lists", ids.len(), logits.len());
            return Err(Error::input(place, problem));
        }
        let rows = (0..wanted).map(|at| {
            let own = steps.as_ref().map(|steps| steps[at]);
            distribution(at + 1, ids[at + 1], &logits[at], &listed[at], own)
        });
        let ce = ce.as_ref().filter(|c| steps.is_none() && c.is_valid(row));
        Ok(Found {
            rows: rows.collect(),
            place,
            ids,
            ce: ce.map(|c| c.as_primitive::<Float64Type>().value(row)),
        })
    });
    rows.collect()
}

/// Log-probabilities of logits; `nll` is that of the token that follows.
fn distribution(
    next: usize,
    target: u32,
    logits: &[f32],
    ids: &[u32],
    nll: Option<f32>,
) -> FoundRow {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let all = largest + sum.ln() as f32;
    let place = ids.iter().position(|id| *id == target);
    let own = place.and_then(|at| logits.get(at));
    let (normaliser, tail) = match (nll, own) {
        // A normaliser below the list's own sum would be due to rounding.
        (Some(nll), Some(own)) => ((own + nll).max(all), None),
        (Some(nll), None) => (all - (-(-nll).exp()).ln_1p(), Some(-nll)),
        (None, _) => (all, Some(f32::NEG_INFINITY)),
    };
    FoundRow {
        next,
        ids: ids.to_vec(),
        logprobs: logits.iter().map(|x| x - normaliser).collect(),
        tail_logprob: tail,
        target_logprob: nll.map(|nll| -nll),
        approximate: false,
    }
}
