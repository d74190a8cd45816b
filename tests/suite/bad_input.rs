//! Whatever is wrong with what a user gives: one clear message, the right exit code, before any
//! long work, and nothing half-written.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::program::{Finished, Workshop, files};

/// The command fails with `code` and a message of one line that has all `words`; every file that
/// was there is as it was, and nothing lies half-written.
#[track_caller]
pub fn refused(workshop: &Workshop, arguments: &str, code: i32, words: &[&str]) -> Finished {
    let before: Vec<(PathBuf, Vec<u8>)> = files(&workshop.path(""))
        .into_iter()
        .filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect();
    let finished = workshop.fuselm(arguments).exits(code).says(words);
    let errors = finished
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    workshop.has_no_leftovers();
    for (path, bytes) in before {
        let now = fs::read(&path).unwrap_or_default();
        assert!(now == bytes, "{} was changed", path.display());
    }
    finished
}

/// As [`refused`], by a run of the recipe, before any model was scored.
#[track_caller]
fn run_refused(workshop: &Workshop, code: i32, words: &[&str]) {
    refused(workshop, "run recipe.yml", code, words);
    assert!(!workshop.path("run/topk").exists(), "found after long work");
}

/// A hundred thousand threads would take minutes to start and then wait for each other.
#[test]
fn more_threads_than_help() {
    let workshop = Workshop::new();
    let words = ["--threads 100000", "expected at most", "cores"];
    refused(
        &workshop,
        "inspect models/pivot --threads 100000",
        2,
        &words,
    );
    workshop.fuselm("inspect models/pivot --threads 0").exits(0);
}

#[test]
fn missing_paths() {
    let workshop = Workshop::new();
    refused(
        &workshop,
        "run missing.yml",
        1,
        &["missing.yml", "No such file"],
    );
    refused(&workshop, "inspect missing", 1, &["missing"]);
    refused(&workshop, "check missing", 1, &["missing"]);
    refused(&workshop, "merge missing.yml out", 1, &["missing.yml"]);
    let eval = "eval --model models/pivot --data missing.jsonl";
    refused(&workshop, eval, 1, &["missing.jsonl"]);
    let corpus = "corpus --run r --model pivot=models/pivot --input missing.jsonl";
    refused(&workshop, corpus, 1, &["missing.jsonl"]);
    let model = "eval --model models/missing --data valid.jsonl";
    refused(&workshop, model, 2, &["models/missing", "no such folder"]);

    workshop.edit("recipe.yml", "valid.jsonl", "missing.jsonl");
    run_refused(&workshop, 1, &["missing.jsonl", "No such file"]);
    workshop.edit("recipe.yml", "missing.jsonl", "valid.jsonl");
    workshop.edit("recipe.yml", "[chat.jsonl]", "[missing.jsonl]");
    run_refused(&workshop, 1, &["missing.jsonl", "No such file"]);
    workshop.edit("recipe.yml", "[missing.jsonl]", "[chat.jsonl]");
    workshop.edit("recipe.yml", "models/atlas", "models/missing");
    run_refused(&workshop, 2, &["models/missing", "no such folder"]);
    workshop.edit("recipe.yml", "models/missing", "models/atlas");
    fs::remove_file(workshop.path("models/atlas/tokenizer.json")).unwrap();
    run_refused(&workshop, 1, &["models/atlas", "tokenizer.json"]);
}

#[test]
fn unreadable_paths() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("chat.jsonl")).unwrap();
    fs::create_dir(workshop.path("chat.jsonl")).unwrap();
    run_refused(&workshop, 1, &["chat.jsonl", "has no file with records"]);
    fs::remove_dir(workshop.path("chat.jsonl")).unwrap();
    fs::write(workshop.path("chat.jsonl"), b"{\"text\": \"\xff\xfe\"}\n").unwrap();
    run_refused(&workshop, 1, &["chat.jsonl"]);
    refused(&workshop, "run models", 1, &["models", "directory"]);
    workshop.write("file", "");
    refused(&workshop, "run recipe.yml --run-dir file", 1, &["file"]);
}

#[cfg(unix)]
#[test]
fn forbidden_paths() {
    use std::os::unix::fs::PermissionsExt;
    let workshop = Workshop::new();
    let weights = workshop.path("models/market/model.safetensors");
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&weights).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    run_refused(&workshop, 1, &["models/market", "ermission"]);
}

