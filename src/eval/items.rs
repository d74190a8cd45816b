//! Rows of `eval_items`, and the parts that they come in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Float64Type};

use super::{Scored, TaskResult};
use crate::artifact::rows::{numbers, strings};
use crate::artifact::{Kind, Part, PartInfo};
use crate::error::{Context, Error, Result};

/// Tokens of a part, about: what an interruption loses at most, and what a process takes at a time.
const PART_TOKENS: usize = 128 * 1024;

/// Items of one task that are measured together, and written as one part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Portion {
    pub task: usize,
    pub items: Range<usize>,
    /// Its `samples` are items, counted through all tasks.
    pub info: PartInfo,
}

/// Divides the items of tasks, of which `tokens` has the lengths, into parts.
pub(super) fn portions(tokens: &[Vec<usize>]) -> Vec<Portion> {
    let mut portions = Vec::new();
    let mut first_sample = 0;
    for (task, lengths) in tokens.iter().enumerate() {
        let mut begin = 0;
        while begin < lengths.len() {
            let mut sum = 0;
            let more = lengths[begin..].iter().take_while(|length| {
                let fits = sum < PART_TOKENS;
                sum += **length;
                fits
            });
            let items = begin..begin + more.count();
            begin = items.end;
            let info = PartInfo {
                index: portions.len() as u32,
                first_sample,
                samples: items.len() as u64,
                last: false,
            };
            first_sample += info.samples;
            portions.push(Portion { task, items, info });
        }
    }
    if let Some(last) = portions.last_mut() {
        last.info.last = true;
    }
    portions
}

/// The rows of items of one task.
pub(super) fn to_batch(task: &str, items: &[Scored]) -> Result<RecordBatch> {
    let metrics = |item: &Scored| {
        [
            ("nll", item.nll),
            ("tokens", item.content_tokens as f64),
            ("bytes", item.bytes as f64),
        ]
    };
    let rows = items.iter().flat_map(metrics);
    let (metric, value): (Vec<&str>, Vec<f64>) = rows.unzip();
    let len = value.len();
    let ids = items.iter().flat_map(|item| [item.id; 3]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![task; len])),
        Arc::new(UInt64Array::from_iter_values(ids)),
        Arc::new(StringArray::from(metric)),
        Arc::new(Float64Array::from(value)),
        new_null_array(&DataType::Float64, len),
        new_null_array(&DataType::Utf8, len),
    ];
    RecordBatch::try_new(Kind::EvalItems.schema(), columns)
        .during(|| "building `eval_items` rows".into())
}

/// The sums of each task over the parts in `dir` of the result `identity`, whether or not they are
/// all, by name.
///
/// # Errors
/// A damaged part.
pub(super) fn results(dir: &Path, identity: &str) -> Result<Vec<TaskResult>> {
    let mut results: BTreeMap<String, TaskResult> = BTreeMap::new();
    let parts = Part::readable(dir, Kind::EvalItems)?;
    for part in parts.iter().filter(|part| part.identity() == identity) {
        for batch in part.batches()? {
            let batch = batch?;
            let (task, metric) = (strings(&batch, "task")?, strings(&batch, "metric")?);
            let value = numbers::<Float64Type>(&batch, "value")?;
            for row in 0..batch.num_rows() {
                let (name, value) = (task.value(row), value.value(row));
                let result = match results.get_mut(name) {
                    Some(result) => result,
                    None => results
                        .entry(name.to_owned())
                        .or_insert(TaskResult::none(name)),
                };
                match metric.value(row) {
                    "nll" => {
                        result.items += 1;
                        result.nll += value;
                    }
                    "tokens" => result.tokens += value as u64,
                    "bytes" => result.bytes += value as u64,
                    other => {
                        let problem = format!("has the unknown metric `{other}`");
                        return Err(Error::file(part.path(), problem));
                    }
                }
            }
        }
    }
    Ok(results.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_items_of_one_task_and_not_many_more_tokens_than_it_should() {
        let half = PART_TOKENS / 2;
        let lengths = [vec![half, half, half, 3 * PART_TOKENS, 1], vec![], vec![7]];
        let portions = portions(&lengths);
        let found: Vec<_> = portions
            .iter()
            .map(|p| (p.task, p.items.clone(), p.info.first_sample, p.info.last))
            .collect();
        let expected = [
            (0, 0..2, 0, false),
            (0, 2..4, 2, false),
            (0, 4..5, 4, false),
            (2, 0..1, 5, true),
        ];
        assert_eq!(found, expected);
        assert!(
            portions
                .iter()
                .enumerate()
                .all(|(at, p)| p.info.index as usize == at)
        );
    }
}
