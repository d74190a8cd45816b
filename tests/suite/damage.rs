//! Runs whose files are damaged, missing or more than there should be: nothing passes in silence.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use fuselm::artifact::{Kind, RunDir};

use super::program::{Workshop, copy_lines, data_samples, files, tiny_model};

const FLIPS_IN_PARTS: usize = 38;
const FLIPS_IN_CHECKPOINTS: usize = 20;

fn finished_run() -> Workshop {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop
}

/// Every file of the run with its bytes.
fn contents(workshop: &Workshop) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files(&workshop.path("run"));
    files
        .into_iter()
        .filter(|path| !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// `sql` with one statement.
fn sql(workshop: &Workshop, arguments: &str, statement: &str) -> Output {
    let mut command = workshop.command(&format!("sql --run run {arguments}"));
    command.arg(statement).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn statements_only_read() {
    let workshop = finished_run();
    let before = contents(&workshop);
    let out = workshop.path("out");
    let out = out.display();
    let steps = workshop.path("run/steps");
    for statement in [
        "INSERT INTO steps SELECT * FROM steps".to_owned(),
        "INSERT INTO models VALUES ('a', 'b', 'c', 'd', 'e', 'f', 1)".to_owned(),
        "INSERT OVERWRITE models SELECT * FROM models".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO steps SELECT * FROM steps".to_owned(),
        "UPDATE steps SET loss = 0".to_owned(),
        "DELETE FROM steps".to_owned(),
        format!("COPY (SELECT 1 AS x) TO '{out}/x.parquet'"),
        format!("COPY steps TO '{out}' STORED AS CSV"),
        format!("EXPLAIN ANALYZE COPY (SELECT 1 AS x) TO '{out}/x.parquet'"),
        format!(
            "CREATE EXTERNAL TABLE t (step BIGINT) STORED AS PARQUET LOCATION '{}/'",
            steps.display()
        ),
        "CREATE TABLE t AS SELECT * FROM steps".to_owned(),
        "CREATE OR REPLACE TABLE steps AS SELECT 1 AS step".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        "CREATE DATABASE d".to_owned(),
        "DROP TABLE steps".to_owned(),
        "DROP SCHEMA variants".to_owned(),
        "PREPARE p AS INSERT INTO steps SELECT * FROM steps".to_owned(),
        "EXECUTE p".to_owned(),
        "BEGIN".to_owned(),
        "SELECT 1; INSERT INTO steps SELECT * FROM steps".to_owned(),
        "WITH x AS (SELECT * FROM steps) INSERT INTO steps SELECT * FROM x".to_owned(),
    ] {
        workshop.write("statement.sql", &statement);
        for arguments in ["", "--explain"] {
            let output = sql(&workshop, arguments, &statement);
            assert_eq!(
                output.status.code(),
                Some(2),
                "{statement}: {}",
                said(&output)
            );
        }
        workshop
            .fuselm("sql --run run --file statement.sql")
            .exits(2);
        let line = "\"$FUSELM\" sql --run run - <statement.sql";
        super::program::shell(&workshop.path(""), line).exits(2);
        assert!(contents(&workshop) == before, "{statement}");
        assert!(!workshop.path("out").exists(), "{statement}");
    }
    let refused = sql(&workshop, "", "INSERT INTO steps SELECT * FROM steps");
    let words = said(&refused);
    assert!(
        words.contains("only read") && words.contains("--output"),
        "{words}"
    );
    // What people need.
    for statement in [
        "SELECT COUNT(*) FROM steps",
        "WITH x AS (SELECT * FROM steps) SELECT COUNT(*) FROM x",
        "EXPLAIN SELECT * FROM topk",
        "EXPLAIN ANALYZE SELECT COUNT(*) FROM steps",
        "SHOW TABLES",
        "SHOW COLUMNS FROM steps",
        "DESCRIBE steps",
        "SET datafusion.execution.batch_size = 100",
        "CREATE VIEW last AS SELECT MAX(step) FROM steps",
        "VALUES (1)",
    ] {
        let output = sql(&workshop, "", statement);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{statement}: {}",
            said(&output)
        );
    }
    for format in ["parquet", "csv", "json", "table"] {
        let name = format!("result.{format}");
        let output = sql(
            &workshop,
            &format!("--format {format} -o {name}"),
            "SELECT 1 AS x",
        );
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(workshop.path(&name).is_file());
    }
    assert!(contents(&workshop) == before);
}

#[test]
fn a_file_that_no_artifact_knows_is_an_error_everywhere() {
    let workshop = finished_run();
    let folder = workshop.path("run/topk/teacher=market");
    for name in [
        "9fW3_0.parquet",
        "part-00003.parquet",
        "copy/part-00000.parquet",
        "notes.txt",
    ] {
        let stray = folder.join(name);
        fs::create_dir_all(stray.parent().unwrap()).unwrap();
        fs::copy(folder.join("part-00001.parquet"), &stray).unwrap();
        let named = match name.split_once('/') {
            Some((inner, _)) => inner,
            None => name,
        };
        for command in [
            "check run",
            "inspect run/topk/teacher=market",
            "sql --run run --name topk_mass_by_k",
            "project --run run --teacher market --model models/market \
                --pivot-model models/pivot --out x",
            "run recipe.yml",
        ] {
            // The name of a part is known; that it is none too many is not.
            if name == "part-00003.parquet" && command == "run recipe.yml" {
                continue;
            }
            let finished = workshop.fuselm(command);
            let all = format!("{}{}", finished.stdout, finished.stderr);
            assert_ne!(finished.code, 0, "{command} with {name}\n{all}");
            assert!(
                all.contains("teacher=market"),
                "{command} with {name}\n{all}"
            );
            assert!(
                all.contains(named) || name.starts_with("part"),
                "{command}\n{all}"
            );
        }
        assert!(stray.exists(), "{name} was removed");
        fs::remove_file(&stray).unwrap();
        if name.contains('/') {
            fs::remove_dir(stray.parent().unwrap()).unwrap();
        }
    }
    fs::write(folder.join(".DS_Store"), "x").unwrap();
    fs::write(folder.join("._part-00000.parquet"), "x").unwrap();
    workshop.fuselm("check run").exits(0);
    workshop
        .fuselm("sql --run run --name topk_mass_by_k")
        .exits(0);
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(again.number_before(" steps done"), 0);
}

/// Flips a bit at a share of a file's length.
fn flip(path: &Path, share: f64) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    let mut bytes = whole.clone();
    let place = ((bytes.len() - 1) as f64 * share) as usize;
    bytes[place] ^= 1 << (place % 8);
    fs::write(path, bytes).unwrap();
    whole
}

