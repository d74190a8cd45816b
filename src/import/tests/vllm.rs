use super::*;
use crate::artifact::Existing;

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
    let again = place
        .inputs(Format::Vllm, "x.jsonl")
        .perform(Existing::Refuse)
        .unwrap();
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
    // What is not predicted is not counted, in bytes as in nats.
    assert_eq!(place.bytes(), [2, 1]);
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
    let beyond = import(&[good.clone(), vllm_line(&[0, 4, 5], &[(ROWS, 0.5)])]);
    assert!(
        beyond.contains("line 2 token 1 (sample 1): id 1024 is beyond"),
        "{beyond}"
    );
    let fewer = import(std::slice::from_ref(&good));
    assert!(
        fewer.contains("has 1 samples") && fewer.contains("has 2: none has the tokens of sample 1"),
        "{fewer}"
    );
    let all = [good.clone(), vllm_line(IDS[1], &probs)];
    let more = import(&[all[0].clone(), all[1].clone(), good.clone()]);
    assert!(
        more.contains("line 3: its tokens are those of a sample"),
        "{more}"
    );
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

/// A line in which token `next` of the first sample has these entries.
fn with_entries(next: usize, entries: &str) -> String {
    let line: serde_json::Value =
        serde_json::from_str(&vllm_line(IDS[0], &[(2, 0.5), (3, 0.25)])).unwrap();
    let mut parts: Vec<String> = line["prompt_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    parts[next] = entries.to_owned();
    format!(
        r#"{{"prompt_token_ids": [0, 1, 2, 3], "prompt_logprobs": [{}]}}"#,
        parts.join(", ")
    )
}

#[test]
fn entries_as_servers_and_python_write_them() {
    for nothing in ["-Infinity", "-9999.0", "-1e9", "\"-Infinity\""] {
        let place = Place::new();
        let entries = format!(
            r#"{{"2": {{"logprob": -0.5, "rank": 1}}, "3": {{"logprob": {nothing}, "rank": 2}}}}"#
        );
        let lines = [
            with_entries(2, &entries),
            vllm_line(IDS[1], &[(2, 0.5), (3, 0.25)]),
        ];
        place.import_lines(&lines).unwrap();
        let row = &place.rows()[1];
        assert_eq!(row.5.len(), 1);
        assert!(near(row.3, (-0.5f32).exp()) && near(row.4, 1.0 - (-0.5f32).exp()));
    }
    for (entries, words) in [
        (r#"{"2": -Infinity, "3": -0.5}"#, "true token 2"),
        (r#"{"2": -9999.0, "3": -0.5}"#, "true token 2"),
        (r#"{"2": NaN, "3": -0.5}"#, "NaN is no log-probability"),
        (r#"{"2": -0.5, "3": NaN}"#, "NaN is no log-probability"),
        (r#"{"2": -0.5, "3": Infinity}"#, "inf is no log-probability"),
        (r#"{"2": -0.1, "3": -0.5}"#, "its list holds 1.511"),
        (r#"{"2": -0.5, "3": 0.5}"#, "0.5 is no log-probability"),
        (
            r#"{"2": -3.5, "3": -3.5, "3": -3.6}"#,
            "id 3 is listed twice",
        ),
        (r#"{"2": -3.5, "2": -3.6}"#, "id 2 is listed twice"),
        (
            r#"{"2": -3.5, "3": -3.5, "03": -3.6}"#,
            "id 3 is listed twice",
        ),
        (
            r#"{"2": {"logprob": -0.1, "rank": 9}, "3": -0.9}"#,
            "above the least",
        ),
        (r#"{"2": -0.5, "3": "x"}"#, "id 3 has no `logprob`"),
        ("null", "has no log-probabilities"),
    ] {
        let place = Place::new();
        let other = vllm_line(IDS[1], &[(2, 0.5), (3, 0.25)]);
        let error = place.import_lines(&[with_entries(2, entries), other]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words), "no `{words}` in {error}");
        assert!(error.contains("x.jsonl line 1"), "{error}");
        assert!(error.contains("token 2"), "{error}");
    }
}

#[test]
fn ids_of_rows_that_fill_up_the_head() {
    let place = Place::new();
    let lines = IDS.map(|ids| vllm_line(ids, &[(2, 0.5), (9, 0.25)]));
    let summary = place.import_lines(&lines).unwrap();
    assert_eq!((summary.rows, summary.padded), (5, 5));
    let row = &place.rows()[1];
    assert_eq!(row.5.len(), 1);
    assert!(near(row.3, 0.5) && near(row.4, 0.5));
    // More rows than are usual must be known.
    let lines = IDS.map(|ids| vllm_line(ids, &[(2, 0.5), (1500, 0.25)]));
    let error = place.import_lines(&lines).unwrap_err().to_string();
    assert!(error.contains("id 1500 is beyond the 1024 rows"), "{error}");
    for (head, right) in [(1500, false), (1501, true), (3, false)] {
        let import = Import {
            head: Some(head),
            ..place.inputs(Format::Vllm, "x.jsonl")
        };
        let done = import.perform(Existing::Replace);
        assert_eq!(done.is_ok_and(|summary| summary.padded == 5), right);
    }
}

#[test]
fn files_as_the_corpus_reads_its_own() {
    use std::io::Write;
    let lines = IDS.map(|ids| vllm_line(ids, &[(2, 0.5), (3, 0.25)]));
    let text = lines.join("\n");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let place = Place::new();
    let bom = format!("\u{feff}{}\r\n\r\n", lines.join("\r\n"));
    for (name, content) in [
        ("x.jsonl", text.clone().into_bytes()),
        ("x.jsonl.gz", gzip.finish().unwrap()),
        ("x.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ("bom.jsonl", bom.into_bytes()),
        ("x.json", format!("[{}]", lines.join(",")).into_bytes()),
    ] {
        fs::write(place.at(name), content).unwrap();
        let summary = place.import(Format::Vllm, name).unwrap();
        assert_eq!((summary.samples, summary.rows), (2, 5), "{name}");
    }
}

#[test]
fn answers_of_a_server() {
    let body = |ids: &[u32]| -> serde_json::Value {
        serde_json::from_str(&vllm_line(ids, &[(2, 0.5), (3, 0.25)])).unwrap()
    };
    let choice = |ids: &[u32]| {
        let mut choice = body(ids);
        choice["text"] = json!("x");
        choice
    };
    let (a, b) = (IDS[0], IDS[1]);
    let both = json!({"id": "cmpl-1", "choices": [choice(a), choice(b)]});
    // Each prompt is completed twice.
    let twice = json!({"choices": [choice(a), choice(a), choice(b), choice(b)]});
    let mut chat = body(a);
    chat["choices"] = json!([{"message": {"content": "x"}, "logprobs": null}]);
    let batch = |answer: serde_json::Value| json!({"custom_id": "7", "response": {"status_code": 200, "body": answer}, "error": null});
    for lines in [
        vec![both.clone()],
        vec![twice.clone()],
        vec![
            json!({"choices": [choice(b)]}),
            json!({"choices": [choice(a)]}),
        ],
        vec![chat.clone(), body(b)],
        vec![batch(both)],
        vec![batch(chat), batch(body(b))],
    ] {
        let place = Place::new();
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let summary = place.import_lines(&lines).unwrap();
        assert_eq!((summary.samples, summary.rows), (2, 5), "{lines:?}");
    }
    // Two samples of the same tokens in one answer.
    let place = Place::of(&[a, a, b]);
    let summary = place.import_lines(&[twice.to_string()]).unwrap();
    assert_eq!(summary.samples, 3);
    for (line, words) in [
        (json!({"choices": []}), "has 0 samples"),
        (batch(json!(null)), "has no list `prompt_token_ids`"),
        (
            json!({"choices": [choice(a), {"text": "x"}]}),
            "line 1 choice 1: has no list `prompt_token_ids`",
        ),
    ] {
        let place = Place::new();
        let error = place
            .import_lines(&[line.to_string()])
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "no `{words}` in {error}");
    }
}
