//! Results as an aligned table, CSV, JSON or Parquet, batch by batch.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::session::{Params, Session};
use super::stream::Batches;
use crate::error::{Context, Error, Result, did_you_mean};
use crate::files::atomic::Pending;

/// Rows from which the widths of a table's columns are taken.
const PREVIEW_ROWS: usize = 1000;
/// Characters of the longest cell of a table; what is longer ends in `…`.
const CELL_CHARS: usize = 80;

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns for people: floats with six digits, long cells cut.
    Table,
    /// A line for each cell, for rows that are too wide for a table.
    Line,
    /// Comma-separated values with a header line; lists as text.
    Csv,
    /// One array of objects.
    Json,
    /// A Parquet file ([`save_parquet`]; not for a terminal).
    Parquet,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let known = ["table", "line", "csv", "json", "parquet"];
        match word {
            "table" => Ok(Format::Table),
            "line" => Ok(Format::Line),
            "csv" => Ok(Format::Csv),
            "json" => Ok(Format::Json),
            "parquet" => Ok(Format::Parquet),
            _ => Err(
                Error::usage(format!("no output format is called `{word}`")).remedy(
                    did_you_mean(word, known)
                        .unwrap_or_else(|| format!("there are {}", known.join(", "))),
                ),
            ),
        }
    }
}

impl Format {
    /// The format of a file by the end of its name; a table if it has no known one.
    pub fn of_file(path: &Path) -> Self {
        let end = path.extension().unwrap_or_default().to_string_lossy();
        match end.to_lowercase().as_str() {
            "csv" => Format::Csv,
            "json" => Format::Json,
            "parquet" => Format::Parquet,
            _ => Format::Table,
        }
    }
}

impl Session {
    /// Runs one statement and writes its result to `out`; see [`print()`].
    pub fn print(
        &self,
        sql: &str,
        params: &Params,
        format: Format,
        max_rows: usize,
        out: &mut dyn Write,
    ) -> Result<()> {
        let batches = self.stream(sql, params)?;
        print(&batches.schema(), batches, format, max_rows, out)
    }
}

/// Writes a result to `out` as its batches come. A table ends after `max_rows` rows (0: all)
/// and says so. A reader that goes away (a closed pipe) ends the output without an error.
///
/// # Errors
/// [`Error::Usage`] for [`Format::Parquet`], which needs a file.
///
/// # Memory
/// One batch, and for a table 1,000 rows of text.
pub fn print(
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    format: Format,
    max_rows: usize,
    out: &mut dyn Write,
) -> Result<()> {
    let mut out = Output { out, closed: false };
    let written =
        match format {
            Format::Table | Format::Line if is_plan(schema) => plan(batches, &mut out),
            Format::Table => table(schema, batches, max_rows, &mut out),
            Format::Line => lines(schema, batches, max_rows, &mut out),
            Format::Csv => csv(schema, batches, &mut out),
            Format::Json => json(batches, &mut out),
            Format::Parquet => Err(Error::usage("Parquet cannot be written to the terminal")
                .remedy("name a file for it")),
        };
    match out.closed {
        true => Ok(()),
        false => written.and_then(|()| out.flush().map_err(output_error)),
    }
}

/// Writes a result to a Parquet file, whole or not at all; returns the number of rows.
///
/// # Memory
/// One row group of encoded pages.
pub fn save_parquet(batches: Batches, path: &Path) -> Result<u64> {
    let (pending, file) = Pending::create(path)?;
    let level = ZstdLevel::try_new(3).at(path)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .build();
    let mut writer = ArrowWriter::try_new(file, batches.schema(), Some(properties)).at(path)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        writer.write(&batch).at(path)?;
    }
    writer.finish().at(path)?;
    pending.commit(writer.inner())?;
    Ok(rows)
}