#[test]
fn every_flipped_byte_is_seen_by_check_and_by_run_verify() {
    let workshop = finished_run();
    let run = workshop.path("run");
    let all = files(&run);
    let parts: Vec<&PathBuf> = Kind::ALL
        .iter()
        .map(|kind| {
            let folder = run.join(kind.name());
            let of_kind = |path: &&PathBuf| {
                path.starts_with(&folder) && path.extension().is_some_and(|e| e == "parquet")
            };
            all.iter().rfind(of_kind).unwrap()
        })
        .collect();
    let checkpoints: Vec<&PathBuf> = all
        .iter()
        .filter(|path| path.starts_with(run.join("checkpoints")))
        .collect();
    assert!(
        checkpoints.len() >= FLIPS_IN_CHECKPOINTS,
        "{}",
        checkpoints.len()
    );
    let mut places: Vec<(&PathBuf, f64)> = Vec::new();
    for at in 0..FLIPS_IN_PARTS {
        // Mostly data pages: the beginning of the file.
        places.push((parts[at % parts.len()], 0.03 + 0.9 * (at as f64 / 40.0)));
    }
    for at in 0..FLIPS_IN_CHECKPOINTS {
        places.push((
            checkpoints[at * checkpoints.len() / FLIPS_IN_CHECKPOINTS],
            at as f64 / 20.0,
        ));
    }
    let mut kinds = BTreeSet::new();
    for (path, share) in places {
        let whole = flip(path, share);
        let name = path.strip_prefix(&run).unwrap().display().to_string();
        for command in ["check run", "run recipe.yml --verify --dry-run"] {
            let finished = workshop.fuselm(command).exits(3);
            let words = format!("{}{}", finished.stdout, finished.stderr);
            assert!(words.contains(&name), "{command}: no `{name}` in\n{words}");
        }
        fs::write(path, whole).unwrap();
        kinds.insert(name.split('/').next().unwrap().to_owned());
    }
    assert_eq!(kinds.len(), Kind::ALL.len() + 1, "{kinds:?}");
    workshop.fuselm("check run").exits(0);
    let verified = workshop.fuselm("run recipe.yml --verify").exits(0);
    assert_eq!(
        verified.number_before(" steps done"),
        0,
        "{}",
        verified.stderr
    );
    verified.says(&["verified in"]);
}

