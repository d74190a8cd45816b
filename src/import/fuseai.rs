//! Data sets that FuseLLM and FuseChat saved with `datasets`: a folder with `state.json`, which
//! names its Arrow files (streams), or a folder of such folders, one a split, of which exactly
//! one is read.
//!
//! A row is a sample: `input_ids`, padded where `attention_mask` ends with zeros (FuseChat); for
//! each token the k largest logits of what follows (`per_step_logits`, `per_step_indices`; the
//! last, and any beyond the text, are not used); `metric_ce`, or `per_step_metric_ce` for each
//! token but the first. Logits lack their normaliser:
//!
//! * with `per_step_metric_ce` it is known where the true token is listed; else the list gets all
//!   probability but the true token's;
//! * without, and at tokens whose `labels` are ignored, the list is taken for everything, as those programs do.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt32Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::root_as_message;
use arrow::record_batch::RecordBatch;

use super::columns::{Column, list_of};
use super::found::{Found, FoundRow, Opened, Samples, Values};
use crate::contain::contained;
use crate::error::{Context, Error, Result};
use crate::files::read_json;

/// The label of a token that is none, in PyTorch.
const IGNORED: i64 = -100;
/// How far below 0 a rounded mean of cross-entropies may be.
const ROUNDED_ZERO: f64 = 0.01;

/// The files read, and their samples.
pub(super) fn open(from: &Path) -> Result<Opened> {
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
    // Before it was written out, `datasets` keeps a selection or another order beside the rows.
    let fields = state.as_object().into_iter().flatten();
    let mut selections = fields.filter(|(key, value)| {
        let nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        key.starts_with("_indices") && !nothing
    });
    if let Some((key, _)) = selections.next() {
        return Err(
            Error::file(&path, format!("`{key}` selects rows, which is not read"))
                .remedy("save the data set again after `flatten_indices()`"),
        );
    }
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(Error::file(&path, format!("`{name}` is no file name")));
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let inputs = paths.clone();
    let samples = paths
        .into_iter()
        .flat_map(|path| read(path).unwrap_or_else(|error| Box::new(std::iter::once(Err(error)))));
    Ok(Opened {
        files: inputs,
        samples: Box::new(samples),
        head: None,
    })
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

/// Reads a file of a data set. Arrow's reader believes lengths and offsets: the lengths are checked
/// before, and where an offset makes it panic, that is an error.
fn read(path: PathBuf) -> Result<Samples> {
    let mut file = BufReader::new(File::open(&path).at(&path)?);
    check_lengths(&path, &mut file)?;
    file.rewind().at(&path)?;
    let opened = contained(|| StreamReader::try_new(file, None));
    let mut batches = opened
        .map_err(|said| Error::file(&path, format!("no readable Arrow stream: {said}")))?
        .map_err(|error| Error::file(&path, format!("no readable Arrow stream: {error}")))?;
    let (mut first, mut failed) = (0, false);
    let place = path.clone();
    let mut next = move || -> Option<Result<Vec<Found>>> {
        let batch = match batches.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(Error::file(&path, format!("damaged: {error}")))),
        };
        let found = samples(&batch, &path, first);
        first += batch.num_rows();
        Some(found)
    };
    let found = std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let found = contained(&mut next)
            .unwrap_or_else(|said| Some(Err(Error::file(&place, format!("damaged: {said}")))));
        failed = matches!(found, Some(Err(_)));
        found
    });
    let samples = found.flat_map(|found| match found {
        Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    });
    Ok(Box::new(samples))
}

/// Checks that no message of an Arrow stream claims to be longer than the file: memory is set aside for
/// what it claims.
///
/// Format: <https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>.
fn check_lengths(path: &Path, file: &mut BufReader<File>) -> Result<()> {
    let length = file.get_ref().metadata().at(path)?.len();
    let damaged = |at: u64, problem: &str| {
        Error::file(
            path,
            format!("no readable Arrow stream: {problem}, at byte {at} of {length}"),
        )
    };
    let mut at = 0;
    while at < length {
        let begin = at;
        let mut size = number(path, file, &mut at)?;
        // What follows a mark of four bytes, which older files lack.
        if size == -1 {
            size = number(path, file, &mut at)?;
        }
        if size == 0 {
            break;
        }
        let left = length.saturating_sub(at);
        let size = u64::try_from(size).ok().filter(|size| *size <= left);
        let size = size.ok_or_else(|| damaged(begin, "a message is longer than the file"))?;
        let mut message = vec![0; size as usize];
        file.read_exact(&mut message).at(path)?;
        at += size;
        let message = root_as_message(&message);
        let message = message.map_err(|error| damaged(begin, &error.to_string()))?;
        let left = length.saturating_sub(at);
        let body = u64::try_from(message.bodyLength()).ok();
        let body = body.filter(|body| *body <= left);
        let body = body.ok_or_else(|| damaged(begin, "a batch is longer than the file"))?;
        at += body;
        file.seek(SeekFrom::Start(at)).at(path)?;
    }
    Ok(())
}

