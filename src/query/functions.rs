//! What views call to decode lists: the functions of `sql/functions`, fast.
//!
//! Each of those files says in SQL what its function is, which other programs are given and tests
//! compare with. Here a list takes time and memory linear in its length, whereas a lambda gets a copy
//! of what it reads for each element.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, PrimitiveArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float32Type, Int32Type, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use crate::artifact::encoding::{LEVELS, LOGPROBS, PROBS};

use super::catalogue::Script;

/// A function on whole columns.
type Columns = fn(&[ArrayRef]) -> Result<ArrayRef>;

/// The functions, in the order of their files.
pub(super) fn all() -> Vec<ScalarUDF> {
    let (int, bigint) = (DataType::Int32, DataType::Int64);
    let ints = || list_of(DataType::Int32);
    let gaps = || list_of(DataType::Int64);
    let logprobs = list_of(DataType::Float32);
    let levels = || vec![ints(), DataType::Int32, DataType::Int32];
    vec![
        function(
            "id_at",
            vec![gaps(), int.clone(), bigint.clone()],
            bigint.clone(),
            id_at,
        ),
        function("ids_of_gaps", vec![gaps()], gaps(), ids_of_gaps),
        function(
            "logprobs_of_levels",
            levels(),
            logprobs.clone(),
            logprobs_of_levels,
        ),
        function("probs_of_levels", levels(), logprobs, probs_of_levels),
        function("rank_at", vec![ints(), int], bigint, rank_at),
    ]
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

fn function(name: &str, reads: Vec<DataType>, returns: DataType, columns: Columns) -> ScalarUDF {
    let call = move |args: &[ColumnarValue]| {
        let constant = args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let result = columns(&ColumnarValue::values_to_arrays(args)?)?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    };
    create_udf(name, reads, returns, Volatility::Immutable, Arc::new(call))
}

/// A column of lists of numbers.
struct Lists<'a, T: ArrowPrimitiveType> {
    lists: &'a ListArray,
    values: &'a [T::Native],
}

impl<'a, T: ArrowPrimitiveType> Lists<'a, T> {
    fn of(column: &'a ArrayRef) -> Result<Self> {
        let lists = column.as_list::<i32>();
        let values: &PrimitiveArray<T> = lists.values().as_primitive();
        if values.null_count() > 0 {
            return exec_err!("a list holds NULL, expected numbers");
        }
        let values = values.values();
        Ok(Self { lists, values })
    }

    /// The list of a row, unless it is null.
    fn row(&self, row: usize) -> Option<&'a [T::Native]> {
        let offsets = self.lists.value_offsets();
        let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        self.lists.is_valid(row).then(|| &self.values[start..end])
    }

    /// Lists of as many values, which `write` appends row by row; null where it says so.
    fn map<U: ArrowPrimitiveType>(
        &self,
        mut write: impl FnMut(usize, &[T::Native], &mut Vec<U::Native>) -> bool,
    ) -> Result<ArrayRef> {
        let rows = self.lists.len();
        let mut values = Vec::with_capacity(self.values.len());
        let mut ends = Vec::with_capacity(rows + 1);
        let mut valid = Vec::with_capacity(rows);
        ends.push(0);
        for row in 0..rows {
            valid.push(
                self.row(row)
                    .is_some_and(|list| write(row, list, &mut values)),
            );
            let end = i32::try_from(values.len());
            ends.push(end.map_err(|_| {
                DataFusionError::Execution("lists of a batch hold more than 2^31 numbers".into())
            })?);
        }
        let DataType::List(item) = list_of(U::DATA_TYPE) else {
            return exec_err!("no list");
        };
        Ok(Arc::new(ListArray::try_new(
            item,
            OffsetBuffer::new(ends.into()),
            Arc::new(PrimitiveArray::<U>::new(ScalarBuffer::from(values), None)),
            Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0),
        )?))
    }
}

/// The value of a row, unless it is null.
fn at<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>, row: usize) -> Option<T::Native> {
    column.is_valid(row).then(|| column.value(row))
}

fn ids_of_gaps(args: &[ArrayRef]) -> Result<ArrayRef> {
    Lists::<Int64Type>::of(&args[0])?.map::<Int64Type>(|_, gaps, ids| {
        let mut id = 0i64;
        ids.extend(gaps.iter().map(|gap| {
            id = id.wrapping_add(*gap);
            id
        }));
        true
    })
}