#[test]
fn damage_in_a_variant_and_in_an_adapter_is_seen() {
    let workshop = Workshop::new();
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    let lora = "method: lora, lora: { rank: 2, save: both }";
    let recipe = recipe.replace("max_steps: 3", &format!("max_steps: 1, {lora}"));
    let variant = "variants: [ { name: token, set: { fuse.level: token } } ]\n";
    workshop.write("recipe.yml", &format!("{recipe}{variant}"));
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);
    workshop.fuselm("check run/variants/token").exits(0);
    for name in [
        "variants/token/targets/fusion=atlas/part-00001.parquet",
        "checkpoints/target-atlas/adapter/adapter_model.safetensors",
        "variants/token/checkpoints/clm/adapter/adapter_model.safetensors",
    ] {
        let path = workshop.path("run").join(name);
        let whole = flip(&path, 0.6);
        let found = workshop.fuselm("check run").exits(3).stdout;
        // The files of `clm` are those of the recipe's own.
        let inside = name
            .strip_prefix("variants/token/")
            .filter(|name| name.contains("clm"));
        assert!(found.contains(inside.unwrap_or(name)), "{found}");
        workshop.fuselm("run recipe.yml --verify").exits(3);
        // The same place on disk, so that links stay links.
        fs::write(&path, whole).unwrap();
    }
    workshop.fuselm("check run").exits(0);
}