/// The next four bytes, as a number.
fn number(path: &Path, file: &mut BufReader<File>, at: &mut u64) -> Result<i32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).at(path)?;
    *at += 4;
    Ok(i32::from_le_bytes(bytes))
}

/// The columns of a batch.
struct Columns<'a> {
    ids: Column<'a>,
    mask: Option<Column<'a>>,
    logits: Column<'a>,
    listed: Column<'a>,
    ce: Option<Column<'a>>,
    steps: Option<Column<'a>>,
    labels: Option<Column<'a>>,
}

fn samples(batch: &RecordBatch, path: &Path, first: usize) -> Result<Vec<Found>> {
    let place = path.display().to_string();
    let required = |name, data_type| Column::required(batch, &place, name, &data_type);
    let optional = |name, data_type| Column::optional(batch, &place, name, &data_type);
    let columns = Columns {
        ids: required("input_ids", list_of(DataType::UInt32))?,
        mask: optional("attention_mask", list_of(DataType::Int64))?,
        logits: required("per_step_logits", list_of(list_of(DataType::Float32)))?,
        listed: required("per_step_indices", list_of(list_of(DataType::UInt32)))?,
        ce: optional("metric_ce", DataType::Float64)?,
        steps: optional("per_step_metric_ce", list_of(DataType::Float32))?,
        labels: optional("labels", list_of(DataType::Int64))?,
    };
    if columns.ce.is_none() && columns.steps.is_none() {
        return Err(Error::file(
            path,
            "has neither `metric_ce` nor `per_step_metric_ce`",
        ));
    }
    let rows = (0..batch.num_rows()).map(|row| {
        let place = format!("{place} row {}", first + row);
        columns
            .sample(row, &place)
            .map_err(|problem| Error::input(&place, problem))
    });
    rows.collect()
}

impl Columns<'_> {
    fn sample(&self, row: usize, place: &str) -> std::result::Result<Found, String> {
        let ids = self.text(row)?;
        let logits = self.logits.inner::<Float32Type>(row)?;
        let listed = self.listed.inner::<UInt32Type>(row)?;
        let steps = self.steps.as_ref().map(|c| c.values::<Float32Type>(row));
        let steps = steps.transpose()?;
        let labels = self.labels.as_ref().map(|c| c.values::<Int64Type>(row));
        let labels = labels.transpose()?;
        // A cross-entropy of 0 stands for none at tokens that are no labels.
        let is_label = |at: usize| { labels.as_ref() }.is_none_or(|l| l.get(at) != Some(&IGNORED));
        let wanted = ids.len().saturating_sub(1);
        let lists = [logits.len(), listed.len()].into_iter();
        if let Some(few) = { lists }.chain(steps.as_ref().map(Vec::len)).min()
            && few < wanted
        {
            return Err(format!("{} tokens with {few} lists", ids.len()));
        }
        let ce = match (&steps, &self.ce) {
            (None, Some(ce)) => Some(ce.value::<Float64Type>(row)?),
            _ => None,
        };
        if let Some(ce) = ce.filter(|ce| !ce.is_finite() || *ce < -ROUNDED_ZERO) {
            return Err(format!("`metric_ce` is {ce}, which is no cross-entropy"));
        }
        let lists = logits.into_iter().zip(listed).take(wanted).enumerate();
        let rows = lists.map(|(at, (values, ids))| FoundRow {
            next: at + 1,
            ids,
            values,
            are: Values::Logits(
                { steps.as_ref() }
                    .filter(|_| is_label(at + 1))
                    .map(|steps| steps[at]),
            ),
        });
        Ok(Found {
            rows: rows.collect(),
            place: place.to_owned(),
            ids,
            ce: ce.map(|ce| ce.max(0.0)),
            repeated: false,
        })
    }

    /// The tokens, without the padding that FuseChat's program stores with them.
    fn text(&self, row: usize) -> std::result::Result<Vec<u32>, String> {
        let mut ids = self.ids.values::<UInt32Type>(row)?;
        let Some(mask) = &self.mask else {
            return Ok(ids);
        };
        let mask = mask.values::<Int64Type>(row)?;
        if mask.len() != ids.len() {
            return Err(format!(
                "{} tokens with an `attention_mask` of {}",
                ids.len(),
                mask.len()
            ));
        }
        let padding = mask.iter().rev().take_while(|seen| **seen == 0).count();
        ids.truncate(ids.len() - padding);
        Ok(ids)
    }
}
