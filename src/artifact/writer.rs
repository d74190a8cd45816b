//! Writing an artifact part by part.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use super::encoding::{self, Problem};
use super::folder::{self, Files};
use super::provenance::Footer;
use super::reader::Part;
use super::seal::Seal;
use super::{Existing, Kind, PartInfo, Provenance, Shard, Writing};
use crate::error::{Context, Error, Result};
use crate::files::Hashing;
use crate::files::atomic::Pending;
use crate::progress;

/// zstd level of every page; higher levels gained under 3 % on distributions.
const ZSTD_LEVEL: i32 = 3;
/// Most rows of a row group: about 5 MB of `topk` at k = 10.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Most bytes of one, for longer lists.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// An artifact being written. Parts may be written in any order and by several threads.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    provenance: Provenance,
    identity: String,
    done: Vec<PartInfo>,
    stale: Arc<Stale>,
    shard: Shard,
}

/// Parts of another result, which stay until there is something to put in their place.
#[derive(Debug)]
struct Stale {
    paths: Mutex<Vec<PathBuf>>,
    /// Whether other processes put theirs in the place of some of them: then each part replaces the
    /// one of its number, and what is left over goes at the end.
    one_by_one: bool,
}

impl Stale {
    /// Removes them, before the first new part is committed; no part of another thread is meanwhile.
    fn remove(&self) -> Result<()> {
        match self.one_by_one {
            true => Ok(()),
            false => self.remove_from(0),
        }
    }

    /// Removes those from part `first` on.
    fn remove_from(&self, first: u32) -> Result<()> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let goes = |path: &PathBuf| folder::part_index(path).is_none_or(|index| index >= first);
        // Seals go first: a part without one is less of a riddle than a new part with an old one.
        let mut seals = paths
            .iter()
            .filter(|path| goes(path))
            .map(|path| Seal::path_of(path));
        seals.try_for_each(|path| folder::remove(&path))?;
        let mut parts = paths.iter().filter(|path| goes(path));
        parts.try_for_each(|path| folder::remove(path))?;
        paths.retain(|path| !goes(path));
        Ok(())
    }
}

impl Writer {
    /// Prepares `dir`: keeps the parts that an earlier, interrupted run of the same identity
    /// finished, and treats any others as `writing` says. Those that are replaced go when the first
    /// new part is finished: what fails before that has changed nothing. Where only a shard is
    /// written, each goes when the part of its number is finished.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are other parts and [`Existing::Refuse`] is asked for;
    /// [`Error::Damaged`] if there is a file that does not belong to an artifact.
    pub fn create(dir: &Path, provenance: Provenance, writing: impl Into<Writing>) -> Result<Self> {
        let Writing { existing, shard } = writing.into();
        let identity = provenance.identity();
        let mut done = Vec::new();
        let mut stale = Vec::new();
        let Files { parts, lone_seals } = Files::of(dir)?;
        for path in parts {
            match Part::open(&path, provenance.kind) {
                Ok(part) if part.identity() == identity && part.has_its_name() => {
                    done.push(part.info());
                }
                Ok(part) => stale.push((path, Some(part))),
                Err(error) if error.is_of_the_system() => return Err(error),
                Err(_) => stale.push((path, None)),
            }
        }
        if let Some((path, part)) = stale.first() {
            let why = match part {
                Some(part) if !part.has_its_name() => {
                    format!("{} is part {}", path.display(), part.info().index)
                }
                Some(part) => provenance.differences(part.provenance()).join(", "),
                None => "it is damaged or was written by another program".to_owned(),
            };
            if existing == Existing::Refuse {
                return Err(Error::usage(format!(
                    "`{}` holds another result ({why})",
                    path.display()
                ))
                .remedy("choose another output folder, or replace it with `--force`"));
            }
            progress::note(format!("replacing {} ({why})", dir.display()));
        }
        if shard.is_all() {
            // Of parts that a killed program was about to name; or that another process is.
            lone_seals
                .iter()
                .try_for_each(|path| folder::remove(path))?;
        }
        let stale = Stale {
            paths: Mutex::new(stale.into_iter().map(|(path, _)| path).collect()),
            one_by_one: !shard.is_all(),
        };
        if !done.is_empty() {
            stale.remove()?;
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            provenance,
            identity,
            done,
            stale: Arc::new(stale),
            shard,
        })
    }

    /// Which parts are made here.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Whether a part is there by now, made by this process or another.
    ///
    /// # Errors
    /// The system's, as when there are too many open files.
    pub(super) fn finds(&self, index: u32) -> Result<bool> {
        let path = self.dir.join(folder::part_name(index));
        match path.exists() && !self.is_done(index) {
            true => match Part::open(&path, self.provenance.kind) {
                Ok(part) => Ok(part.identity() == self.identity && part.has_its_name()),
                Err(error) if error.is_of_the_system() => Err(error),
                Err(_) => Ok(false),
            },
            false => Ok(self.is_done(index)),
        }
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes what is left of another result that had more than `parts` parts.
    ///
    /// # Errors
    /// Files that cannot be removed.
    pub(super) fn remove_beyond(&self, parts: u32) -> Result<()> {
        self.stale.remove_from(parts)
    }

    /// Whether an earlier run finished this part.
    pub fn is_done(&self, index: u32) -> bool {
        self.done.iter().any(|info| info.index == index)
    }

    /// Whether an earlier run finished every part.
    pub fn is_complete(&self) -> bool {
        let last = self.done.iter().find(|info| info.last);
        last.is_some_and(|last| (0..last.index).all(|index| self.is_done(index)))
    }

    /// The identity of what is being written.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Starts a part; nothing is visible until [`PartWriter::finish`].
    ///
    /// # Memory
    /// One row group of encoded pages, about 5 MB for distributions with k = 10, at most 64 MB.
    pub fn part(&self, info: PartInfo) -> Result<PartWriter> {
        let path = self.dir.join(folder::part_name(info.index));
        let footer = Footer {
            provenance: self.provenance.clone(),
            identity: self.identity.clone(),
            part: info,
        };
        let footer = serde_json::to_string(&footer).at(&path)?;
        let properties = properties(self.provenance.kind, footer)?;
        let (pending, file) = Pending::create(&path)?;
        let kind = self.provenance.kind;
        let schema = kind.stored_schema();
        let writer =
            ArrowWriter::try_new(Hashing::new(file), schema, Some(properties)).at(&path)?;
        Ok(PartWriter {
            path,
            kind,
            pending,
            writer,
            stale: Arc::clone(&self.stale),
            rows: 0,
        })
    }

    /// Writes an artifact that has one part and one batch of rows.
    pub fn write_only(self, batch: &RecordBatch) -> Result<()> {
        let mut part = self.part(PartInfo::ONLY)?;
        part.write(batch)?;
        part.finish()
    }
}

