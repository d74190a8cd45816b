//! The end of a run: who is how good, and what to be warned about.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::artifact::RunDir;
use crate::artifact::rows::numbers;
use crate::error::{Context, Error, Result};
use crate::query::{Format, Params, Session, SessionOptions, print};

/// Bits per byte of every evaluated model, the best first: one line a model, one column a task.
/// Empty where nothing was evaluated.
///
/// # Errors
/// Damaged `eval_items`.
pub fn scoreboard(run: &RunDir) -> Result<String> {
    let session = Session::open(run, &SessionOptions::default())?;
    let mut order: Vec<String> = Vec::new();
    let mut tasks: Vec<String> = Vec::new();
    let mut values: BTreeMap<(String, String), f64> = BTreeMap::new();
    for batch in session.named("eval_scoreboard", &Params::new())? {
        let (model, task) = (texts(&batch, "model")?, texts(&batch, "task")?);
        let (metric, value) = (
            texts(&batch, "metric")?,
            numbers::<Float64Type>(&batch, "value")?,
        );
        for row in (0..batch.num_rows()).filter(|&row| metric.value(row) == "bpb") {
            let (model, task) = (model.value(row).to_owned(), task.value(row).to_owned());
            // The rows of the average come first, the best model first.
            if !order.contains(&model) {
                order.push(model.clone());
            }
            if !tasks.contains(&task) {
                tasks.push(task.clone());
            }
            values.insert((model, task), value.value(row));
        }
    }
    if order.is_empty() {
        return Ok(String::new());
    }
    let width = order
        .iter()
        .map(String::len)
        .max()
        .unwrap_or(0)
        .max("bits per byte".len());
    let columns: Vec<usize> = tasks.iter().map(|task| task.len().max(7)).collect();
    let mut text = format!("{:width$}", "bits per byte");
    for (task, column) in tasks.iter().zip(&columns) {
        let _ = write!(text, "  {task:>column$}");
    }
    text.push('\n');
    for model in &order {
        let _ = write!(text, "{model:width$}");
        for (task, column) in tasks.iter().zip(&columns) {
            match values.get(&(model.clone(), task.clone())) {
                Some(value) => {
                    let _ = write!(text, "  {value:>column$.4}");
                }
                None => {
                    let _ = write!(text, "  {:>column$}", "-");
                }
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// What the query `compare_runs` says: the recipe and its variants side by side.
///
/// # Errors
/// Damaged `eval_items`.
pub fn comparison(run: &RunDir) -> Result<String> {
    let session = Session::open(run, &SessionOptions::default())?;
    let batches = session.stream_named("compare_runs", &Params::new())?;
    let mut text = Vec::new();
    print(&batches.schema(), batches, Format::Table, 0, &mut text)?;
    Ok(format!("\n{}", String::from_utf8_lossy(&text)))
}

/// A column of a query's result as strings, however the engine holds them.
fn texts(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| Error::input(format!("column `{name}`"), "is missing"))?;
    let text = cast(column, &DataType::Utf8).during(|| format!("reading column `{name}`"))?;
    Ok(text.as_string::<i32>().clone())
}

/// What the checks of projections warn of: sources whose distributions teach the pivot nothing, or
/// whose tokens end up elsewhere.
pub fn projection_warnings(run: &RunDir) -> Result<Vec<String>> {
    let session = Session::open(run, &SessionOptions::default())?;
    let mut warnings = Vec::new();
    for check in ["projection_helps", "projection_names"] {
        for batch in session.named(check, &Params::new())? {
            let (artifact, detail) = (texts(&batch, "artifact")?, texts(&batch, "detail")?);
            let line = |row| format!("{}: {}", artifact.value(row), detail.value(row));
            warnings.extend((0..batch.num_rows()).map(line));
        }
    }
    Ok(warnings)
}
