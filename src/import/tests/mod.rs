//! Imports of small data sets, by hand.

mod distillkit;
mod fuseai;
mod matching;
mod rows;
mod vllm;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{ArrowPrimitiveType, Int64Type};
use arrow::record_batch::RecordBatch;
use serde_json::json;

use super::*;
use crate::artifact::distribution::Distributions;
use crate::artifact::rows::numbers;
use crate::artifact::{Existing, Provenance, Writer, tokens};
use crate::text::{SampleTranscript, Span, Transcript, transcripts_to_batch};
use crate::vocab;

/// Two samples.
const IDS: [&[u32]; 2] = [&[0, 1, 2, 3], &[0, 4, 5]];
/// A vocabulary of 8: BOS, tokens of one byte, EOS and padding; the head may have as many rows as
/// are usual.
const EOS: u32 = 6;
const PAD: u32 = 7;
const TOKENS: u32 = 8;
const ROWS: u32 = 1024;

/// Sample, position, target, its probability, tail, list.
type Row = (u64, u32, u32, f32, f32, Vec<(u32, f32)>);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::of(&IDS)
    }

    /// Samples in a part each.
    fn of(samples_of: &[&[u32]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        let role = |id: u32| match id {
            0 => Some(vocab::Role::Bos),
            EOS => Some(vocab::Role::Eos),
            PAD => Some(vocab::Role::Pad),
            _ => None,
        };
        let tokens = (0..TOKENS).map(|id| vocab::Token {
            display: format!("t{id}"),
            bytes: match role(id) {
                Some(_) => Vec::new(),
                None => vec![b'a' + id as u8],
            },
            special: role(id).is_some(),
            role: role(id),
            kind: vocab::Kind::Ordinary,
        });
        let vocabulary = Vocabulary::new(tokens.collect(), "digest".to_owned(), []);
        vocabulary
            .write(&place.at("vocab"), Existing::Refuse)
            .unwrap();
        let mut transcripts = Vec::new();
        let mut samples = Vec::new();
        for (sample_id, ids) in (0u64..).zip(samples_of) {
            let len = ids.len() as u32 - 1;
            transcripts.push(SampleTranscript {
                sample_id,
                transcript: Transcript {
                    bos: false,
                    text: ids[1..]
                        .iter()
                        .map(|id| (b'a' + *id as u8) as char)
                        .collect(),
                    spans: vec![Span {
                        role: "text".to_owned(),
                        byte_start: 0,
                        byte_end: len,
                        supervised: true,
                    }],
                },
            });
            samples.push(SampleTokens {
                sample_id,
                ids: ids.to_vec(),
                byte_end: (0..=len).collect(),
                supervised: (0..=len).map(|at| at > 0).collect(),
            });
        }
        for at in 0..samples.len() {
            let last = at + 1 == samples.len();
            let tokens = tokens::to_batch(&samples[at..=at]).unwrap();
            place.write("tokens", Kind::Tokens, (at, last), &tokens);
            let texts = transcripts_to_batch(&transcripts[at..=at]).unwrap();
            place.write("transcripts", Kind::Transcripts, (at, last), &texts);
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, kind: Kind, (at, last): (usize, bool), batch: &RecordBatch) {
        let provenance = Provenance::new(kind).vocabulary("digest");
        let writer = Writer::create(&self.at(name), provenance, Existing::Refuse).unwrap();
        let info = PartInfo {
            index: at as u32,
            first_sample: at as u64,
            samples: 1,
            last,
        };
        let mut part = writer.part(info).unwrap();
        part.write(batch).unwrap();
        part.finish().unwrap();
    }

    fn inputs(&self, format: Format, from: &str) -> Import {
        Import {
            name: "m".to_owned(),
            from: self.at(from),
            format,
            config: None,
            head: None,
            tokens: self.at("tokens"),
            transcripts: self.at("transcripts"),
            vocab: self.at("vocab"),
            topk: self.at("topk"),
            sequence_metrics: self.at("metrics"),
        }
    }

    fn import(&self, format: Format, from: &str) -> Result<ImportSummary> {
        self.inputs(format, from).perform(Existing::Replace)
    }

    /// Writes a file of lines, and imports it as vLLM's.
    fn import_lines(&self, lines: &[String]) -> Result<ImportSummary> {
        fs::write(self.at("x.jsonl"), lines.join("\n")).unwrap();
        self.import(Format::Vllm, "x.jsonl")
    }

    /// The error of an import, which has not written its last part.
    fn error(&self, format: Format, from: &str) -> String {
        let error = self.import(format, from).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let tokens = Artifact::open(&self.at("tokens"), Kind::Tokens).unwrap();
        let last = format!("topk/part-{:05}.parquet", tokens.parts().len() - 1);
        assert!(!self.at(&last).exists());
        error.to_string()
    }

    fn rows(&self) -> Vec<Row> {
        let artifact = Artifact::open(&self.at("topk"), Kind::Topk).unwrap();
        let mut rows = Vec::new();
        for part in artifact.parts() {
            for batch in part.batches().unwrap() {
                let batch = batch.unwrap();
                let found = Distributions::new(&batch).unwrap();
                rows.extend((0..found.len()).map(|at| {
                    let row = found.row(at);
                    let probs = row.logprobs.iter().map(|x| x.exp());
                    (
                        found.sample_id(at),
                        row.pos,
                        row.target_id,
                        row.target_logprob.exp(),
                        row.tail_logprob.exp(),
                        row.ids.iter().copied().zip(probs).collect(),
                    )
                }));
            }
        }
        rows
    }

    fn bytes(&self) -> Vec<u32> {
        let artifact = Artifact::open(&self.at("metrics"), Kind::SequenceMetrics).unwrap();
        let bytes = artifact.parts().iter().flat_map(|part| {
            let batch = part.batches().unwrap().next().unwrap().unwrap();
            let bytes = numbers::<arrow::datatypes::UInt32Type>(&batch, "bytes");
            bytes.unwrap().values().to_vec()
        });
        bytes.collect()
    }

    fn nll(&self) -> Vec<f64> {
        let artifact = Artifact::open(&self.at("metrics"), Kind::SequenceMetrics).unwrap();
        let nll = artifact.parts().iter().flat_map(|part| {
            let batch = part.batches().unwrap().next().unwrap().unwrap();
            let nll = numbers::<arrow::datatypes::Float64Type>(&batch, "nll");
            nll.unwrap().values().to_vec()
        });
        nll.collect()
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 0.01
}

fn vllm_line(ids: &[u32], probs: &[(u32, f64)]) -> String {
    let entries: Vec<serde_json::Value> = ids
        .iter()
        .enumerate()
        .map(|(at, target)| {
            if at == 0 {
                return json!(null);
            }
            let mut entries = serde_json::Map::new();
            for (rank, (id, prob)) in probs.iter().enumerate() {
                let entry = json!({"logprob": prob.ln(), "rank": rank + 1, "decoded_token": "x"});
                entries.insert(id.to_string(), entry);
            }
            // The true token is there even where it is not among the best.
            let own = json!({"logprob": 0.01f64.ln(), "rank": 17});
            entries.entry(target.to_string()).or_insert(own);
            entries.into()
        })
        .collect();
    json!({"prompt_token_ids": ids, "prompt_logprobs": entries}).to_string()
}

/// A column of lists of lists.
fn nested<T: ArrowPrimitiveType>(rows: &[Vec<Vec<T::Native>>]) -> ArrayRef {
    let mut builder = ListBuilder::new(ListBuilder::new(PrimitiveBuilder::<T>::new()));
    for row in rows {
        for list in row {
            builder.values().values().append_slice(list);
            builder.values().append(true);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn flat<T: ArrowPrimitiveType>(rows: Vec<Vec<T::Native>>) -> ArrayRef {
    let mut builder = ListBuilder::new(PrimitiveBuilder::<T>::new());
    for row in rows {
        builder.values().append_slice(&row);
        builder.append(true);
    }
    Arc::new(builder.finish())
}