fn id_at(args: &[ArrayRef]) -> Result<ArrayRef> {
    let gaps = Lists::<Int64Type>::of(&args[0])?;
    let place = args[1].as_primitive::<Int32Type>();
    let other = args[2].as_primitive::<Int64Type>();
    let id = |row| match at(place, row).and_then(|place| usize::try_from(place).ok()) {
        None | Some(0) => at(other, row),
        Some(place) => {
            let gaps = gaps.row(row).filter(|gaps| !gaps.is_empty())?;
            let upto = &gaps[..place.min(gaps.len())];
            Some(upto.iter().fold(0i64, |sum, gap| sum.wrapping_add(*gap)))
        }
    };
    Ok(Arc::new((0..place.len()).map(id).collect::<Int64Array>()))
}

fn rank_at(args: &[ArrayRef]) -> Result<ArrayRef> {
    let levels = Lists::<Int32Type>::of(&args[0])?;
    let place = args[1].as_primitive::<Int32Type>();
    let rank = |row| {
        let at = usize::try_from(at(place, row)?).ok()?.checked_sub(1)?;
        let levels = levels.row(row)?;
        let own = levels.get(at)?;
        Some(1 + levels.iter().filter(|level| *level > own).count() as i64)
    };
    Ok(Arc::new((0..place.len()).map(rank).collect::<Int64Array>()))
}

fn logprobs_of_levels(args: &[ArrayRef]) -> Result<ArrayRef> {
    of_levels(args, &LOGPROBS, |share| 4.0 * share.ln(), f64::ln)
}

fn probs_of_levels(args: &[ArrayRef]) -> Result<ArrayRef> {
    of_levels(args, &PROBS, |share| share.powi(4), |share| share)
}

/// Values of levels: `stored` has those of 0 to [`LEVELS`], which `level` computes from
/// level / [`LEVELS`]; `drawn` computes them from the share of the draws.
fn of_levels(
    args: &[ArrayRef],
    stored: &[f32],
    level: fn(f64) -> f64,
    drawn: fn(f64) -> f64,
) -> Result<ArrayRef> {
    let lists = Lists::<Int32Type>::of(&args[0])?;
    let base = args[1].as_primitive::<Int32Type>();
    let draws = args[2].as_primitive::<Int32Type>();
    lists.map::<Float32Type>(|row, list, values| {
        let Some(base) = at(base, row) else {
            return false;
        };
        let shifted = list.iter().map(|x| i64::from(*x) + i64::from(base));
        match at(draws, row).filter(|draws| *draws > 0) {
            Some(draws) => {
                values.extend(shifted.map(|x| drawn(x as f64 / f64::from(draws)) as f32));
            }
            None => values.extend(shifted.map(|x| {
                let known = usize::try_from(x).ok().and_then(|x| stored.get(x));
                let computed = || level(x as f64 / f64::from(LEVELS)) as f32;
                known.copied().unwrap_or_else(computed)
            })),
        }
        true
    })
}

/// A statement with its calls of `functions` written out, for programs that do not have them.
pub(super) fn written_out<'a>(sql: &str, functions: impl Iterator<Item = &'a Script>) -> String {
    let mut text = sql.to_owned();
    for function in functions {
        let call = format!("{}(", function.name);
        while let Some(start) = text.find(&call) {
            let inside = start + call.len();
            let Some(length) = text[inside..].find(')') else {
                break;
            };
            let end = inside + length;
            let given: Vec<&str> = text[inside..end].split(", ").collect();
            let body = with_arguments(function, &given);
            text.replace_range(start..=end, &body);
        }
    }
    text
}

/// A function's text with the columns that it is called with.
fn with_arguments(function: &Script, given: &[&str]) -> String {
    let names = function.reads.split(", ");
    let names: Vec<&str> = names.filter_map(|read| read.split(' ').next()).collect();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut body = String::new();
    let mut rest = function.statement();
    while !rest.is_empty() {
        let other = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(if length == 0 { other } else { length });
        let column = names.iter().position(|name| *name == token);
        body.push_str(column.and_then(|i| given.get(i)).copied().unwrap_or(token));
        rest = after;
    }
    body
}
