//! Reading an artifact: everything is checked at the door.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use super::columns;
use super::encoding::{Decoder, Problem};
use super::folder::{Files, part_name};
use super::provenance::Footer;
use super::seal::{self, Seal};
use super::{Kind, PartInfo, Provenance};
use crate::error::{Context, Error, Result};
use crate::files::{Claim, digest, parquet_batches, parquet_builder, parquet_metadata};

/// Rows per batch when a part is streamed.
const BATCH_ROWS: usize = 2048;

/// A complete artifact: every part is there, readable, and of one identity.
#[derive(Debug)]
pub struct Artifact {
    dir: PathBuf,
    parts: Vec<Part>,
}

impl Artifact {
    /// Opens the artifact in `dir` and checks all its footers.
    ///
    /// # Errors
    /// If the folder or a part is missing, a file is damaged, does not belong to an artifact, is of
    /// another kind, format or identity, or its columns are not those of [`Kind::stored_schema`].
    pub fn open(dir: &Path, kind: Kind) -> Result<Self> {
        let Files {
            parts: paths,
            lone_seals,
        } = Files::of(dir)?;
        if paths.is_empty() {
            return Err(Error::file(dir, format!("no `{kind}` artifact here"))
                .remedy(format!("run the stage that makes `{kind}` first")));
        }
        let parts = paths
            .iter()
            .map(|path| Part::open(path, kind))
            .collect::<Result<Vec<_>>>()?;
        check_all_there(dir, &parts)?;
        let mut next_sample = parts[0].footer.part.first_sample;
        for (index, part) in parts.iter().enumerate() {
            let info = part.info();
            if part.identity() != parts[0].identity() {
                return Err(Error::file(
                    &part.path,
                    format!("belongs to another result than part 0 of `{kind}`"),
                )
                .remedy("remove it, or write the artifact anew with `--force`"));
            }
            if info.first_sample != next_sample {
                return Err(Error::file(
                    &part.path,
                    format!(
                        "starts at sample {}, expected {next_sample}",
                        info.first_sample
                    ),
                ));
            }
            next_sample += info.samples;
            let is_last = index + 1 == parts.len();
            if info.last != is_last {
                let problem = format!("part {index} says it is the last, but more follow");
                return Err(Error::file(dir, problem).remedy(seal::REMEDY));
            }
        }
        if let Some(seal) = lone_seals.first() {
            return Err(Error::file(seal, "is about a part that is missing")
                .remedy("run the stage again, it writes only what is missing"));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            parts,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parts, in order; there is at least one.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What it was made from.
    pub fn provenance(&self) -> &Provenance {
        self.parts[0].provenance()
    }

    /// Digest of everything that determines its rows: what it was made from.
    pub fn identity(&self) -> &str {
        self.parts[0].identity()
    }

    /// Digest of what it holds, whatever it was made from: rows, samples of each part, vocabulary,
    /// and the options that readers ask for ([`Kind::options_say_how_to_read`]). Artifacts with the
    /// same rows have the same, so that what follows can be shared. The identity, where the digests
    /// of rows were not kept yet.
    pub fn content(&self) -> String {
        let mut rows = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let Some(digest) = &part.rows_digest else {
                return self.identity().to_owned();
            };
            rows.push((part.info().first_sample, part.info().samples, digest));
        }
        let made = self.provenance();
        let options = made.kind.options_say_how_to_read().then_some(&made.options);
        let all = serde_json::json!([made.kind, made.format, made.vocabulary, options, rows]);
        digest::text(&all.to_string())
    }

    /// Whether its rows are random draws (`score` in mode `sampled`), which must not be cut,
    /// averaged or mapped.
    pub fn holds_draws(&self) -> bool {
        self.provenance().options["mode"] == "sampled"
    }

    /// Whether each row of `topk` has the exact probability of the true token, listed or not.
    /// Distributions of other programs may have it for listed tokens only.
    pub fn exact_targets(&self) -> bool {
        self.provenance().options["exact_target"] != false
    }

    /// Rows in all parts.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Samples in all parts.
    pub fn samples(&self) -> u64 {
        self.parts.iter().map(|part| part.footer.part.samples).sum()
    }

    /// Bytes on disk in all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Fails unless this artifact is about the same samples, part by part, as `other`.
    pub fn check_same_samples(&self, other: &Artifact) -> Result<()> {
        let shape = |artifact: &Artifact| -> Vec<(u64, u64)> {
            let infos = artifact.parts.iter().map(Part::info);
            infos
                .map(|info| (info.first_sample, info.samples))
                .collect()
        };
        if shape(self) == shape(other) {
            return Ok(());
        }
        Err(Error::file(
            &self.dir,
            format!(
                "holds {} samples in {} parts, `{}` holds {} in {}",
                self.samples(),
                self.parts.len(),
                other.dir.display(),
                other.samples(),
                other.parts.len()
            ),
        )
        .remedy("both must come from the same corpus; run the older stage again"))
    }

    /// Fails unless the ids in this artifact belong to the vocabulary `digest`.
    pub fn check_vocabulary(&self, digest: &str) -> Result<()> {
        match self.provenance().vocabulary.as_deref() {
            Some(found) if found == digest => Ok(()),
            found => Err(Error::file(
                &self.dir,
                format!(
                    "its ids belong to vocabulary `{}`, expected `{digest}`",
                    found.unwrap_or("unknown")
                ),
            )
            .remedy("it was made with another tokenizer; run that stage again with this one")),
        }
    }
}

/// Runs of missing parts that an error names.
const RUNS_NAMED: usize = 8;

/// Fails if parts are missing, and says which.
fn check_all_there(dir: &Path, parts: &[Part]) -> Result<()> {
    let mut missing: Vec<RangeInclusive<u32>> = Vec::new();
    let mut next = 0;
    for part in parts {
        let index = part.info().index;
        if index > next {
            missing.push(next..=index - 1);
        }
        next = index + 1;
    }
    let is_open = parts.last().is_some_and(|last| !last.info().last);
    if is_open {
        missing.push(next..=next);
    }
    let run = |run: &RangeInclusive<u32>| match (run.start(), run.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    };
    let named: Vec<String> = missing.iter().take(RUNS_NAMED).map(run).collect();
    let more = match missing.len() > RUNS_NAMED {
        true => ", …",
        false => "",
    };
    let (noun, verb, after) = match missing.as_slice() {
        [] => return Ok(()),
        [one] if one.start() == one.end() => ("part", "is", "it"),
        _ => ("parts", "are", "them"),
    };
    let mut problem = format!("{noun} {}{more} {verb} missing", named.join(", "));
    if is_open {
        problem += &format!(", and any after {after}");
    }
    Err(Error::file(dir, problem).remedy("run the stage again, it writes only what is missing"))
}

/// One part, opened and checked.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    footer: Footer,
    rows: u64,
    bytes: u64,
    /// Digest of its rows, if its footer has it.
    rows_digest: Option<String>,
    metadata: ArrowReaderMetadata,
}