/// Remembers that the reader went away.
struct Output<'a> {
    out: &'a mut dyn Write,
    closed: bool,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        if let Err(error) = &written {
            self.closed |= error.kind() == io::ErrorKind::BrokenPipe;
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn output_error(error: io::Error) -> Error {
    Error::io("standard output", error)
}

fn table(
    schema: &SchemaRef,
    mut batches: impl Iterator<Item = Result<RecordBatch>>,
    max_rows: usize,
    out: &mut Output<'_>,
) -> Result<()> {
    let limit = if max_rows == 0 { usize::MAX } else { max_rows };
    // One row more than is shown tells whether there are more.
    let wanted = limit.saturating_add(1).min(PREVIEW_ROWS);
    let mut rows: VecDeque<Vec<String>> = VecDeque::new();
    let mut ended = false;
    while rows.len() < wanted && !ended {
        match batches.next() {
            Some(batch) => rows.extend(cells(&batch?)?),
            None => ended = true,
        }
    }
    let right: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().is_numeric())
        .collect();
    // An expression without a name of its own is called by its text.
    let header: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| cell_text(field.name()))
        .collect();
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in rows.iter().take(limit.min(PREVIEW_ROWS)) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(out, &header, &widths, &right)?;
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(out, &rule, &widths, &right)?;
    let mut shown = 0;
    loop {
        while let Some(row) = rows.pop_front() {
            if shown == limit {
                return writeln!(out, "(the first {shown} rows; `--max-rows 0` shows all)")
                    .map_err(output_error);
            }
            line(out, &row, &widths, &right)?;
            shown += 1;
        }
        match batches.next() {
            Some(batch) => rows.extend(cells(&batch?)?),
            None => break,
        }
    }
    let plural = if shown == 1 { "" } else { "s" };
    writeln!(out, "({shown} row{plural})").map_err(output_error)
}

/// Whether a result is what EXPLAIN returns.
fn is_plan(schema: &SchemaRef) -> bool {
    let names = schema.fields().iter().map(|field| field.name());
    names.eq(["plan_type", "plan"])
}

/// Plans, with their lines.
fn plan(batches: impl Iterator<Item = Result<RecordBatch>>, out: &mut Output<'_>) -> Result<()> {
    for batch in batches {
        let batch = batch?;
        let texts = |column: usize| {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(batch.column(column).as_ref(), &options);
            text.map(|text| {
                (0..batch.num_rows())
                    .map(|row| text.value(row).to_string())
                    .collect()
            })
        };
        let kinds: Vec<String> = texts(0).during(|| "printing a plan".into())?;
        let plans: Vec<String> = texts(1).during(|| "printing a plan".into())?;
        for (kind, plan) in kinds.iter().zip(plans) {
            writeln!(out, "\n{kind}").map_err(output_error)?;
            for line in plan.trim_end().lines() {
                writeln!(out, "  {line}").map_err(output_error)?;
            }
        }
    }
    Ok(())
}

/// Each cell on a line of its own, rows apart from each other.
fn lines(
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    max_rows: usize,
    out: &mut Output<'_>,
) -> Result<()> {
    let limit = if max_rows == 0 { usize::MAX } else { max_rows };
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| cell_text(f.name()))
        .collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut shown = 0;
    for batch in batches {
        for row in cells(&batch?)? {
            if shown == limit {
                return writeln!(out, "(the first {shown} rows; `--max-rows 0` shows all)")
                    .map_err(output_error);
            }
            shown += 1;
            writeln!(out, "-- row {shown}").map_err(output_error)?;
            for (name, cell) in names.iter().zip(row) {
                writeln!(out, "{name:<width$}  {cell}").map_err(output_error)?;
            }
        }
    }
    let plural = if shown == 1 { "" } else { "s" };
    writeln!(out, "({shown} row{plural})").map_err(output_error)
}

fn line(out: &mut Output<'_>, cells: &[String], widths: &[usize], right: &[bool]) -> Result<()> {
    let mut text = String::new();
    for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
        if !text.is_empty() {
            text.push_str("  ");
        }
        match right {
            true => text.push_str(&format!("{cell:>width$}")),
            false => text.push_str(&format!("{cell:<width$}")),
        }
    }
    writeln!(out, "{}", text.trim_end()).map_err(output_error)
}

