//! Export: `topk` as plain nested Parquet, one sample a row, for `datasets` and the like.
//!
//! | column | type | is |
//! |---|---|---|
//! | `sample_id` | u64 | the sample |
//! | `positions` | list of u32 | positions with a distribution; it is about the token after |
//! | `target_ids` | list of u32 | the tokens that follow |
//! | `target_logprobs` | list of f32 | their log-probabilities, in nats |
//! | `tail_logprobs` | list of f32 | log of the probability outside the list |
//! | `ids` | list of lists of u32 | listed tokens, by falling probability |
//! | `logprobs` | list of lists of f32 | their log-probabilities |
//!
//! Samples without a distribution have empty lists. Rows of random draws hold the logarithms of
//! their shares.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListArray, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::artifact::distribution::Distributions;
use crate::artifact::rows::SampleCursor;
use crate::artifact::{Artifact, Kind, Part};
use crate::error::{Context, Error, Result};
use crate::files::atomic::Pending;
use crate::progress::{Bar, check_interrupt};

/// Samples of a batch.
const BATCH: usize = 64;

/// Writes each part of the `topk` in `topk` to a file of the same name in `out`; returns the
/// number of samples. `force` replaces files that are there.
///
/// # Errors
/// A damaged artifact, files that are there, a full disk.
///
/// # Memory
/// The rows of 64 samples as floats, and a row group of the output.
pub fn run(topk: &Path, out: &Path, force: bool) -> Result<u64> {
    let artifact = Artifact::open(topk, Kind::Topk)?;
    let parts = artifact.parts();
    let paths: Vec<PathBuf> = parts
        .iter()
        .map(|part| out.join(part.path().file_name().unwrap_or_default()))
        .collect();
    if let Some(path) = paths.iter().find(|path| path.exists() && !force) {
        return Err(Error::usage(format!("`{}` is there", path.display()))
            .remedy("choose another output folder, or replace it with `--force`"));
    }
    fs::create_dir_all(out).at(out)?;
    let bar = Bar::new("export", artifact.samples(), "samples");
    for (part, path) in parts.iter().zip(&paths) {
        export_part(part, path, &bar)?;
    }
    Ok(artifact.samples())
}

fn export_part(part: &Part, path: &Path, bar: &Bar) -> Result<()> {
    let (pending, file) = Pending::create(path)?;
    let level = ZstdLevel::try_new(3).at(path)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level));
    let mut samples = Nested::default();
    let schema = Nested::default().finish()?.schema();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties.build())).at(path)?;
    let mut cursor = SampleCursor::new(part)?;
    let info = part.info();
    for sample in info.first_sample..info.first_sample + info.samples {
        check_interrupt()?;
        let rows = cursor.seek(sample)?;
        let rows = rows.as_ref().map(Distributions::new).transpose()?;
        samples.push(sample, rows.as_ref());
        if samples.sample_id.len() == BATCH {
            writer.write(&samples.finish()?).at(path)?;
        }
        bar.advance(1);
    }
    writer.write(&samples.finish()?).at(path)?;
    writer.finish().at(path)?;
    pending.commit(writer.inner())
}

