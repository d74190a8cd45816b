//! Whole trainings of tiny models.

mod parameters;
mod resuming;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::run::Hooks;
use super::*;
use crate::artifact::targets::{Target, TargetBuilder};
use crate::artifact::tokens::{SampleTokens, to_batch};
use crate::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer};
use crate::error::{Error, Result};
use crate::model::tests::families::families;

const VOCABULARY: u32 = 31;

/// A folder with random tokens and targets in two parts, and what trains a model on them.
struct Fixture {
    dir: TempDir,
    inputs: Train,
    existing: Existing,
}

fn config(tied: bool) -> Map<String, Value> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "initializer_range": 0.08,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 1,
    });
    config.as_object().unwrap().clone()
}

/// Sample `id`: a BOS and 5 to 40 tokens, the first three of which are not supervised.
fn sample(id: u64) -> SampleTokens {
    let len = 5 + (id * 7 % 36) as usize;
    let token =
        |i: usize| 2 + ((id * 37 + i as u64 * (11 + id)) % u64::from(VOCABULARY - 2)) as u32;
    SampleTokens {
        sample_id: id,
        ids: std::iter::once(0).chain((0..len).map(token)).collect(),
        byte_end: (0..=len as u32).collect(),
        supervised: (0..=len).map(|i| i > 3 && id % 10 != 9).collect(),
    }
}

fn write_tokens(dir: &Path, vocabulary: &str, parts: &[std::ops::Range<u64>]) {
    let provenance = Provenance::new(Kind::Tokens).vocabulary(vocabulary);
    let provenance = match vocabulary {
        "" => Provenance::new(Kind::Tokens),
        _ => provenance,
    };
    let writer = Writer::create(dir, provenance, Existing::Refuse).unwrap();
    for (index, range) in parts.iter().enumerate() {
        let samples: Vec<SampleTokens> = range.clone().map(sample).collect();
        let mut part = writer.part(info(index, range, parts.len())).unwrap();
        part.write(&to_batch(&samples).unwrap()).unwrap();
        part.finish().unwrap();
    }
}

fn info(index: usize, range: &std::ops::Range<u64>, parts: usize) -> PartInfo {
    PartInfo {
        index: index as u32,
        first_sample: range.start,
        samples: range.end - range.start,
        last: index + 1 == parts,
    }
}

/// Targets at every other supervised position, moved by `shift` positions.
fn write_targets(dir: &Path, vocabulary: &str, parts: &[std::ops::Range<u64>], shift: u32) {
    let provenance = Provenance::new(Kind::Targets).vocabulary(vocabulary);
    let writer = Writer::create(dir, provenance, Existing::Refuse).unwrap();
    for (index, range) in parts.iter().enumerate() {
        let mut rows = TargetBuilder::default();
        for id in range.clone() {
            let sample = sample(id);
            for pos in sample.predicted().filter(|pos| pos % 2 == 0) {
                let next = sample.ids[pos + 1];
                let row = Target {
                    pos: pos as u32 + shift,
                    ids: &[next, (next + 5) % VOCABULARY],
                    probs: &[0.75, 0.125],
                    tail: 0.125,
                };
                rows.push(id, row, "teacher");
            }
        }
        let mut part = writer.part(info(index, range, parts.len())).unwrap();
        part.write(&rows.finish().unwrap()).unwrap();
        part.finish().unwrap();
    }
}

const PARTS: [std::ops::Range<u64>; 3] = [0..16, 16..27, 27..40];

fn fixture(tied: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write_tokens(&path("tokens"), "", &PARTS);
    write_targets(&path("targets"), "v", &PARTS, 0);
    write_tokens(&path("valid"), "", std::slice::from_ref(&(0..4)));
    std::fs::create_dir(path("base")).unwrap();
    let options = TrainOptions {
        lr: 3e-3,
        epochs: 2,
        batch_tokens: 200,
        micro_batch_tokens: MicroBatchTokens::AtMost(64),
        ..TrainOptions::default()
    };
    let inputs = Train {
        pivot: Init::Random {
            config: config(tied),
            tokenizer: path("base"),
        },
        tokens: path("tokens"),
        targets: Some(path("targets")),
        valid_tokens: Some(path("valid")),
        out: path("out"),
        steps_out: path("steps"),
        name: "test".to_owned(),
        device: Device::Cpu,
        options,
    };
    Fixture {
        dir,
        inputs,
        existing: Existing::Refuse,
    }
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

fn run_until(f: &Fixture, mut after_step: impl FnMut(u64) -> Result<()>) -> Result<TrainSummary> {
    let hooks = Hooks {
        after_step: Some(&mut after_step),
        workers: None,
    };
    f.inputs.perform_with(f.existing, hooks)
}

fn run(f: &Fixture) -> Result<TrainSummary> {
    f.inputs.perform(f.existing)
}

/// The log without times, by column.
fn log(dir: &Path) -> BTreeMap<String, Vec<f64>> {
    let artifact = Artifact::open(dir, Kind::Steps).unwrap();
    let batch = artifact.parts()[0]
        .batches()
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let mut columns = BTreeMap::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.name() != "wall_ms" {
            let column =
                arrow::compute::cast(column, &arrow::datatypes::DataType::Float64).unwrap();
            let column =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(&column);
            let values = column.iter().map(|value| value.unwrap_or(-1.0)).collect();
            columns.insert(field.name().clone(), values);
        }
    }
    columns
}