#[test]
fn recipes_with_mistakes() {
    for (old, new, words) in [
        (
            "sources:",
            "source:",
            ["line 8", "`source`", "did you mean `sources`?"],
        ),
        (
            "lambda",
            "lamda",
            ["line 15", "`lamda`", "did you mean `lambda`?"],
        ),
        (
            "rule: mince",
            "rule: mince, levle: token",
            ["line 14", "`levle`", "did you mean `level`?"],
        ),
        (
            "mode: pairwise",
            "mode: pairwize",
            ["line 14", "`pairwize`", "did you mean `pairwise`?"],
        ),
        (
            "max_steps: 3",
            "max_steps: many",
            ["line 15", "`train.max_steps`", "found `many`"],
        ),
        (
            "lambda: 0.5",
            "lambda: 1.5",
            ["recipe.yml", "`train.lambda`", "1.5"],
        ),
        ("top_k: 8", "top_k: 0", ["recipe.yml", "`top_k`", "0"]),
        (
            "name: market",
            "name: pivot",
            ["recipe.yml", "two models", "`pivot`"],
        ),
        (
            "name: market",
            "name: a/b",
            ["recipe.yml", "`a/b`", "folder name"],
        ),
        (
            "select_topk",
            "select_topp",
            ["select_topp", "did you mean", "`select_topk`"],
        ),
        (
            "merge_method: sce",
            "merge_method: scee",
            ["scee", "did you mean", "`sce`"],
        ),
        (
            "task: perplexity",
            "tsk: perplexity",
            ["line 19", "`tsk`", "did you mean `task`?"],
        ),
        ("seed: 7", "seed: [7", ["recipe.yml", "line", ""]),
    ] {
        let workshop = Workshop::new();
        workshop.edit("recipe.yml", old, new);
        run_refused(&workshop, 2, &words);
        assert!(!workshop.path("run").exists(), "{new}");
    }
}

#[test]
fn a_broken_line_of_json_is_named() {
    for (line, words) in [
        ("{\"messages\": [", ["chat.jsonl line 25", ""]),
        ("[1, 2]", ["chat.jsonl line 25", "object"]),
        (
            "{\"messages\": [{\"role\": \"user\"}]}",
            ["chat.jsonl line 25", "content"],
        ),
        ("{\"messages\": 7}", ["chat.jsonl line 25", "messages"]),
    ] {
        let workshop = Workshop::new();
        let good = fs::read_to_string(workshop.path("chat.jsonl")).unwrap();
        workshop.write("chat.jsonl", &format!("{good}{line}\n{good}"));
        run_refused(&workshop, 1, &words);
        assert!(!workshop.path("run/samples").exists(), "{line}");
    }
}

#[test]
fn text_that_is_no_utf8_is_named() {
    let workshop = Workshop::new();
    let mut text = fs::read(workshop.path("chat.jsonl")).unwrap();
    let second = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    text[second + 30] = 0xff;
    fs::write(workshop.path("chat.jsonl"), text).unwrap();
    run_refused(&workshop, 1, &["chat.jsonl line 2", "UTF-8 at byte 31"]);
}

#[test]
fn held_out_files_are_read_before_any_work() {
    let workshop = Workshop::new();
    let good = fs::read_to_string(workshop.path("valid.jsonl")).unwrap();
    workshop.write("valid.jsonl", &format!("{good}{{\"messages\": \n"));
    run_refused(&workshop, 1, &["valid.jsonl line 7", "JSON"]);
    workshop.write("valid.jsonl", &good);

    workshop.edit(
        "recipe.yml",
        "max_steps: 3",
        "max_steps: 3, valid: held.jsonl",
    );
    run_refused(&workshop, 1, &["held.jsonl", "No such file"]);
    workshop.write("held.jsonl", &format!("{good}\n[]\n"));
    run_refused(&workshop, 1, &["held.jsonl line 8", "object"]);
    workshop.write("held.jsonl", &good);

    // A base model cannot read a chat by itself.
    let config = workshop.path("models/atlas/tokenizer_config.json");
    fs::remove_file(&config).unwrap();
    run_refused(
        &workshop,
        1,
        &["valid.jsonl line 1", "`atlas`", "chat template"],
    );
    workshop.write("valid.jsonl", "{\"text\": \"Penicia to Rollira: 5.\"}\n");
    workshop.fuselm("run recipe.yml").exits(0);
}

#[test]
fn a_broken_configuration_is_named() {
    for (file, text, words) in [
        ("config.json", "{", ["models/atlas/config.json", "JSON"]),
        ("config.json", "[]", ["models/atlas/config.json", "object"]),
        (
            "tokenizer.json",
            "{",
            ["models/atlas/tokenizer.json", "JSON"],
        ),
        (
            "tokenizer.json",
            "{}",
            ["models/atlas/tokenizer.json", "tokenizer"],
        ),
        (
            "tokenizer_config.json",
            "{",
            ["models/atlas/tokenizer_config.json", "JSON"],
        ),
        (
            "chat_template.jinja",
            "{% for x %}",
            ["models/atlas/chat_template.jinja", "line 1"],
        ),
    ] {
        let workshop = Workshop::new();
        fs::write(workshop.path("models/atlas").join(file), text).unwrap();
        run_refused(&workshop, 1, &words);
    }
}

