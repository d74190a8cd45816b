//! What an artifact or one of its parts is.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use parquet::file::metadata::ParquetMetaDataReader;
use serde::Serialize;

use super::origin::{self, Origin};
use crate::artifact::{Artifact, Kind, Part, Provenance, is_part};
use crate::error::{Context, Error, Result};
use crate::units::{Bytes, Count};

/// A column and what it takes on disk.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: String,
    /// Compressed bytes in all parts.
    pub bytes: u64,
    /// Values in all parts: elements for lists.
    pub values: u64,
}

/// What an artifact is.
#[derive(Clone, Debug, Serialize)]
pub struct ArtifactReport {
    /// The folder or file.
    pub path: PathBuf,
    /// What it holds.
    pub kind: Kind,
    /// Digest of everything that determines its rows.
    pub identity: String,
    /// Parts.
    pub parts: usize,
    /// Samples, with or without rows; 0 for artifacts that are not per sample.
    pub samples: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes per token (`tokens`, and artifacts with one row per token), else per row.
    pub bytes_per_token: Option<f64>,
    /// The columns.
    pub columns: Vec<ColumnReport>,
    /// What it was made from.
    pub provenance: Provenance,
    /// Where it stands among the runs of its folder.
    pub origin: Origin,
}

impl fmt::Display for ArtifactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = &self.provenance;
        let per = match self.bytes_per_token {
            Some(bytes) => format!(", {bytes:.1} bytes per token"),
            None if self.rows > 0 => {
                format!(
                    ", {:.1} bytes per row",
                    self.bytes as f64 / self.rows as f64
                )
            }
            None => String::new(),
        };
        writeln!(f, "artifact    {} (format {})", self.kind, from.format)?;
        writeln!(f, "path        {}", self.path.display())?;
        writeln!(f, "identity    {}", self.identity)?;
        writeln!(f, "rows        {}", Count(self.rows))?;
        if self.samples > 0 {
            writeln!(f, "samples     {}", Count(self.samples))?;
        }
        writeln!(f, "parts       {}", self.parts)?;
        writeln!(f, "size        {}{per}", Bytes(self.bytes))?;
        if let Some(digest) = &from.vocabulary {
            writeln!(f, "vocabulary  {digest}")?;
        }
        if let Some(digest) = &from.model {
            writeln!(f, "model       {digest}")?;
        }
        writeln!(f, "written by  fuselm {}", from.tool)?;
        writeln!(f, "options     {}", from.options)?;
        for (name, digest) in &from.inputs {
            match self.origin.inputs.get(name) {
                Some(path) => writeln!(f, "input       {name} {digest} ({})", path.display())?,
                None => writeln!(f, "input       {name} {digest}")?,
            }
        }
        for (what, paths) in [
            ("used by", &self.origin.used_by),
            ("same as", &self.origin.copies),
            ("usable by", &self.origin.usable_by),
        ] {
            for path in paths {
                writeln!(f, "{what:<10}  {}", path.display())?;
            }
        }
        writeln!(f, "columns")?;
        let name = self.columns.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let kind = self
            .columns
            .iter()
            .map(|c| c.data_type.len())
            .max()
            .unwrap_or(0);
        for column in &self.columns {
            let size = Bytes(column.bytes).to_string();
            writeln!(
                f,
                "  {:<name$}  {:<kind$}  {size:>10}  {} values",
                column.name,
                column.data_type,
                Count(column.values),
            )?;
        }
        Ok(())
    }
}

/// The first `part-*.parquet` in a folder.
pub(super) fn first_part(dir: &Path) -> Result<Option<PathBuf>> {
    let mut first: Option<PathBuf> = None;
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_part(&name) && first.as_ref().is_none_or(|f| path < *f) {
            first = Some(path);
        }
    }
    Ok(first)
}

pub(super) fn of_folder(dir: &Path) -> Result<ArtifactReport> {
    let first = first_part(dir)?.ok_or_else(|| Error::file(dir, "no artifact here"))?;
    let artifact = Artifact::open(dir, kind_of(&first)?)?;
    report(dir, artifact.parts())
}