#[test]
fn a_training_learns_logs_and_leaves_no_state() {
    let f = fixture(true);
    let summary = run(&f).unwrap();
    let log = log(&f.inputs.steps_out);
    let (loss, valid) = (&log["loss"], &log["valid_loss"]);
    assert_eq!(summary.steps as usize, loss.len());
    assert!(loss.len() >= 8, "{loss:?}");
    assert!(loss.last() < loss.first(), "{loss:?}");
    for (i, total) in loss.iter().enumerate() {
        let parts = 0.9 * log["loss_clm"][i] + 0.1 * log["loss_fusion"][i];
        assert!((total - parts).abs() < 1e-9);
        assert!(log["kl"][i] > 0.0 && log["kl"][i] < log["loss_fusion"][i]);
    }
    // Validated at the end of each epoch, and nowhere else.
    let validated: Vec<usize> = (0..valid.len()).filter(|i| valid[*i] >= 0.0).collect();
    assert_eq!(validated, [loss.len() / 2 - 1, loss.len() - 1]);
    assert_eq!(summary.valid_loss, valid.last().copied());
    assert!(f.inputs.out.join("config.json").exists());
    assert!(!f.dir.path().join("out.state").exists());
    let error = run(&f).unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
}

#[test]
fn every_family_learns_samples_by_heart() {
    for (name, changes) in families() {
        let mut model = config(false);
        model.remove("tie_word_embeddings");
        // The family is told by the class.
        model.remove("model_type");
        model.extend(changes.as_object().unwrap().clone());
        model.insert("head_dim".to_owned(), json!(8));
        // MPT's name of `hidden_size`; a cap of 4 would keep Gemma 2 from being sure.
        model.insert("d_model".to_owned(), json!(32));
        model.insert("final_logit_softcapping".to_owned(), json!(30.0));
        let mut f = fixture(false);
        f.inputs.pivot = Init::Random {
            config: model,
            tokenizer: f.dir.path().join("base"),
        };
        f.inputs.targets = None;
        f.inputs.valid_tokens = None;
        f.inputs.tokens = f.dir.path().join("few");
        write_tokens(&f.inputs.tokens, "", std::slice::from_ref(&(0..4)));
        f.inputs.options.epochs = 150;
        f.inputs.options.lr = 1e-2;
        f.inputs.options.batch_tokens = 4096;
        let summary = run(&f).unwrap();
        assert!(summary.loss < 0.05, "{name}: loss {}", summary.loss);
        assert_eq!(log(&f.inputs.steps_out)["loss_fusion"], vec![-1.0; 150]);
    }
}