#[test]
fn a_sample_longer_than_a_context() {
    let workshop = Workshop::new();
    workshop.configure("market", "max_position_embeddings", json!(70));
    let words = ["chat.jsonl line ", "market", "70", "too_long: skip"];
    run_refused(&workshop, 1, &words);
    assert!(!workshop.path("run/samples").exists());

    workshop.edit(
        "recipe.yml",
        "  part_samples",
        "  too_long: skip\n  part_samples",
    );
    let run = workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let warnings = run.stderr.matches("too long").count();
    assert_eq!(warnings, 1, "{}", run.stderr);
}

#[test]
fn a_tokenizer_with_more_ids_than_the_model_has_rows() {
    let workshop = Workshop::new();
    workshop.configure("market", "vocab_size", json!(1500));
    run_refused(&workshop, 1, &["market", "1535", "1500"]);
}

#[test]
fn an_architecture_that_is_not_known() {
    let workshop = Workshop::new();
    // The type counts before the class.
    workshop.configure("market", "model_type", json!(null));
    workshop.configure("market", "architectures", json!(["MambaForCausalLM"]));
    let words = [
        "models/market/config.json",
        "MambaForCausalLM",
        "LlamaForCausalLM",
    ];
    run_refused(&workshop, 1, &words);
    workshop.configure("market", "architectures", json!(["LlamaForCausalLM"]));
    workshop.configure("market", "hidden_size", json!("wide"));
    run_refused(
        &workshop,
        1,
        &["models/market/config.json", "`hidden_size`", "wide"],
    );
}

#[test]
fn results_of_other_options_are_not_replaced_unasked() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let part = workshop.path("run/topk/teacher=market/part-00000.parquet");
    let before = fs::read(&part).unwrap();
    let score = "score --run run --name market --model models/market --top-k 5";
    let words = ["run/topk/teacher=market", "top_k: 8 -> 5", "--force"];
    refused(&workshop, score, 2, &words);
    assert!(fs::read(&part).unwrap() == before);
    workshop.fuselm(&format!("{score} --force")).exits(0);
    assert!(fs::read(&part).unwrap() != before);

    let train = "train --run run --model models/pivot --fusion market --max-steps 1";
    refused(
        &workshop,
        train,
        2,
        &["checkpoints/target-market", "--force"],
    );
    workshop.write(
        "merge.yml",
        "merge_method: linear\nmodels: [{ model: models/pivot }]\n",
    );
    refused(
        &workshop,
        "merge merge.yml run/checkpoints/merged",
        2,
        &["checkpoints/merged"],
    );
}

#[test]
fn samples_without_an_assistant_turn() {
    let workshop = Workshop::new();
    let good = fs::read_to_string(workshop.path("chat.jsonl")).unwrap();
    let silent = "{\"messages\": [{\"role\": \"user\", \"content\": \"Anyone there?\"}]}\n";
    workshop.write("chat.jsonl", &format!("{good}{silent}{silent}"));
    let run = workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let warning = "2 of 26 records have no assistant's turn";
    assert_eq!(run.stderr.matches(warning).count(), 1, "{}", run.stderr);
    assert_eq!(run.stderr.matches("warning: ").count(), 1, "{}", run.stderr);

    let strict = "corpus --run strict --model pivot=models/pivot --input chat.jsonl --strict";
    refused(
        &workshop,
        strict,
        1,
        &["chat.jsonl line 25", "no assistant's turn"],
    );
    assert!(!workshop.path("strict/samples").exists());

    workshop.write("chat.jsonl", silent);
    run_refused(&workshop, 1, &["no sample in 1 records"]);
    workshop.write("chat.jsonl", "");
    run_refused(&workshop, 1, &["no sample in 0 records"]);
    workshop.edit("recipe.yml", "[chat.jsonl]", "[]");
    run_refused(&workshop, 2, &["`corpus.inputs` names no file"]);
}

#[test]
fn a_merge_configuration_with_mistakes() {
    let workshop = Workshop::new();
    for (text, words) in [
        (
            "merge_method: linear\nmodels: [{ modell: models/pivot }]\n",
            ["modell", "model"],
        ),
        ("models: [{ model: models/pivot }]\n", ["merge_method", ""]),
        (
            "merge_method: sce\nmodels: [{ model: models/pivot }]\n",
            ["base_model", ""],
        ),
    ] {
        workshop.write("merge.yml", text);
        refused(&workshop, "merge merge.yml out", 2, &words);
    }
    // Models of different architectures or shapes cannot be merged.
    for (other, code, words) in [
        (
            "market",
            1,
            ["models/market/config.json", "one architecture"],
        ),
        ("twin", 2, ["models/twin", "3 layers"]),
    ] {
        let models = format!("[{{ model: models/pivot }}, {{ model: models/{other} }}]");
        let text =
            format!("merge_method: linear\nmodels: {models}\nparameters: {{ weight: 0.5 }}\n");
        workshop.write("merge.yml", &text);
        refused(&workshop, "merge merge.yml out", code, &words);
    }
    assert!(!workshop.path("out").exists());
}