pub(super) fn of_part(path: &Path) -> Result<ArtifactReport> {
    let part = Part::open(path, kind_of(path)?)?;
    report(path, std::slice::from_ref(&part))
}

/// The kind that a part's footer names.
fn kind_of(path: &Path) -> Result<Kind> {
    let file = File::open(path).at(path)?;
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&file)
        .map_err(|e| Error::damaged(path, format!("not a complete Parquet file: {e}")))?;
    let pairs = metadata.file_metadata().key_value_metadata();
    let footer = pairs
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == "fuselm"))
        .and_then(|pair| pair.value.as_deref())
        .ok_or_else(|| {
            Error::file(
                path,
                "its footer has no key `fuselm`, so this program did not write it",
            )
        })?;
    let footer: serde_json::Value = serde_json::from_str(footer)
        .map_err(|e| Error::damaged(path, format!("footer key `fuselm` is damaged: {e}")))?;
    let kind = footer
        .pointer("/provenance/kind")
        .cloned()
        .unwrap_or_default();
    serde_json::from_value(kind)
        .map_err(|e| Error::file(path, format!("holds an unknown kind of artifact: {e}")))
}

fn report(path: &Path, parts: &[Part]) -> Result<ArtifactReport> {
    let first = parts
        .first()
        .ok_or_else(|| Error::file(path, "no artifact here"))?;
    let provenance = first.provenance().clone();
    let kind = provenance.kind;
    let mut columns: Vec<ColumnReport> = kind
        .stored_schema()
        .fields()
        .iter()
        .map(|field| ColumnReport {
            name: field.name().clone(),
            data_type: type_name(field.data_type()) + if field.is_nullable() { "?" } else { "" },
            bytes: 0,
            values: 0,
        })
        .collect();
    let mut bytes = 0;
    for part in parts {
        let file = File::open(part.path()).at(part.path())?;
        bytes += file.metadata().at(part.path())?.len();
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .at(part.path())?;
        for chunk in metadata
            .row_groups()
            .iter()
            .flat_map(|group| group.columns())
        {
            let root = chunk
                .column_path()
                .parts()
                .first()
                .cloned()
                .unwrap_or_default();
            if let Some(column) = columns.iter_mut().find(|c| c.name == root) {
                column.bytes += u64::try_from(chunk.compressed_size()).unwrap_or(0);
                column.values = column
                    .values
                    .saturating_add(u64::try_from(chunk.num_values()).unwrap_or(0));
            }
        }
    }
    let rows: u64 = parts.iter().map(Part::rows).sum();
    let tokens = match kind {
        Kind::Tokens => columns
            .iter()
            .find(|c| c.name == "ids")
            .map_or(0, |c| c.values),
        Kind::Topk | Kind::Projected | Kind::Targets | Kind::Alignment => rows,
        _ => 0,
    };
    Ok(ArtifactReport {
        origin: origin::of(path, &provenance),
        path: path.to_path_buf(),
        kind,
        identity: first.identity().to_owned(),
        parts: parts.len(),
        samples: parts.iter().map(|part| part.info().samples).sum(),
        rows,
        bytes,
        bytes_per_token: (tokens > 0).then(|| bytes as f64 / tokens as f64),
        columns,
        provenance,
    })
}

/// A type as design and documentation write it: `u32`, `list<f32>`.
fn type_name(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::UInt64 => "u64".into(),
        DataType::UInt32 => "u32".into(),
        DataType::UInt16 => "u16".into(),
        DataType::Float32 => "f32".into(),
        DataType::Float64 => "f64".into(),
        DataType::Boolean => "bool".into(),
        DataType::Utf8 => "utf8".into(),
        DataType::Binary => "binary".into(),
        DataType::Dictionary(_, values) => format!("{} (dictionary)", type_name(values)),
        DataType::List(element) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
            format!("struct<{}>", names.join(", "))
        }
        other => other.to_string(),
    }
}