#[test]
fn an_interrupted_training_ends_with_the_same_bytes() {
    let whole = fixture(true);
    run(&whole).unwrap();
    let (expected, expected_log) = (weights(&whole.inputs.out), log(&whole.inputs.steps_out));
    let steps = expected_log["step"].len() as u64;

    // Stopped by the user after each step; a state is saved every time.
    let f = fixture(true);
    for stop in 1..steps {
        let result = run_until(&f, |step| {
            if step == stop {
                Err(Error::Interrupted)
            } else {
                Ok(())
            }
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(!f.inputs.out.exists());
    }
    let summary = run(&f).unwrap();
    assert!(summary.resumed);
    assert_eq!(summary.steps, steps);
    assert_eq!(weights(&f.inputs.out), expected);
    assert_eq!(log(&f.inputs.steps_out), expected_log);

    // Killed: what was done since the last saved state is done again.
    let mut f = fixture(true);
    f.inputs.options.checkpoint_every = Some(2);
    let mut made = Vec::new();
    for stop in [1, 4, 5, 7] {
        let result = run_until(&f, |step| {
            made.push(step);
            if step >= stop {
                Err(Error::usage("killed"))
            } else {
                Ok(())
            }
        });
        assert!(result.is_err());
    }
    assert_eq!(made, [1, 1, 2, 3, 4, 5, 5, 6, 7]);
    run(&f).unwrap();
    assert_eq!(weights(&f.inputs.out), expected);
    assert_eq!(log(&f.inputs.steps_out), expected_log);
}

#[test]
fn a_state_of_another_training_says_what_differs() {
    let mut f = fixture(true);
    let stop = |f: &Fixture| -> Result<TrainSummary> { run_until(f, |_| Err(Error::Interrupted)) };
    assert!(stop(&f).is_err());
    f.inputs.options.lr = 1e-3;
    let error = run(&f).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("(lr: 0.003 -> 0.001)"), "{text}");
    assert!(text.contains("--force"), "{text}");
    assert_eq!(error.exit_code(), 2);
    f.existing = Existing::Replace;
    assert!(!run(&f).unwrap().resumed);

    // A damaged state is an error too, not a silent start from the beginning.
    let mut f = fixture(true);
    assert!(stop(&f).is_err());
    let state = f.dir.path().join("out.state/state.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() - 4]).unwrap();
    let text = run(&f).unwrap_err().to_string();
    assert!(text.contains("damaged"), "{text}");
    f.existing = Existing::Replace;
    run(&f).unwrap();
}

/// The weights that `f` trains with so many threads and workers.
fn weights_with(f: &Fixture, threads: usize, workers: usize) -> Vec<u8> {
    let run = || {
        let hooks = Hooks {
            workers: Some(workers),
            ..Hooks::default()
        };
        f.inputs.perform_with(f.existing, hooks).map(drop)
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(run).unwrap();
    weights(&f.inputs.out)
}

#[test]
fn the_number_of_threads_does_not_change_the_weights() {
    let result = [(1, 1), (3, 1), (2, 2), (2, 5)]
        .map(|(threads, workers)| weights_with(&fixture(false), threads, workers));
    assert!(result.iter().all(|other| *other == result[0]));
}

#[test]
fn nor_does_it_where_threads_share_products() {
    let (hidden, inner, micro) = (128, 320, 200);
    for tied in [false, true] {
        let result = [(1, 1), (2, 1), (3, 1), (2, 2), (5, 2), (3, 3)].map(|(threads, workers)| {
            let mut f = fixture(tied);
            let mut model = config(tied);
            model.insert("hidden_size".to_owned(), json!(hidden));
            model.insert("intermediate_size".to_owned(), json!(inner));
            let tokenizer = f.dir.path().join("base");
            f.inputs.pivot = Init::Random {
                config: model,
                tokenizer,
            };
            f.inputs.options.epochs = 1;
            f.inputs.options.batch_tokens = 3 * micro;
            f.inputs.options.micro_batch_tokens = MicroBatchTokens::AtMost(micro);
            weights_with(&f, threads, workers)
        });
        // Products of half a micro batch are shared already.
        assert!(micro / 2 * hidden * inner > gemm::get_threading_threshold());
        assert!(result.iter().all(|other| *other == result[0]), "{tied}");
    }
}

#[test]
fn checkpointing_gives_the_same_bytes() {
    let result = [Checkpointing::Off, Checkpointing::On].map(|checkpointing| {
        let mut f = fixture(true);
        f.inputs.options.gradient_checkpointing = checkpointing;
        run(&f).unwrap();
        weights(&f.inputs.out)
    });
    assert!(result[0] == result[1]);
}

#[test]
fn micro_batches_do_not_change_the_loss() {
    let mut losses = Vec::new();
    for (tokens, packing) in [(1, false), (64, true), (64, false), (100_000, true)] {
        let mut f = fixture(true);
        f.inputs.options.micro_batch_tokens = MicroBatchTokens::AtMost(tokens);
        f.inputs.options.packing = packing;
        f.inputs.options.max_steps = Some(2);
        let summary = run(&f).unwrap();
        // A micro batch of one row needs no padding.
        if !packing {
            assert_eq!(summary.padding > 0.0, tokens > 1, "{}", summary.padding);
        }
        losses.push(log(&f.inputs.steps_out));
    }
    for column in ["loss", "loss_clm", "loss_fusion", "kl", "grad_norm"] {
        for i in 0..2 {
            let expected = losses[0][column][i];
            for other in &losses[1..] {
                let found = other[column][i];
                // The second step sees weights that differ by rounding.
                let tolerance = if i == 0 { 1e-6 } else { 1e-4 };
                assert!(
                    (found - expected).abs() < tolerance * expected,
                    "{column}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn inputs_that_do_not_belong_together_are_errors() {
    let check = |change: &dyn Fn(&mut Fixture), message: &str| {
        let mut f = fixture(true);
        change(&mut f);
        let error = run(&f).unwrap_err().to_string();
        assert!(error.contains(message), "{error}, expected `{message}`");
        assert!(!f.inputs.out.exists());
    };
    let other = |f: &mut Fixture, write: &dyn Fn(&Path)| {
        let dir = f.dir.path().join("other");
        write(&dir);
        f.inputs.targets = Some(dir);
    };
    check(
        &|f| {
            let dir = f.dir.path().join("w");
            write_tokens(&dir, "w", &PARTS);
            f.inputs.tokens = dir;
        },
        "its ids belong to vocabulary `v`, expected `w`",
    );
    check(
        &|f| other(f, &|dir| write_targets(dir, "v", &PARTS[..2], 0)),
        "holds 27 samples in 2 parts",
    );
    check(
        &|f| other(f, &|dir| write_targets(dir, "v", &PARTS, 1)),
        "pos ",
    );
    check(
        &|f| other(f, &|dir| write_targets(dir, "v", &PARTS, 100)),
        "not supervised",
    );
    let change_config = |f: &mut Fixture, key: &str, value: u64| {
        if let Init::Random { config, .. } = &mut f.inputs.pivot {
            config.insert(key.to_owned(), value.into());
        }
    };
    check(
        &|f| change_config(f, "vocab_size", 9),
        "outside the model's 9 rows",
    );
    check(
        &|f| change_config(f, "max_position_embeddings", 20),
        "do not fit the model's context of 20",
    );
    check(&|f| f.inputs.options.lambda = 2.0, "`train.lambda`");
    check(&|f| f.inputs.tokens = f.dir.path().join("none"), "none");
}

#[test]
fn half_precision_trains_and_resumes_from_its_masters() {
    let result = [None, Some(3)].map(|stop| {
        let mut f = fixture(true);
        f.inputs.options.dtype = Precision::Bf16;
        if let Some(stop) = stop {
            let stopped = run_until(&f, |step| match step == stop {
                true => Err(Error::Interrupted),
                false => Ok(()),
            });
            assert!(stopped.is_err());
        }
        let summary = run(&f).unwrap();
        let log = log(&f.inputs.steps_out);
        assert!(log["loss"].last() < log["loss"].first());
        (weights(&f.inputs.out), summary.loss)
    });
    assert_eq!(result[0], result[1]);
    // Two bytes a parameter.
    let parameters = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3 + 64) + 31 * 32 + 32;
    assert!((2 * parameters..2 * parameters + 4096).contains(&result[0].0.len()));
}

#[test]
fn a_loss_that_is_no_number_names_step_and_samples() {
    let mut f = fixture(true);
    f.inputs.options.lr = 1e30;
    f.inputs.options.clip = 0.0;
    f.inputs.options.warmup_ratio = 0.0;
    let error = run(&f).unwrap_err().to_string();
    assert!(error.starts_with("step 2: the "), "{error}");
    assert!(error.contains("not a number, in samples "), "{error}");
}

/// Trains `stories260K` on a few stories. Without the shared material there is nothing to do.
#[test]
fn a_published_model_learns_stories() {
    let shared = std::env::var_os("FUSELM_TEST_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let model = shared.join("assets/models/stories260K");
    let stories = shared.join("assets/text/domains/stories_train.jsonl");
    if !model.exists() || !stories.exists() {
        eprintln!("{} is not there, skipped", shared.display());
        return;
    }
    let mut f = fixture(true);
    let tokenizer = crate::vocab::Tokenizer::load(&model).unwrap();
    let text = std::fs::read_to_string(stories).unwrap();
    let samples = text.lines().take(48).enumerate().map(|(id, line)| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = tokenizer.encode(line["text"].as_str().unwrap()).unwrap();
        let mut ids = vec![tokenizer.first_id().unwrap()];
        ids.extend(text.ids.iter().take(400));
        SampleTokens {
            sample_id: id as u64,
            byte_end: (0..ids.len() as u32).collect(),
            supervised: (0..ids.len()).map(|i| i > 0).collect(),
            ids,
        }
    });
    let samples: Vec<SampleTokens> = samples.collect();
    let provenance = Provenance::new(Kind::Tokens).vocabulary(&tokenizer.vocabulary().digest);
    let dir = f.dir.path().join("stories");
    let writer = Writer::create(&dir, provenance, Existing::Refuse).unwrap();
    let mut part = writer.part(info(0, &(0..samples.len() as u64), 1)).unwrap();
    part.write(&to_batch(&samples).unwrap()).unwrap();
    part.finish().unwrap();
    f.inputs.tokens = dir;
    f.inputs.targets = None;
    f.inputs.valid_tokens = None;
    f.inputs.pivot = Init::Model(model);
    f.inputs.options.batch_tokens = 4096;
    f.inputs.options.lr = 3e-4;
    let summary = run(&f).unwrap();
    let loss = &log(&f.inputs.steps_out)["loss_clm"];
    // 0.845 bits per byte at about 2.6 bytes a token.
    assert!((1.2..1.8).contains(&loss[0]), "{loss:?}");
    assert!(summary.loss < loss[0], "{loss:?}");
    assert!(f.inputs.out.join("tokenizer.json").exists());
}
