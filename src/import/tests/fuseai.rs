use arrow::datatypes::Float32Type;
use arrow::ipc::writer::StreamWriter;

use super::*;

/// One sample as FuseLLM's program stores it.
#[derive(Clone)]
pub(super) struct Stored {
    ids: Vec<i64>,
    mask: Option<Vec<i64>>,
    logits: Vec<Vec<f32>>,
    listed: Vec<Vec<i64>>,
    ce: Option<f32>,
    steps: Option<Vec<f32>>,
    labels: Option<Vec<i64>>,
}

/// Tokens 2 and 3 have 1/2 and 1/4; the others 1/8. Lists are padded by one beyond the text.
pub(super) fn stored(ids: &[u32], per_step: bool) -> Stored {
    let own = |id: &u32| match id {
        2 => -(0.5f32.ln()),
        3 => -(0.25f32.ln()),
        _ => -(0.125f32.ln()),
    };
    Stored {
        ids: ids.iter().map(|id| i64::from(*id)).collect(),
        mask: None,
        // Logits are log-probabilities plus 3.
        logits: vec![vec![3.0 + 0.5f32.ln(), 3.0 + 0.25f32.ln()]; ids.len() + 1],
        listed: vec![vec![2, 3]; ids.len() + 1],
        ce: Some(1.5),
        steps: per_step.then(|| ids[1..].iter().map(own).collect()),
        labels: None,
    }
}

/// Saves a data set as `datasets` does, one sample a file.
pub(super) fn save(dir: &Path, samples: &[Stored]) {
    fs::create_dir_all(dir).unwrap();
    let mut names = Vec::new();
    for (at, sample) in samples.iter().cloned().enumerate() {
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("input_ids", flat::<Int64Type>(vec![sample.ids])),
            ("per_step_logits", nested::<Float32Type>(&[sample.logits])),
            ("per_step_indices", nested::<Int64Type>(&[sample.listed])),
            ("metric_ce", Arc::new(Float32Array::from(vec![sample.ce]))),
        ];
        if let Some(mask) = sample.mask {
            columns.push(("attention_mask", flat::<Int64Type>(vec![mask])));
        }
        if let Some(labels) = sample.labels {
            columns.push(("labels", flat::<Int64Type>(vec![labels])));
        }
        if let Some(steps) = sample.steps {
            columns.push(("per_step_metric_ce", flat::<Float32Type>(vec![steps])));
        }
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        );
        let batch = batch.unwrap();
        let name = format!("data-{at:05}-of-{:05}.arrow", samples.len());
        let file = fs::File::create(dir.join(&name)).unwrap();
        let mut writer = StreamWriter::try_new(file, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        names.push(json!({ "filename": name }));
    }
    let state = json!({ "_data_files": names, "_format_type": null });
    fs::write(dir.join("state.json"), state.to_string()).unwrap();
}