/// The rows of a batch as the cells of a table.
fn cells(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for column in batch.columns() {
        let texts = column_text(column)?;
        for (row, text) in rows.iter_mut().zip(texts) {
            row.push(text);
        }
    }
    Ok(rows)
}

fn column_text(column: &ArrayRef) -> Result<Vec<String>> {
    if column.data_type().is_floating() {
        let doubles = arrow::compute::cast(column, &DataType::Float64)
            .during(|| "printing a result".into())?;
        let doubles = doubles
            .as_primitive_opt::<arrow::datatypes::Float64Type>()
            .ok_or_else(|| Error::usage("a float column is none"))?;
        return Ok(doubles
            .iter()
            .map(|x| x.map_or_else(|| "NULL".to_owned(), short_number))
            .collect());
    }
    let options = FormatOptions::default().with_null("NULL");
    let formatter =
        ArrayFormatter::try_new(column.as_ref(), &options).during(|| "printing a result".into())?;
    (0..column.len())
        .map(|row| {
            let text = formatter.value(row).try_to_string();
            Ok(cell_text(&text.during(|| "printing a result".into())?))
        })
        .collect()
}

/// Control characters made visible, and no more than [`CELL_CHARS`] of them.
fn cell_text(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count >= CELL_CHARS {
            cell.push('…');
            break;
        }
        match c {
            '\n' => cell.push_str("\\n"),
            '\t' => cell.push_str("\\t"),
            '\r' => cell.push_str("\\r"),
            c if c.is_control() => cell.push('\u{fffd}'),
            c => cell.push(c),
        }
    }
    cell
}

/// Six significant digits, without zeros at the end.
fn short_number(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let magnitude = x.abs().log10().floor();
    if !(-5.0..9.0).contains(&magnitude) {
        return format!("{x:.5e}");
    }
    let decimals = (5.0 - magnitude).max(0.0) as usize;
    let text = format!("{x:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn csv(
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    out: &mut Output<'_>,
) -> Result<()> {
    let mut writer = arrow::csv::WriterBuilder::new().build(out);
    let empty = flat(&RecordBatch::new_empty(schema.clone()))?;
    writer.write(&empty).map_err(writer_error)?;
    for batch in batches {
        writer.write(&flat(&batch?)?).map_err(writer_error)?;
    }
    Ok(())
}

/// Lists and structs, which CSV does not have, become text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
            continue;
        }
        let options = FormatOptions::default();
        let formatter =
            ArrayFormatter::try_new(column.as_ref(), &options).during(|| "writing CSV".into())?;
        let texts: Vec<Option<String>> = (0..column.len())
            .map(|row| {
                column
                    .is_valid(row)
                    .then(|| formatter.value(row).to_string())
            })
            .collect();
        fields.push(Field::new(field.name(), DataType::Utf8, true));
        columns.push(Arc::new(StringArray::from(texts)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).during(|| "writing CSV".into())
}

fn json(batches: impl Iterator<Item = Result<RecordBatch>>, out: &mut Output<'_>) -> Result<()> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(&mut *out);
    for batch in batches {
        writer.write(&batch?).map_err(writer_error)?;
    }
    writer.finish().map_err(writer_error)?;
    drop(writer);
    writeln!(out).map_err(output_error)
}

fn writer_error(error: arrow::error::ArrowError) -> Error {
    match error {
        arrow::error::ArrowError::IoError(_, io) => output_error(io),
        error => Error::Compute {
            during: "writing a result".into(),
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        for (x, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (-1.234_567_89, "-1.23457"),
            (1234.5678, "1234.57"),
            (12_345_678.9, "12345679"),
            (0.000_123_456_7, "0.000123457"),
            (1e-9, "1.00000e-9"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short_number(x), text);
        }
    }

    #[test]
    fn cells_show_control_characters_and_end() {
        assert_eq!(cell_text("a\nb\t"), "a\\nb\\t");
        assert_eq!(cell_text(&"x".repeat(200)).chars().count(), CELL_CHARS + 1);
    }
}
