use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Float32Type, Int64Type, UInt8Type, UInt64Type};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use super::distillkit::{Config, Unpacker};
use super::*;
use crate::artifact::distribution::Distributions;
use crate::artifact::rows::numbers;
use crate::artifact::{PartInfo, tokens};
use crate::text::{SampleTranscript, Span, Transcript, transcripts_to_batch};
use crate::vocab;

/// Two samples in two parts, in a vocabulary of 6: BOS, then tokens of one byte.
const IDS: [&[u32]; 2] = [&[0, 1, 2, 3], &[0, 4, 5]];

/// Sample, position, target, its probability, tail, list.
type Row = (u64, u32, u32, f32, f32, Vec<(u32, f32)>);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        let tokens = (0..6u8).map(|id| vocab::Token {
            display: format!("t{id}"),
            bytes: if id == 0 { Vec::new() } else { vec![b'a' + id] },
            special: id == 0,
            role: (id == 0).then_some(vocab::Role::Bos),
            kind: vocab::Kind::Ordinary,
        });
        let vocabulary = Vocabulary::new(tokens.collect(), "digest".to_owned(), []);
        vocabulary
            .write(&place.at("vocab"), Existing::Refuse)
            .unwrap();
        let mut transcripts = Vec::new();
        let mut samples = Vec::new();
        for (sample_id, ids) in (0u64..).zip(IDS) {
            let len = ids.len() as u32 - 1;
            transcripts.push(SampleTranscript {
                sample_id,
                transcript: Transcript {
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
        for at in 0..2 {
            let tokens = tokens::to_batch(&samples[at..=at]).unwrap();
            place.write("tokens", Kind::Tokens, at, &tokens);
            let texts = transcripts_to_batch(&transcripts[at..=at]).unwrap();
            place.write("transcripts", Kind::Transcripts, at, &texts);
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, kind: Kind, at: usize, batch: &RecordBatch) {
        let provenance = Provenance::new(kind).vocabulary("digest");
        let writer = Writer::create(&self.at(name), provenance, Existing::Refuse).unwrap();
        let info = PartInfo {
            index: at as u32,
            first_sample: at as u64,
            samples: 1,
            last: at == 1,
        };
        let mut part = writer.part(info).unwrap();
        part.write(batch).unwrap();
        part.finish().unwrap();
    }

    fn inputs(&self, format: Format, from: &str) -> ImportInputs {
        ImportInputs {
            name: "m".to_owned(),
            from: self.at(from),
            format,
            config: None,
            tokens: self.at("tokens"),
            transcripts: self.at("transcripts"),
            vocab: self.at("vocab"),
            topk: self.at("topk"),
            sequence_metrics: self.at("metrics"),
        }
    }

    fn import(&self, format: Format, from: &str) -> Result<ImportSummary> {
        run(&self.inputs(format, from), Existing::Replace)
    }

    fn error(&self, format: Format, from: &str) -> String {
        let error = self.import(format, from).unwrap_err().to_string();
        assert!(!self.at("topk/part-00001.parquet").exists());
        error
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

#[test]
fn vllm() {
    let place = Place::new();
    let probs = [(2, 0.5), (3, 0.25)];
    let lines = IDS.map(|ids| vllm_line(ids, &probs)).join("\n\n");
    fs::write(place.at("x.jsonl"), &lines).unwrap();
    let summary = place.import(Format::Vllm, "x.jsonl").unwrap();
    assert_eq!((summary.samples, summary.rows), (2, 5));
    assert_eq!(
        (summary.without, summary.scaled, summary.bounded),
        (0, 0, 0)
    );
    let rows = place.rows();
    let (sample, pos, target, own, tail, list) = &rows[1];
    assert_eq!((*sample, *pos, *target), (0, 1, 2));
    assert!(near(*own, 0.5) && near(*tail, 0.25));
    assert_eq!(list.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3]);
    assert!(near(list[0].1, 0.5) && near(list[1].1, 0.25));
    // Token 1 is not among the best: its own probability, the same list.
    assert!(near(rows[0].3, 0.01) && rows[0].5.len() == 2);
    let expected = -(0.01f64.ln() + 0.5f64.ln() + 0.25f64.ln());
    assert!((place.nll()[0] - expected).abs() < 1e-6);
    // Again: nothing to do.
    let again = run(&place.inputs(Format::Vllm, "x.jsonl"), Existing::Refuse).unwrap();
    assert_eq!(again.samples, 0);
}

#[test]
fn a_file_without_bos() {
    let place = Place::new();
    let lines = IDS.map(|ids| vllm_line(&ids[1..], &[(2, 0.5), (3, 0.25)]));
    fs::write(place.at("x.jsonl"), lines.join("\n")).unwrap();
    let summary = place.import(Format::Vllm, "x.jsonl").unwrap();
    assert_eq!((summary.rows, summary.without), (3, 2));
    let rows: Vec<_> = place.rows().iter().map(|r| (r.0, r.1, r.2)).collect();
    assert_eq!(rows, [(0, 1, 2), (0, 2, 3), (1, 1, 5)]);
}

#[test]
fn samples_that_are_not_the_corpus() {
    let place = Place::new();
    let import = |lines: &[String]| {
        fs::write(place.at("x.jsonl"), lines.join("\n")).unwrap();
        place.error(Format::Vllm, "x.jsonl")
    };
    let probs = [(2, 0.5), (3, 0.25)];
    let good = vllm_line(IDS[0], &probs);
    let other = import(&[good.clone(), vllm_line(&[0, 4, 3], &probs)]);
    assert!(
        other.contains("x.jsonl line 2") && other.contains("sample 1: token 2 is 3 (`t3`)"),
        "{other}"
    );
    assert!(other.contains("expected 5 (`t5`)"), "{other}");
    let short = import(&[good.clone(), vllm_line(&[0, 4], &probs)]);
    assert!(short.contains("token 2 is nothing more"), "{short}");
    let beyond = import(&[good.clone(), vllm_line(&[0, 4, 5], &[(6, 0.5)])]);
    assert!(beyond.contains("token 1: id 6 is beyond"), "{beyond}");
    let fewer = import(std::slice::from_ref(&good));
    assert!(
        fewer.contains("has 1 samples") && fewer.contains("has 2"),
        "{fewer}"
    );
    let all = [good.clone(), vllm_line(IDS[1], &probs)];
    let more = import(&[all[0].clone(), all[1].clone(), good.clone()]);
    assert!(more.contains("has more than the 2 samples"), "{more}");
    let positive = import(&[vllm_line(IDS[0], &[(2, 1.5)]), good.clone()]);
    assert!(positive.contains("is no log-probability"), "{positive}");
    for (line, words) in [
        ("{", "no valid JSON"),
        ("{}", "`prompt_token_ids`"),
        (
            r#"{"prompt_token_ids": [-1], "prompt_logprobs": [null]}"#,
            "no id",
        ),
        (
            r#"{"prompt_token_ids": [0, 1], "prompt_logprobs": [null]}"#,
            "2 tokens with 1",
        ),
        (
            r#"{"prompt_token_ids": [0, 1], "prompt_logprobs": [null, {"x": 1}]}"#,
            "`x` is no id",
        ),
        (
            r#"{"prompt_token_ids": [0, 1], "prompt_logprobs": [null, {"2": -1.0}]}"#,
            "lacks the token itself, 1",
        ),
    ] {
        let error = import(&[line.to_owned()]);
        assert!(error.contains(words) && error.contains("line 1"), "{error}");
    }
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

/// Saves a data set as `datasets` does, one sample a file.
fn save_fuseai(dir: &Path, per_step: bool) {
    fs::create_dir_all(dir).unwrap();
    let mut names = Vec::new();
    for (at, ids) in IDS.iter().enumerate() {
        // Logits are log-probabilities plus 3; padded by one beyond the text.
        let logits = vec![vec![3.0 + 0.5f32.ln(), 3.0 + 0.25f32.ln()]; ids.len() + 1];
        let listed = vec![vec![2i64, 3]; ids.len() + 1];
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("input_ids", flat::<Int64Type>(vec![ids.clone()])),
            ("per_step_logits", nested::<Float32Type>(&[logits])),
            ("per_step_indices", nested::<Int64Type>(&[listed])),
            ("metric_ce", Arc::new(Float32Array::from(vec![1.5]))),
        ];
        if per_step {
            let own = |id: &i64| match id {
                2 => -(0.5f32.ln()),
                3 => -(0.25f32.ln()),
                _ => -(0.125f32.ln()),
            };
            let own: Vec<f32> = ids[1..].iter().map(own).collect();
            columns.push(("per_step_metric_ce", flat::<Float32Type>(vec![own])));
        }
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let name = format!("data-{at:05}-of-00002.arrow");
        let file = fs::File::create(dir.join(&name)).unwrap();
        let mut writer = StreamWriter::try_new(file, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        names.push(json!({ "filename": name }));
    }
    let state = json!({ "_data_files": names, "_format_type": null });
    fs::write(dir.join("state.json"), state.to_string()).unwrap();
}

#[test]
fn fuseai_without_its_normaliser() {
    let place = Place::new();
    save_fuseai(&place.at("set/train"), false);
    let summary = place.import(Format::Fuseai, "set").unwrap();
    assert_eq!((summary.rows, summary.bounded), (5, 3));
    let rows = place.rows();
    // The list is everything.
    assert!(near(rows[1].5[0].1, 2.0 / 3.0) && rows[1].4 == 0.0);
    assert!(near(rows[1].3, 2.0 / 3.0));
    assert_eq!(place.nll(), [4.5, 3.0]);
}

#[test]
fn fuseai_with_the_cross_entropy_of_each_token() {
    let place = Place::new();
    save_fuseai(&place.at("set"), true);
    let summary = place.import(Format::Fuseai, "set").unwrap();
    assert_eq!((summary.rows, summary.bounded), (5, 0));
    let rows = place.rows();
    // Token 2 is listed, so its cross-entropy gives the normaliser away.
    assert!(near(rows[1].5[0].1, 0.5) && near(rows[1].5[1].1, 0.25));
    assert!(near(rows[1].4, 0.25) && near(rows[1].3, 0.5));
    // Token 1 is not: it has 1/8, the list the rest.
    assert!(near(rows[0].3, 0.125) && near(rows[0].4, 0.125));
    assert!(near(rows[0].5[0].1, 0.875 * 2.0 / 3.0));
    let expected = -(0.125f64.ln() + 0.5f64.ln() + 0.25f64.ln());
    assert!((place.nll()[0] - expected).abs() < 1e-5);
}

#[test]
fn broken_data_sets() {
    let place = Place::new();
    fs::create_dir(place.at("empty")).unwrap();
    assert!(
        place
            .error(Format::Fuseai, "empty")
            .contains("no `state.json`")
    );
    let error = place.error(Format::Fuseai, "missing");
    assert!(error.contains("missing"), "{error}");
    save_fuseai(&place.at("set"), false);
    let file = place.at("set/data-00001-of-00002.arrow");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(
        place
            .error(Format::Fuseai, "set")
            .contains("data-00001-of-00002.arrow")
    );
    fs::write(&file, &whole).unwrap();
    fs::write(
        place.at("set/state.json"),
        r#"{"_data_files": [{"filename": "../x"}]}"#,
    )
    .unwrap();
    assert!(
        place
            .error(Format::Fuseai, "set")
            .contains("`../x` is no file name")
    );
    fs::write(place.at("set/state.json"), "{}").unwrap();
    assert!(place.error(Format::Fuseai, "set").contains("`_data_files`"));
}

/// Packs whole numbers, the most significant bit first.
fn pack(numbers: &[u64], width: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; (numbers.len() * width).div_ceil(8)];
    for (at, number) in numbers.iter().enumerate() {
        for bit in 0..width {
            if number >> (width - 1 - bit) & 1 == 1 {
                let place = at * width + bit;
                bytes[place / 8] |= 1 << (7 - place % 8);
            }
        }
    }
    bytes
}

const CONFIG: &str = "d: 6\nk: 3\nexact_k: 1\nexact_dtype: float32\npolynomial_terms: [0, 1]\n\
    term_dtype: float32\nresidual_bins: []\ndelta_encoding: false\nerror_diffusion: false\n";

/// ln 0.5 exactly, then ln 0.25 and ln 0.125 on a line.
fn token() -> Vec<u8> {
    let ln2 = 2f32.ln();
    let values = [-ln2, -2.0 * ln2, -ln2];
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn distillkit_tokens_by_hand() {
    let unpacker = |config: &str| Unpacker::new(Config::parse(config).unwrap());
    let plain = unpacker(CONFIG);
    let found = plain.logprobs(&token()).unwrap();
    for (at, x) in found.iter().enumerate() {
        assert!(
            (x + (at as f32 + 1.0) * 2f32.ln()).abs() < 1e-6,
            "{found:?}"
        );
    }
    // 101 001 011, and seven bits of filling.
    assert_eq!(plain.ids(&[0b1010_0101, 0b1000_0000]).unwrap(), [5, 1, 3]);
    assert!(plain.ids(&[0; 3]).unwrap_err().contains("3 bytes of ids"));
    assert!(
        plain
            .logprobs(&token()[1..])
            .unwrap_err()
            .contains("too few")
    );
    let long = [token(), vec![0]].concat();
    assert!(plain.logprobs(&long).unwrap_err().contains("1 too many"));

    // Differences, bfloat16, a square root over [0, 1], residuals of 4 bits and of 1.
    let config = "d: 152000\nk: 4\nexact_k: 1\nexact_dtype: bfloat16\n\
        polynomial_terms: [0, sqrt]\nterm_dtype: float16\nnormalize_t: true\n\
        residual_bins:\n- {scale_dtype: float32, element_bits: 4, num_elements: 2}\n\
        - {scale_dtype: float64, element_bits: 1, num_elements: 1}\n";
    let mut bytes = half::bf16::from_f32(-0.5).to_le_bytes().to_vec();
    bytes.extend(half::f16::from_f32(-1.0).to_le_bytes());
    bytes.extend(half::f16::from_f32(0.25).to_le_bytes());
    bytes.extend(0.125f32.to_le_bytes());
    bytes.extend(pack(&[8 + 3, 8 - 2], 4));
    bytes.extend(0.0625f64.to_le_bytes());
    bytes.extend(pack(&[1], 1));
    // f16 holds the square root of 1/2 as 0.70703.
    let root = 0.707_031_25;
    let steps = [
        -0.5,
        -1.0 + 0.375,
        -1.0 + 0.25 * root - 0.25,
        -0.75 + 0.0625,
    ];
    let mut sum = 0.0;
    for (found, step) in unpacker(config).logprobs(&bytes).unwrap().iter().zip(steps) {
        sum += step;
        assert!((found - sum).abs() < 1e-6, "{found} {sum}");
    }
    let ids = unpacker(config).ids(&pack(&[151_999, 0, 7, 131_072], 18));
    assert_eq!(ids.unwrap(), [151_999, 0, 7, 131_072]);

    for bad in [
        "d: 6\nk: 3\nexact_k: 4\n",
        "d: 6\nk: 0\nexact_k: 0\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 4, num_elements: 3}]\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 0, num_elements: 1}]\n",
        "k: 3\nexact_k: 1\n",
        "d: 6\nk: 3\nexact_k: 1\nexact_dtype: float8\n",
    ] {
        assert!(Config::parse(bad).is_err(), "{bad}");
    }
}

fn save_distillkit(dir: &Path, token: &[u8], extra: usize) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("compression_config.yaml"), CONFIG).unwrap();
    for (at, ids) in IDS.iter().enumerate() {
        let count = ids.len() - 1 + extra;
        let ids: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("input_ids", flat::<UInt64Type>(vec![ids])),
            (
                "compressed_logprobs",
                nested::<UInt8Type>(&[vec![token.to_vec(); count]]),
            ),
            (
                "bytepacked_indices",
                nested::<UInt8Type>(&[vec![pack(&[2, 3, 5], 3); count]]),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = fs::File::create(dir.join(format!("data_{at}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

#[test]
fn distillkit_files() {
    for extra in [0, 1] {
        let place = Place::new();
        save_distillkit(&place.at("kit"), &token(), extra);
        let summary = place.import(Format::Distillkit, "kit").unwrap();
        // Tokens 1 and 4 are not listed.
        assert_eq!((summary.rows, summary.bounded), (5, 2));
        let rows = place.rows();
        let list = &rows[1].5;
        assert_eq!(list.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3, 5]);
        for (entry, prob) in list.iter().zip([0.5, 0.25, 0.125]) {
            assert!(near(entry.1, prob), "{list:?}");
        }
        assert!(near(rows[1].4, 0.125) && near(rows[0].3, 0.125));
    }
}

#[test]
fn broken_distillkit_files() {
    let place = Place::new();
    save_distillkit(&place.at("kit"), &token()[4..], 0);
    let error = place.error(Format::Distillkit, "kit");
    assert!(
        error.contains("data_0.parquet row 0") && error.contains("too few"),
        "{error}"
    );
    save_distillkit(&place.at("kit"), &token(), 3);
    assert!(
        place
            .error(Format::Distillkit, "kit")
            .contains("4 tokens with 6 lists")
    );
    save_distillkit(&place.at("kit"), &token(), 0);
    let file = place.at("kit/data_1.parquet");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert!(
        place
            .error(Format::Distillkit, "kit")
            .contains("data_1.parquet")
    );
    fs::write(&file, &whole).unwrap();
    fs::remove_file(place.at("kit/compression_config.yaml")).unwrap();
    let error = place.error(Format::Distillkit, "kit");
    assert!(error.contains("compression_config.yaml"), "{error}");
    fs::create_dir(place.at("none")).unwrap();
    assert!(
        place
            .error(Format::Distillkit, "none")
            .contains("*.parquet")
    );
}

#[test]
fn lists_of_more_than_everything_are_scaled() {
    let mut summary = ImportSummary::default();
    let row = FoundRow {
        next: 1,
        ids: vec![4, 2, 9],
        logprobs: vec![0.8f32.ln(), 0.4f32.ln(), f32::NEG_INFINITY],
        ..FoundRow::default()
    };
    let row = complete(row, 7, 10, &mut summary).unwrap();
    assert_eq!((summary.scaled, summary.bounded), (1, 1));
    assert_eq!(row.ids, [4, 2]);
    assert!(near(row.logprobs[0].exp(), 2.0 / 3.0));
    // Not listed, and nothing is left: no more than the least.
    assert!(near(row.target_logprob.unwrap().exp(), 1.0 / 3.0));
    // An approximation may be above one by itself.
    let row = FoundRow {
        ids: vec![1, 2],
        logprobs: vec![0.5, 0.5],
        approximate: true,
        ..FoundRow::default()
    };
    let row = complete(row, 1, 10, &mut summary).unwrap();
    assert!(near(row.logprobs[0].exp(), 0.5));
}