fn save_fuseai(dir: &Path, per_step: bool) {
    save(dir, &IDS.map(|ids| stored(ids, per_step)));
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

/// Arrow's reader panics on offsets that point elsewhere, and sets memory aside for any length.
#[test]
fn flipped_bytes_are_errors() {
    let place = Place::new();
    save_fuseai(&place.at("set"), true);
    let file = place.at("set/data-00001-of-00002.arrow");
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(3) {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            fs::write(&file, &changed).unwrap();
            let samples = crate::import::fuseai::open(&place.at("set"));
            // Another number may be as good.
            let errors = samples.unwrap().samples.filter_map(Result::err);
            for error in errors {
                refused += 1;
                let error = error.to_string();
                assert!(error.contains("data-00001-of-00002.arrow"), "{at}: {error}");
            }
        }
    }
    assert!(refused > 100, "{refused}");
    for (from, bytes, word) in [
        (
            4,
            &i32::MAX.to_le_bytes()[..],
            "a message is longer than the file",
        ),
        (
            4,
            &(-5i32).to_le_bytes(),
            "a message is longer than the file",
        ),
    ] {
        let mut changed = whole.clone();
        changed[from..from + bytes.len()].copy_from_slice(bytes);
        fs::write(&file, &changed).unwrap();
        let error = place.error(Format::Fuseai, "set");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn samples_as_fusellm_stores_them() {
    // Text and EOS, no BOS.
    for per_step in [true, false] {
        let place = Place::new();
        let samples = [&[4, 5, EOS][..], &[1, 2, 3, EOS]].map(|ids| stored(ids, per_step));
        save(&place.at("set"), &samples);
        let summary = place.import(Format::Fuseai, "set").unwrap();
        assert_eq!((summary.rows, summary.without), (3, 2));
        assert_eq!((summary.end_more, summary.end_less), (2, 0));
        assert!(summary.reordered);
        // The mean counts EOS, the tokens do not.
        assert_eq!(summary.mean_with_end, if per_step { 0 } else { 2 });
        let rows: Vec<_> = place.rows().iter().map(|r| (r.0, r.1, r.2)).collect();
        assert_eq!(rows, [(0, 1, 2), (0, 2, 3), (1, 1, 5)]);
    }
}

#[test]
fn samples_as_fusechat_stores_them() {
    // Padded to a length, whatever the padding is.
    let padded = |ids: &[u32], with: u32| {
        let mut sample = stored(ids, true);
        sample.mask = Some([vec![1; ids.len()], vec![0; 9 - ids.len()]].concat());
        sample.ids.resize(9, i64::from(with));
        sample
    };
    for with in [PAD, EOS, 1] {
        let place = Place::new();
        let mut samples = IDS.map(|ids| padded(ids, with));
        // What is no text may hold anything.
        samples[1].logits[3] = vec![f32::NAN];
        save(&place.at("set"), &samples);
        let summary = place.import(Format::Fuseai, "set").unwrap();
        assert_eq!((summary.rows, summary.bounded), (5, 0));
        assert_eq!((summary.end_more, summary.end_less), (0, 0));
        samples[1].mask = Some(vec![1; 3]);
        save(&place.at("set"), &samples);
        let error = place.error(Format::Fuseai, "set");
        assert!(error.contains("an `attention_mask` of 3"), "{error}");
    }
}

#[test]
fn fuseai_lists_that_are_no_distributions() {
    let refused = |change: &dyn Fn(&mut Stored), per_step: bool, words: &[&str]| {
        let place = Place::new();
        let mut samples = IDS.map(|ids| stored(ids, per_step));
        change(&mut samples[0]);
        save(&place.at("set"), &samples);
        let error = place.error(Format::Fuseai, "set");
        for word in words {
            assert!(error.contains(word), "no `{word}` in {error}");
        }
    };
    let row = "of-00002.arrow row 0";
    let place = "of-00002.arrow row 0 token 2 (sample 0)";
    for per_step in [true, false] {
        let empty = |s: &mut Stored| (s.logits[1], s.listed[1]) = (vec![], vec![]);
        refused(&empty, per_step, &[place, "its list is empty"]);
        let nothing = |s: &mut Stored| s.logits[1] = vec![f32::NEG_INFINITY; 2];
        refused(&nothing, per_step, &[place, "its list is empty"]);
        let nan = |s: &mut Stored| s.logits[1][0] = f32::NAN;
        refused(&nan, per_step, &[place, "NaN is no logit"]);
        let twice = |s: &mut Stored| s.listed[1] = vec![2, 2];
        refused(&twice, per_step, &[place, "id 2 is listed twice"]);
        let beyond = |s: &mut Stored| s.listed[1][1] = i64::from(ROWS);
        refused(
            &beyond,
            per_step,
            &[place, "id 1024 is beyond the 1024 rows"],
        );
        let short = |s: &mut Stored| s.listed[1] = vec![2];
        refused(&short, per_step, &[place, "1 ids for 2 values"]);
        let negative = |s: &mut Stored| s.listed[1][0] = -1;
        refused(&negative, per_step, &["`per_step_indices`", "UInt32"]);
    }
    for (ce, word) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        refused(&|s| s.ce = Some(ce), false, &[row, "`metric_ce`", word]);
        let step = |s: &mut Stored| {
            if let Some(steps) = &mut s.steps {
                steps[1] = ce;
            }
        };
        refused(&step, true, &[place, word, "is no cross-entropy"]);
    }
    refused(&|s| s.ce = None, false, &[row, "`metric_ce` has a null"]);
    // Token 2 is listed with 1/2 of what the list's sum allows: with all of it, the list has 3/2.
    let sure = |s: &mut Stored| {
        if let Some(steps) = &mut s.steps {
            steps[1] = 0.0;
        }
    };
    refused(&sure, true, &[place, "its list holds 1.500"]);
    // Token 1 is not listed, and not less probable than what is.
    let first = |s: &mut Stored| {
        if let Some(steps) = &mut s.steps {
            steps[0] = 0.1;
        }
    };
    refused(&first, true, &["token 1 (sample 0)", "is not listed"]);
}

#[test]
fn fuseai_ids_of_rows_that_fill_up_the_head() {
    for per_step in [true, false] {
        let place = Place::new();
        let mut samples = IDS.map(|ids| stored(ids, per_step));
        samples[0].listed[1] = vec![2, 9];
        save(&place.at("set"), &samples);
        let summary = place.import(Format::Fuseai, "set").unwrap();
        assert_eq!((summary.rows, summary.padded), (5, 1));
        let row = &place.rows()[1];
        let (own, tail) = if per_step {
            (0.5, 0.5)
        } else {
            (2.0 / 3.0, 1.0 / 3.0)
        };
        assert!(near(row.3, own) && near(row.4, tail), "{row:?}");
        assert_eq!(row.5.len(), 1);
    }
}

#[test]
fn a_selection_that_is_not_written_out() {
    let place = Place::new();
    save_fuseai(&place.at("set"), false);
    let path = place.at("set/state.json");
    let with = |value: serde_json::Value| {
        let mut state: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        state["_indices_data_files"] = value;
        fs::write(&path, state.to_string()).unwrap();
    };
    with(json!([{ "filename": "indices.arrow" }]));
    let error = place.error(Format::Fuseai, "set");
    assert!(error.contains("`_indices_data_files`"), "{error}");
    for nothing in [json!(null), json!([])] {
        with(nothing);
        place.import(Format::Fuseai, "set").unwrap();
    }
}

#[test]
fn a_cross_entropy_of_no_label_is_none() {
    let place = Place::new();
    let mut samples = IDS.map(|ids| stored(ids, true));
    // FuseChat's program leaves the user's words out: they have a cross-entropy of 0.
    samples[0].labels = Some(vec![-100, -100, -100, 3]);
    samples[0].steps = Some(vec![0.0, 0.0, -(0.25f32.ln())]);
    save(&place.at("set"), &samples);
    let summary = place.import(Format::Fuseai, "set").unwrap();
    assert_eq!((summary.rows, summary.bounded), (5, 1));
    let rows = place.rows();
    // The list is everything at token 2; token 3 gives the normaliser away.
    assert!(near(rows[1].3, 2.0 / 3.0) && near(rows[2].3, 0.25));
    samples[0].labels = None;
    save(&place.at("set"), &samples);
    let error = place.import(Format::Fuseai, "set").unwrap_err().to_string();
    assert!(error.contains("row 0 token 1 (sample 0)"), "{error}");
}
