//! Rows of the `transcripts` artifact.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, StringArray, StructArray, UInt32Array,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::transcript::{Span, Transcript};
use crate::artifact::{Kind, Part, rows};
use crate::error::{Context, Error, Result};
use crate::units::SampleId;

/// The transcript of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleTranscript {
    /// The sample.
    pub sample_id: SampleId,
    /// Its text and spans.
    pub transcript: Transcript,
}

/// Reads a whole part.
///
/// # Errors
/// Samples out of order; spans that are not in order, overlap or reach beyond the text.
///
/// # Memory
/// The text of the part, and about 50 bytes a span.
pub fn read_transcripts(part: &Part) -> Result<Vec<SampleTranscript>> {
    let mut samples: Vec<SampleTranscript> = Vec::new();
    let mut expected = part.info().first_sample;
    for batch in part.batches()? {
        let batch = batch?;
        let sample_ids = rows::numbers::<UInt64Type>(&batch, "sample_id")?;
        let texts = rows::strings(&batch, "text")?;
        let begins = rows::booleans(&batch, "bos")?;
        let lists = rows::lists(&batch, "spans")?;
        for row in 0..batch.num_rows() {
            let sample_id = sample_ids.value(row);
            let place = || format!("{} sample {sample_id}", part.path().display());
            if sample_id != expected {
                return Err(Error::input(
                    place(),
                    format!("expected sample {expected} here"),
                ));
            }
            expected += 1;
            let text = texts.value(row).to_owned();
            let spans = spans(&lists.value(row))
                .filter(|spans| in_order(spans, &text))
                .ok_or_else(|| Error::input(place(), "`spans` do not lie in `text`, in order"))?;
            samples.push(SampleTranscript {
                sample_id,
                transcript: Transcript {
                    text,
                    bos: begins.value(row),
                    spans,
                },
            });
        }
    }
    if samples.len() as u64 != part.info().samples {
        return Err(Error::file(
            part.path(),
            format!(
                "holds {} samples, its footer says {}",
                samples.len(),
                part.info().samples
            ),
        ));
    }
    Ok(samples)
}

fn spans(list: &ArrayRef) -> Option<Vec<Span>> {
    let list = list.as_struct_opt()?;
    let role = list.column_by_name("role")?.as_string_opt::<i32>()?;
    let number = |name| list.column_by_name(name)?.as_primitive_opt::<UInt32Type>();
    let (start, end) = (number("byte_start")?, number("byte_end")?);
    let supervised = list.column_by_name("supervised")?.as_boolean_opt()?;
    let span = |row| Span {
        role: role.value(row).to_owned(),
        byte_start: start.value(row),
        byte_end: end.value(row),
        supervised: supervised.value(row),
    };
    Some((0..list.len()).map(span).collect())
}

fn in_order(spans: &[Span], text: &str) -> bool {
    let mut at = 0;
    spans.iter().all(|span| {
        let fits = span.byte_start >= at && span.byte_end >= span.byte_start;
        at = span.byte_end;
        fits && text.is_char_boundary(span.byte_start as usize)
            && text.is_char_boundary(span.byte_end as usize)
    })
}

/// The rows of `samples` as they are stored.
///
/// # Errors
/// More than 2 GiB of text in one part.
pub fn transcripts_to_batch(samples: &[SampleTranscript]) -> Result<RecordBatch> {
    let schema = Kind::Transcripts.schema();
    let building = || "building `transcripts` rows (a smaller `part_samples` may help)".to_owned();
    let all: Vec<&Span> = samples
        .iter()
        .flat_map(|sample| &sample.transcript.spans)
        .collect();
    let numbers = |value: fn(&Span) -> u32| {
        Arc::new(UInt32Array::from_iter_values(
            all.iter().map(|span| value(span)),
        ))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            all.iter().map(|span| &span.role),
        )),
        numbers(|span| span.byte_start),
        numbers(|span| span.byte_end),
        Arc::new(BooleanArray::from_iter(
            all.iter().map(|span| Some(span.supervised)),
        )),
    ];
    let element = match schema
        .field_with_name("spans")
        .during(building)?
        .data_type()
    {
        DataType::List(element) => element.clone(),
        other => return Err(Error::input("column `spans`", format!("has type {other}"))),
    };
    let fields = match element.data_type() {
        DataType::Struct(fields) => fields.clone(),
        other => return Err(Error::input("column `spans`", format!("has type {other}"))),
    };
    let structs = StructArray::try_new(fields, columns, None).during(building)?;
    let lengths = samples.iter().map(|sample| sample.transcript.spans.len());
    let offsets = OffsetBuffer::from_lengths(lengths);
    let spans = ListArray::try_new(element, offsets, Arc::new(structs), None).during(building)?;
    check_text_size(samples.iter().map(|sample| sample.transcript.text.len()))?;
    let texts = samples.iter().map(|sample| sample.transcript.text.as_str());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(
            samples.iter().map(|sample| sample.sample_id),
        )),
        Arc::new(StringArray::from_iter_values(texts)),
        Arc::new(BooleanArray::from_iter(
            samples.iter().map(|sample| Some(sample.transcript.bos)),
        )),
        Arc::new(spans),
    ];
    RecordBatch::try_new(schema, columns).during(building)
}

/// Arrow counts the bytes of a text column in 31 bits.
///
/// # Errors
/// The lengths add up to more.
pub fn check_text_size(lengths: impl Iterator<Item = usize>) -> Result<()> {
    let total: u64 = lengths.map(|length| length as u64).sum();
    if total > i32::MAX as u64 {
        return Err(Error::usage(format!(
            "one part would hold {total} bytes of text, at most 2 GiB fit"
        ))
        .remedy("choose a smaller `part_samples`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Artifact, Existing, PartInfo, Provenance, Writer};

    #[test]
    fn transcripts_survive_the_disk() {
        let samples: Vec<SampleTranscript> = ["héllo", "", "x"]
            .into_iter()
            .zip(5u64..)
            .map(|(text, sample_id)| SampleTranscript {
                sample_id,
                transcript: Transcript::plain(text).unwrap(),
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::create(
            dir.path(),
            Provenance::new(Kind::Transcripts),
            Existing::Refuse,
        )
        .unwrap();
        let info = PartInfo {
            first_sample: 5,
            samples: 3,
            ..PartInfo::ONLY
        };
        let mut part = writer.part(info).unwrap();
        part.write(&transcripts_to_batch(&samples).unwrap())
            .unwrap();
        part.finish().unwrap();
        let artifact = Artifact::open(dir.path(), Kind::Transcripts).unwrap();
        assert_eq!(read_transcripts(&artifact.parts()[0]).unwrap(), samples);
    }
}