/// One part being written; dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct PartWriter {
    path: PathBuf,
    kind: Kind,
    pending: Pending,
    writer: ArrowWriter<Hashing<File>>,
    stale: Arc<Stale>,
    rows: u64,
}

impl PartWriter {
    /// Appends rows. Their schema must be [`Kind::schema`] of the artifact's kind.
    ///
    /// # Errors
    /// If the disk is full, or a list has an id twice (naming sample and position).
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if !encoding::is_encoded(self.kind) {
            return self.write_stored(batch);
        }
        let stored = encoding::encode(self.kind, batch).map_err(|problem| match problem {
            Problem::Batch(error) => error,
            Problem::Row(row) => Error::input(
                format!(
                    "{} sample {} position {}",
                    self.path.display(),
                    row.sample,
                    row.pos
                ),
                row.what,
            ),
        })?;
        self.write_stored(&stored)
    }

    /// Appends rows whose schema is [`Kind::stored_schema`].
    pub(crate) fn write_stored(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.writer
            .write(batch)
            .map_err(storage_full)
            .at(&self.path)
    }

    /// Completes the file, and gives it and the record of what was written their names.
    pub fn finish(self) -> Result<()> {
        let Self {
            path,
            pending,
            mut writer,
            stale,
            ..
        } = self;
        writer.flush().map_err(storage_full).at(&path)?;
        writer.sync().at(&path)?;
        let rows = writer.inner().record().digest;
        let rows = KeyValue::new(Footer::ROWS.to_owned(), rows);
        writer.append_key_value_metadata(rows);
        // Not `into_inner`: it makes a text of an I/O error.
        writer.finish().map_err(storage_full).at(&path)?;
        let written = writer.inner();
        let seal = Seal::new(written.record(), pending.path())?;
        stale.remove()?;
        seal.write(&path)?;
        pending.commit(written.inner())?;
        seal.settle(&path, written.inner())
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Brings out the I/O error in a Parquet error, so that a full disk is reported as one.
fn storage_full(error: parquet::errors::ParquetError) -> Box<dyn std::error::Error + Send + Sync> {
    use parquet::errors::ParquetError;
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(io) => io,
            Err(source) => Box::new(ParquetError::External(source)),
        },
        other => Box::new(other),
    }
}

fn properties(kind: Kind, footer: String) -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).during(|| "setting up Parquet".into())?;
    let mut builder = WriterProperties::builder()
        // Its data pages compress the list levels too: 4 bytes a token at k = 64.
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_key_value_metadata(Some(vec![KeyValue::new(Footer::KEY.to_owned(), footer)]));
    // The least and greatest of a page leave out what is no number, so that readers may take a column
    // with one for constant: DataFusion does.
    for field in kind.stored_schema().fields() {
        if field.data_type().is_floating() {
            let column = ColumnPath::new(vec![field.name().clone()]);
            builder = builder.set_column_statistics_enabled(column, EnabledStatistics::None);
        }
    }
    for column in differences(kind) {
        builder = builder
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    Ok(builder.build())
}

/// Columns that are smaller as differences than by dictionary: sorted keys. Every other column has
/// the encodings that all readers know: integers with their bytes apart (`BYTE_STREAM_SPLIT`)
/// would take a tenth to a fifth less, and DuckDB to 1.5, pyarrow to 15 and fastparquet cannot read them.
fn differences(kind: Kind) -> Vec<ColumnPath> {
    let columns: &[&[&str]] = match kind {
        Kind::Topk | Kind::Projected | Kind::Targets => &[&["sample_id"], &["pos"]],
        Kind::Alignment => &[
            &["sample_id"],
            &["pos"],
            &["source_begin"],
            &["source_end"],
            &["source_pos"],
        ],
        Kind::Tokens => &[&["sample_id"], &["byte_end", "list", "element"]],
        _ => &[],
    };
    let path = |names: &&[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    columns.iter().map(path).map(ColumnPath::new).collect()
}