/// Rows being collected.
#[derive(Default)]
struct Nested {
    sample_id: Vec<u64>,
    /// Distributions of each sample.
    counts: Vec<usize>,
    positions: Vec<u32>,
    target_ids: Vec<u32>,
    target_logprobs: Vec<f32>,
    tail_logprobs: Vec<f32>,
    /// Entries of each distribution.
    lengths: Vec<usize>,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Nested {
    fn push(&mut self, sample: u64, rows: Option<&Distributions<'_>>) {
        let count = rows.map_or(0, Distributions::len);
        self.sample_id.push(sample);
        self.counts.push(count);
        for row in rows
            .iter()
            .flat_map(|rows| (0..count).map(|at| rows.row(at)))
        {
            self.positions.push(row.pos);
            self.target_ids.push(row.target_id);
            self.target_logprobs.push(row.target_logprob);
            self.tail_logprobs.push(row.tail_logprob);
            self.lengths.push(row.ids.len());
            self.ids.extend_from_slice(row.ids);
            self.logprobs.extend_from_slice(row.logprobs);
        }
    }

    /// Takes the rows collected so far.
    fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(self);
        let ids = lists(&rows.lengths, Arc::new(UInt32Array::from(rows.ids)));
        let logprobs = lists(&rows.lengths, Arc::new(Float32Array::from(rows.logprobs)));
        let of = |values: ArrayRef| lists(&rows.counts, values);
        let columns: [(&str, ArrayRef); 7] = [
            ("sample_id", Arc::new(UInt64Array::from(rows.sample_id))),
            ("positions", of(Arc::new(UInt32Array::from(rows.positions)))),
            (
                "target_ids",
                of(Arc::new(UInt32Array::from(rows.target_ids))),
            ),
            (
                "target_logprobs",
                of(Arc::new(Float32Array::from(rows.target_logprobs))),
            ),
            (
                "tail_logprobs",
                of(Arc::new(Float32Array::from(rows.tail_logprobs))),
            ),
            ("ids", of(ids)),
            ("logprobs", of(logprobs)),
        ];
        RecordBatch::try_from_iter(columns).during(|| "building exported rows".into())
    }
}

fn lists(lengths: &[usize], values: ArrayRef) -> ArrayRef {
    let element = Field::new("element", values.data_type().clone(), false);
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Arc::new(ListArray::new(Arc::new(element), offsets, values, None))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, UInt32Type, UInt64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::artifact::distribution::{Distribution, DistributionBuilder};
    use crate::artifact::{Existing, PartInfo, Provenance, Writer};

    #[test]
    fn samples_are_rows_of_lists_of_lists() {
        let dir = tempfile::tempdir().unwrap();
        let topk = dir.path().join("topk");
        let writer = Writer::create(&topk, Provenance::new(Kind::Topk), Existing::Refuse).unwrap();
        let mut rows = DistributionBuilder::topk();
        for (sample, pos) in [(5, 1), (5, 2), (7, 0)] {
            let row = Distribution {
                pos,
                target_id: 9,
                target_logprob: -2.0,
                tail_logprob: 0.25f32.ln(),
                ids: &[9, 3],
                logprobs: &[0.5f32.ln(), 0.25f32.ln()],
            };
            rows.push(sample, row);
        }
        let info = PartInfo {
            index: 0,
            first_sample: 5,
            samples: 3,
            last: true,
        };
        let mut part = writer.part(info).unwrap();
        part.write(&rows.finish().unwrap()).unwrap();
        part.finish().unwrap();

        let out = dir.path().join("out");
        assert_eq!(run(&topk, &out, false).unwrap(), 3);
        assert!(
            run(&topk, &out, false)
                .unwrap_err()
                .to_string()
                .contains("--force")
        );
        run(&topk, &out, true).unwrap();
        let file = fs::File::open(out.join("part-00000.parquet")).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let samples = column("sample_id");
        assert_eq!(samples.as_primitive::<UInt64Type>().values(), &[5, 6, 7]);
        let positions = column("positions");
        let positions = positions.as_list::<i32>();
        assert_eq!(
            positions.value(0).as_primitive::<UInt32Type>().values(),
            &[1, 2]
        );
        assert!(positions.value(1).is_empty());
        let ids = column("ids").as_list::<i32>().value(0);
        assert_eq!(ids.len(), 2);
        let ids = ids.as_list::<i32>().value(1);
        assert_eq!(ids.as_primitive::<UInt32Type>().values(), &[9, 3]);
        let logprobs = column("logprobs").as_list::<i32>().value(2);
        let logprobs = logprobs.as_list::<i32>().value(0);
        let logprobs = logprobs.as_primitive::<Float32Type>().values();
        assert!((logprobs[0].exp() - 0.5).abs() < 0.005 && logprobs[0] > logprobs[1]);
    }
}