#[test]
fn what_is_missing_is_made_again_by_run_verify() {
    let workshop = Workshop::new();
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    let variant = "variants: [ { name: token, set: { fuse.level: token } } ]\n";
    workshop.write("recipe.yml", &format!("{recipe}{variant}"));
    workshop.fuselm("run recipe.yml").exits(0);
    let run = workshop.path("run");
    for name in [
        "topk/teacher=market/part-00001.parquet",
        "checkpoints/clm/model.safetensors",
        "checkpoints/clm/tokenizer.json",
        "checkpoints/merged",
        "variants/token",
    ] {
        let path = run.join(name);
        match path.is_dir() {
            true => {
                fs::remove_dir_all(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
            false => fs::remove_file(&path).unwrap(),
        }
        let found = workshop.fuselm("check run").exits(3).stdout;
        assert!(
            found.contains(name.split("/part").next().unwrap()),
            "{found}"
        );
        let output = sql(&workshop, "", "SELECT COUNT(*) FROM steps");
        assert_eq!(output.status.code(), Some(1), "{name}: {}", said(&output));
        workshop.fuselm("run recipe.yml --verify").exits(0);
        workshop.fuselm("check run").exits(0);
        let again = workshop.fuselm("run recipe.yml").exits(0);
        assert_eq!(again.number_before(" steps done"), 0, "{name}");
    }
    // No step makes it.
    let (clm, own) = (run.join("checkpoints/clm"), run.join("checkpoints/own"));
    fs::create_dir(&own).unwrap();
    for path in files(&clm) {
        fs::copy(&path, own.join(path.file_name().unwrap())).unwrap();
    }
    workshop.fuselm("run recipe.yml --verify").exits(0);
    fs::remove_file(own.join("tokenizer.json")).unwrap();
    workshop
        .fuselm("run recipe.yml --verify")
        .exits(3)
        .says(&["own/tokenizer.json: is missing"]);
}

#[test]
fn a_run_that_is_not_whole_does_not_pass() {
    let workshop = finished_run();
    let run = workshop.path("run");
    let kept = workshop.path("kept");
    let mut tried = 0;
    for name in [
        "topk/teacher=market/part-00001.parquet",
        "topk/teacher=market/part-00002.parquet",
        "eval_items/model=merged/part-00000.parquet",
        "alignment/teacher=atlas",
        "steps/target=clm",
        "targets",
        "samples",
        "checkpoints/merged",
        "checkpoints/clm/model.safetensors",
        "checkpoints/clm/tokenizer.json",
    ] {
        let path = run.join(name);
        fs::rename(&path, &kept).unwrap();
        let empty = || match kept.is_dir() {
            true => fs::create_dir(&path).unwrap(),
            false => fs::write(&path, "").unwrap(),
        };
        for is_empty in [false, true] {
            if is_empty {
                empty();
            }
            let found = workshop.fuselm("check run").exits(3).stdout;
            let folder = name.split("/part").next().unwrap();
            assert!(found.contains(folder), "{name}: {found}");
            let output = sql(&workshop, "", "SELECT COUNT(*) FROM topk");
            let code = output.status.code().unwrap();
            assert!(code == 1 || code == 3, "{name}: {code} {}", said(&output));
            tried += 1;
        }
        match kept.is_dir() {
            true => fs::remove_dir(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        fs::rename(&kept, &path).unwrap();
    }
    assert_eq!(tried, 20);
    workshop.fuselm("check run").exits(0);

    // A stage that was stopped: only statements that need its rows are refused.
    fs::remove_file(run.join("stages/score-market.json")).unwrap();
    fs::remove_file(run.join("topk/teacher=market/part-00002.parquet")).unwrap();
    let output = sql(&workshop, "", "SELECT COUNT(*) FROM token_ce");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let words = said(&output);
    assert!(
        words.contains("`topk`") && words.contains("part 2 is missing"),
        "{words}"
    );
    assert_eq!(
        sql(&workshop, "", "SELECT COUNT(*) FROM steps")
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_folder_that_is_no_run_is_said() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("empty")).unwrap();
    for folder in ["empty", "models", "nowhere"] {
        for command in [
            format!("check {folder}"),
            format!("sql --run {folder} --name eval_scoreboard"),
            format!("sql --run {folder} --setup duckdb"),
            format!("eval --run {folder} --model models/pivot --data v=valid.jsonl"),
        ] {
            let finished = workshop.fuselm(&command).exits(1);
            finished.says(&[folder, "no"]);
        }
    }
    assert!(!workshop.path("nowhere").exists());
    // The current folder, where none is named.
    let output = workshop.command("sql").arg("SELECT 1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    fs::create_dir_all(workshop.path("begun/topk/teacher=x")).unwrap();
    let finished = workshop.fuselm("check begun").exits(3);
    assert!(
        finished.stdout.contains("topk/teacher=x"),
        "{}",
        finished.stdout
    );
    fs::create_dir_all(workshop.path("begun2/stages")).unwrap();
    workshop
        .fuselm("check begun2")
        .exits(1)
        .says(&["holds no artifact"]);
}

#[test]
fn results_from_before_digests_were_kept_are_said_once_and_used() {
    let workshop = finished_run();
    for path in files(&workshop.path("run")) {
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with("_part-") || name == "fuselm-digests.json" {
            fs::remove_file(path).unwrap();
        }
    }
    let again = workshop.fuselm("run recipe.yml --verify").exits(0);
    assert_eq!(again.number_before(" steps done"), 0, "{}", again.stderr);
    let words = "from before digests were kept";
    assert_eq!(again.stderr.matches(words).count(), 1, "{}", again.stderr);
    let checked = workshop.fuselm("check run").exits(0);
    assert_eq!(
        checked.stdout.matches(words).count(),
        1,
        "{}",
        checked.stdout
    );
    workshop
        .fuselm("sql --run run --name eval_scoreboard")
        .exits(0);
    // What is written anew has its records.
    fs::remove_file(workshop.path("run/topk/teacher=market/part-00001.parquet")).unwrap();
    workshop.fuselm("run recipe.yml").exits(0);
    let seal = "run/topk/teacher=market/_part-00001.json";
    assert!(workshop.path(seal).is_file());
}

/// A workshop whose model `market` is large enough for its digest to be remembered.
fn with_a_large_model() -> Workshop {
    let workshop = Workshop::new();
    let sample = data_samples().join("models/market");
    for (name, seed) in [("market", 11), ("other", 12)] {
        let dir = workshop.path("models").join(name);
        tiny_model(&sample, 2).widened(128).save(&dir, seed);
        let weights = fs::metadata(dir.join("model.safetensors")).unwrap();
        assert!(weights.len() > 1 << 20);
    }
    let chat = data_samples().join("chat/train.jsonl");
    copy_lines(&chat, &workshop.path("chat.jsonl"), 8);
    workshop
}

#[test]
fn other_weights_of_the_same_size_and_time_are_other_weights() {
    let workshop = with_a_large_model();
    workshop.fuselm("run recipe.yml --only models").exits(0);
    // Long enough ago for the digests to be remembered.
    std::thread::sleep(std::time::Duration::from_millis(100));
    workshop.fuselm("run recipe.yml").exits(0);
    let plan = || workshop.fuselm("run recipe.yml --dry-run").exits(0).stdout;
    assert!(plan().contains("nothing to do"), "{}", plan());
    let weights = workshop.path("models/market/model.safetensors");
    let modified = fs::metadata(&weights).unwrap().modified().unwrap();
    let other = fs::read(workshop.path("models/other/model.safetensors")).unwrap();
    // `cp -p`
    fs::write(&weights, other).unwrap();
    let file = fs::File::options().append(true).open(&weights).unwrap();
    file.set_modified(modified).unwrap();
    let plan = plan();
    let to_do = |step: &str| {
        let mut lines = plan.lines().filter(|line| line.contains(step));
        lines.any(|line| line.contains("  to do"))
    };
    assert!(to_do("score market") && to_do("eval market"), "{plan}");
}

#[test]
fn run_verify_does_not_believe_the_cache() {
    let workshop = with_a_large_model();
    let cache = workshop.path("cache");
    std::thread::sleep(std::time::Duration::from_millis(100));
    let run = |arguments: &str| {
        let mut command = workshop.command(&format!("run recipe.yml {arguments}"));
        let output = command.env("FUSELM_CACHE", &cache).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    run("");
    let mut entries = 0;
    for entry in files(&cache.join("digests")) {
        let text = fs::read_to_string(&entry).unwrap();
        let (stamp, _) = text.rsplit_once(' ').unwrap();
        fs::write(&entry, format!("{stamp} {}", "0".repeat(32))).unwrap();
        entries += 1;
    }
    assert!(entries > 0);
    assert!(!run("--dry-run").contains("nothing to do"));
    assert!(run("--dry-run --verify").contains("nothing to do"));
    // And what it has found is remembered.
    assert!(run("--dry-run").contains("nothing to do"));
}

#[test]
fn a_damaged_training_state_is_not_continued() {
    let workshop = Workshop::new();
    let steps = "max_steps: 40, checkpoint_every: 1";
    workshop.edit("recipe.yml", "max_steps: 3", steps);
    workshop.edit("recipe.yml", "epochs: 1", "epochs: 40");
    let state = workshop.path("run/checkpoints/target-market.state/state.safetensors");
    let mut child = workshop.command("run recipe.yml").spawn().unwrap();
    while !state.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for share in [0.3, 0.7, 0.99] {
        let whole = flip(&state, share);
        workshop.fuselm("run recipe.yml").exits(3).says(&[
            "state.safetensors",
            "damaged",
            "remove the folder",
        ]);
        fs::write(&state, whole).unwrap();
    }
}

#[test]
fn what_merge_and_extract_lora_write_has_its_record() {
    let workshop = finished_run();
    workshop.write(
        "ties.yml",
        "merge_method: ties\nbase_model: models/pivot\nmodels: [{ model: run/checkpoints/clm }]\n\
         parameters: { weight: 1.0, density: 0.5 }\n",
    );
    workshop
        .fuselm("merge ties.yml run/checkpoints/ties --out-shard-size 50000")
        .exits(0);
    workshop
        .fuselm("extract-lora models/pivot run/checkpoints/clm run/checkpoints/lora --rank 2")
        .exits(0);
    workshop.fuselm("check run").exits(0);
    let mut flips = 0;
    for folder in ["ties", "lora"] {
        for path in files(&workshop.path("run/checkpoints").join(folder)) {
            let whole = flip(&path, 0.8);
            let found = workshop.fuselm("check run").exits(3).stdout;
            // A flip in the record itself may look as one in what it is about.
            let name = path.file_name().unwrap().to_string_lossy();
            let is_record = name == "fuselm-digests.json" && found.contains(folder);
            assert!(is_record || found.contains(&*name), "{name}: {found}");
            fs::write(&path, whole).unwrap();
            flips += 1;
        }
    }
    assert!(flips >= 10, "{flips}");
    // A checkpoint's own list of runs is complete.
    let run = RunDir::open(workshop.path("run")).unwrap();
    let recorded = run.recorded().unwrap();
    assert!(
        recorded
            .iter()
            .any(|record| record.paths.contains(&PathBuf::from("checkpoints/merged")))
    );
}