impl Part {
    /// Opens a part and checks its length, footer and columns.
    ///
    /// # Errors
    /// [`Error::Damaged`] if length or footer are not those that were written; a part of another
    /// kind or format.
    pub fn open(path: &Path, kind: Kind) -> Result<Self> {
        match Seal::read(path)? {
            Some(seal) => seal.check(path)?,
            None => seal::say_unsealed(path),
        }
        let file = File::open(path).at(path)?;
        let bytes = file.metadata().at(path)?.len();
        // The Arrow types are ours to say, not the file's.
        let metadata = parquet_metadata(&file).map_err(|e| {
            Error::unread(path, &e, || {
                Error::damaged(path, format!("not a complete Parquet file: {e}"))
                    .remedy(seal::REMEDY)
            })
        })?;
        let key_values = metadata.metadata().file_metadata().key_value_metadata();
        let value = |key: &str| {
            let pair = key_values?.iter().find(|pair| pair.key == key)?;
            pair.value.as_deref()
        };
        let rows_digest = value(Footer::ROWS).map(str::to_owned);
        let footer = value(Footer::KEY).ok_or_else(|| {
            Error::file(
                path,
                "its footer has no key `fuselm`, so this program did not write it",
            )
            .remedy("use `fuselm import` for distributions made elsewhere")
        })?;
        let footer: Footer = serde_json::from_str(footer)
            .map_err(|e| Error::damaged(path, format!("footer key `fuselm` is damaged: {e}")))?;
        let found = &footer.provenance;
        if found.kind != kind {
            return Err(Error::file(
                path,
                format!("holds `{}`, expected `{kind}`", found.kind),
            ));
        }
        if found.format != kind.format() {
            return Err(Error::file(
                path,
                format!(
                    "has format version {}, expected {}",
                    found.format,
                    kind.format()
                ),
            )
            .remedy(format!(
                "it was written by fuselm {}; run the stage again",
                found.tool
            )));
        }
        if footer.identity != found.identity() {
            return Err(Error::damaged(
                path,
                "footer key `fuselm` is damaged: the identity does not match",
            ));
        }
        let expected = kind.stored_schema();
        if metadata.schema().fields() != expected.fields() {
            return Err(Error::file(
                path,
                column_difference(metadata.schema(), &expected),
            ));
        }
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows())
            .map_err(|_| Error::file(path, "its footer has a negative row count"))?;
        Ok(Self {
            path: path.to_path_buf(),
            footer,
            rows,
            bytes,
            rows_digest,
            metadata,
        })
    }

    /// The parts in `dir` that can be opened, whether or not they make an artifact.
    ///
    /// # Errors
    /// A folder that cannot be listed, or has files that do not belong to an artifact.
    pub fn readable(dir: &Path, kind: Kind) -> Result<Vec<Part>> {
        let Files { parts, .. } = Files::of(dir)?;
        let opened = parts.iter().map(|path| Part::open(path, kind));
        Ok(opened.flatten().collect())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its name is that of the part that it says to be.
    pub(super) fn has_its_name(&self) -> bool {
        let name = part_name(self.info().index);
        self.path.file_name().is_some_and(|found| *found == *name)
    }

    /// Which part it is, and of which samples.
    pub fn info(&self) -> PartInfo {
        self.footer.part
    }

    /// What the artifact was made from.
    pub fn provenance(&self) -> &Provenance {
        &self.footer.provenance
    }

    /// What the file should hold; `None` for a part from before that was kept.
    ///
    /// # Errors
    /// A damaged record.
    pub fn claim(&self) -> Result<Option<Claim>> {
        Ok(Seal::read(&self.path)?.map(|seal| seal.claim(&self.path)))
    }

    /// The artifact's identity.
    pub fn identity(&self) -> &str {
        &self.footer.identity
    }

    /// Rows in this part.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Fails unless rows rise by sample and, where they have one, position, and are of the part's
    /// samples; for kinds that are per sample. Readers that stream the rows of samples find
    /// that by themselves; this is for those that do not.
    ///
    /// # Errors
    /// The first row that does not rise; damaged pages.
    pub fn check_order(&self) -> Result<()> {
        let info = self.info();
        let with_pos = self.provenance().kind.sorted_by().get(1) == Some(&"pos");
        let samples = info.first_sample..info.first_sample.saturating_add(info.samples);
        columns::check_order(&self.path, &self.metadata, with_pos, samples)
    }

    /// Streams the rows in batches, with the columns of [`Kind::schema`].
    ///
    /// # Errors
    /// Later, by an item: if a page is damaged, or a row of a distribution is impossible or out of
    /// order (naming sample and position).
    ///
    /// # Memory
    /// The pages of one row group that the batch touches, decompressed.
    pub fn batches(&self) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
        let file = File::open(&self.path).at(&self.path)?;
        let builder = parquet_builder(file, self.metadata.clone());
        let reader = parquet_batches(builder.with_batch_size(BATCH_ROWS)).at(&self.path)?;
        let path = self.path.clone();
        let mut decoder = Decoder::new(self.provenance().kind);
        Ok(reader.map(move |batch| {
            let batch = batch.map_err(|error| {
                Error::unread(&path, &error, || {
                    columns::text_that_is_no_utf8(&path)
                        .unwrap_or_else(|| Error::damaged(&path, format!("damaged: {error}")))
                        .remedy(seal::REMEDY)
                })
            })?;
            decoder.decode(&batch).map_err(|problem| match problem {
                Problem::Batch(error) => error,
                Problem::Row(row) => Error::damaged_at(
                    format!(
                        "{} sample {} position {}",
                        path.display(),
                        row.sample,
                        row.pos
                    ),
                    row.what,
                )
                .remedy(seal::REMEDY),
            })
        }))
    }
}

fn column_difference(
    found: &arrow::datatypes::Schema,
    expected: &arrow::datatypes::Schema,
) -> String {
    for field in expected.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => return format!("column `{}` is missing", field.name()),
            Ok(other) if other != field.as_ref() => {
                return format!(
                    "column `{}` is {}{}, expected {}{}",
                    field.name(),
                    other.data_type(),
                    if other.is_nullable() { " or null" } else { "" },
                    field.data_type(),
                    if field.is_nullable() { " or null" } else { "" },
                );
            }
            Ok(_) => {}
        }
    }
    "has columns that do not belong to it, or in another order".to_owned()
}
