//! The end of a run: who is how good, and what to be warned about.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::datatypes::Float64Type;

use crate::artifact::RunDir;
use crate::artifact::rows::{numbers, strings};
use crate::error::Result;
use crate::query::{Params, Session, SessionOptions};

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
        let (model, task) = (strings(&batch, "model")?, strings(&batch, "task")?);
        let (metric, value) = (
            strings(&batch, "metric")?,
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

/// What the check `projection_helps` says: sources whose projected distributions teach the pivot
/// nothing.
pub fn projection_warnings(run: &RunDir) -> Result<Vec<String>> {
    let session = Session::open(run, &SessionOptions::default())?;
    let mut warnings = Vec::new();
    for batch in session.named("projection_helps", &Params::new())? {
        let (artifact, detail) = (strings(&batch, "artifact")?, strings(&batch, "detail")?);
        warnings.extend(
            (0..batch.num_rows())
                .map(|row| format!("{}: {}", artifact.value(row), detail.value(row))),
        );
    }
    Ok(warnings)
}
