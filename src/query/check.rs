//! All data checks of a run.

use std::fmt;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use arrow::record_batch::RecordBatch;
use serde::Serialize;

use super::catalogue::{Group, Script};
use super::files::RunFiles;
use super::session::{Params, Session, SessionOptions};
use crate::artifact::RunDir;
use crate::error::{Context, Error, Result};
use crate::progress::Bar;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth a look.
    Warning,
    /// The data is wrong.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// One row of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// The artifact, as a path in the run folder.
    pub artifact: String,
    /// The sample, where it is about one.
    pub sample_id: Option<u64>,
    /// What was found where.
    pub detail: String,
    /// The figure that is wrong.
    pub value: Option<f64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.level, self.check, self.artifact)?;
        if let Some(sample) = self.sample_id {
            write!(f, " sample {sample}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Checks a run: that all files are there that its stages wrote, and are what was written, that rows
/// are in order, and what the files of `sql/checks` say. At most `limit` findings of each (0: all);
/// nothing when all is well. Where files are damaged, their rows are not looked at.
///
/// # Errors
/// A folder that cannot be listed; a check whose statement is wrong; the user's wish to stop.
///
/// # Memory
/// That of reading files ([`verify`](crate::files::verify)), then that of the session.
pub fn check_run(run: &RunDir, options: &SessionOptions, limit: usize) -> Result<Vec<Finding>> {
    let files = RunFiles::of(run)?;
    if files.is_empty() {
        return Err(
            Error::file(run.root(), "holds no artifact and no checkpoint yet")
                .remedy("run a recipe into it first"),
        );
    }
    let is_damaged = |findings: &[Finding]| findings.iter().any(|f| f.level == Level::Error);
    let mut findings = files.verify()?;
    let mut order = match is_damaged(&findings) {
        true => Vec::new(),
        false => files.order()?,
    };
    let damaged = is_damaged(&findings) || is_damaged(&order);
    let most = if limit == 0 { usize::MAX } else { limit };
    findings.truncate(most);
    order.truncate(most);
    findings.append(&mut order);
    if !damaged {
        let session = Session::open(run, options)?;
        findings.extend(run_checks(&session, limit)?);
    }
    Ok(findings)
}

/// Runs every check and returns what they find, at most `limit` findings of each (0: all);
/// nothing when all is well.
///
/// # Errors
/// If a check's statement is wrong or needs more memory than it may use; the user's wish to stop.
/// Pages that cannot be read are a finding.
pub fn run_checks(session: &Session, limit: usize) -> Result<Vec<Finding>> {
    let checks: Vec<&Script> = session.catalogue().group(Group::Checks).collect();
    let bar = Bar::new("check", checks.len() as u64, "checks");
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut findings = Vec::new();
    for check in checks {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        for batch in session.stream_script(check, &Params::new())? {
            let batch = match batch {
                Ok(batch) => batch,
                // Pages of a part from before digests were kept.
                Err(error @ Error::Damaged { .. }) => {
                    errors.push(unreadable(check, &error));
                    break;
                }
                Err(error) => return Err(error),
            };
            for finding in read(&batch, check)? {
                match finding.level {
                    Level::Error => errors.push(finding),
                    Level::Warning if warnings.len() < limit => warnings.push(finding),
                    Level::Warning => {}
                }
            }
            if errors.len() >= limit {
                break;
            }
        }
        // A limit does not hide that there are errors.
        errors.append(&mut warnings);
        errors.truncate(limit);
        findings.append(&mut errors);
        bar.advance(1);
    }
    Ok(findings)
}

/// What a check cannot read is damaged.
fn unreadable(check: &Script, error: &Error) -> Finding {
    Finding {
        check: check.name.clone(),
        level: Level::Error,
        artifact: check.reads.clone(),
        sample_id: None,
        detail: error.to_string(),
        value: None,
    }
}

fn read(batch: &RecordBatch, check: &Script) -> Result<Vec<Finding>> {
    let wrong = |problem: String| {
        Error::input(format!("check `{}`", check.name), problem)
            .remedy("return the columns check, level, artifact, sample_id, detail, value")
    };
    let column = |name: &str, data_type: &DataType| {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| wrong(format!("returns no column `{name}`")))?;
        cast(column, data_type).during(|| format!("reading `{name}` of check `{}`", check.name))
    };
    let names = column("check", &DataType::Utf8)?;
    let levels = column("level", &DataType::Utf8)?;
    let artifacts = column("artifact", &DataType::Utf8)?;
    let samples = column("sample_id", &DataType::UInt64)?;
    let details = column("detail", &DataType::Utf8)?;
    let values = column("value", &DataType::Float64)?;
    let text = |array: &arrow::array::ArrayRef, row: usize| -> String {
        let strings = array.as_string::<i32>();
        match arrow::array::Array::is_null(strings, row) {
            true => String::new(),
            false => strings.value(row).to_owned(),
        }
    };
    (0..batch.num_rows())
        .map(|row| {
            let level = match text(&levels, row).as_str() {
                "error" => Level::Error,
                "warning" => Level::Warning,
                other => {
                    return Err(wrong(format!(
                        "returns the level `{other}`, expected `error` or `warning`"
                    )));
                }
            };
            let sample = samples.as_primitive::<UInt64Type>();
            let value = values.as_primitive::<Float64Type>();
            Ok(Finding {
                check: text(&names, row),
                level,
                artifact: text(&artifacts, row),
                sample_id: samples.is_valid(row).then(|| sample.value(row)),
                detail: text(&details, row),
                value: values.is_valid(row).then(|| value.value(row)),
            })
        })
        .collect()
}
