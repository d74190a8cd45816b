//! Runs that are killed at any moment end, started again, as if nothing had happened.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fuselm::artifact::{Kind, RunDir};

use super::moments::Moments;
use super::program::{Workshop, copy_lines, data_samples, files, read_json, tiny_model};
use super::rows::assert_equal_runs;

/// A run that takes long enough to be hit: 10 parts, 3 trainings of 12 steps, each saved.
fn long_run() -> Workshop {
    let workshop = Workshop::new();
    let chat = data_samples().join("chat/train.jsonl");
    copy_lines(&chat, &workshop.path("chat.jsonl"), 80);
    let steps = "max_steps: 12, checkpoint_every: 1";
    workshop.edit("recipe.yml", "max_steps: 3", steps);
    workshop.edit("recipe.yml", "epochs: 1", "epochs: 4");
    workshop
}

/// Waits until `path` is there or the process has ended.
fn wait_for(path: &Path, child: &mut Child) {
    let started = Instant::now();
    while !path.exists() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "{path:?}");
        sleep(Duration::from_micros(200));
    }
}

/// Kills the process; whether it was still at work.
fn kill(mut child: Child) -> bool {
    let at_work = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    at_work
}

#[test]
fn a_run_killed_in_every_stage_gives_equal_results() {
    let workshop = long_run();
    let run = workshop.path("run");
    workshop.fuselm("run recipe.yml").exits(0);
    let undisturbed = workshop.path("undisturbed");
    fs::rename(&run, &undisturbed).unwrap();

    let mut moments = Moments(1);
    let mut killed = 0;
    let stages = [
        ("tokens/vocab=pivot", 10),
        ("topk/teacher=pivot", 30),
        ("topk/teacher=market/part-00003.parquet", 20),
        ("topk/teacher=twin", 30),
        ("projected/teacher=market", 20),
        ("targets/fusion=twin", 20),
        ("checkpoints/target-market.state/state.safetensors", 40),
        ("checkpoints/target-atlas.state/state.safetensors", 100),
        ("checkpoints/target-atlas/model.safetensors", 4),
        ("checkpoints/target-twin.state/state.safetensors", 70),
        ("checkpoints/.merged.merging", 4),
        ("checkpoints/merged", 2),
        ("eval_items/model=clm", 10),
    ];
    for (place, within) in stages {
        let mut child = workshop.command("run recipe.yml").spawn().unwrap();
        wait_for(&run.join(place), &mut child);
        sleep(moments.below(Duration::from_millis(within)));
        killed += u32::from(kill(child));
    }
    assert!(killed >= 8, "only {killed} were hit");
    workshop.fuselm("run recipe.yml").exits(0);
    assert_equal_runs(&undisturbed, &run);
    workshop.has_no_leftovers();
}

#[test]
fn a_run_killed_at_random_moments_gives_equal_results() {
    let workshop = long_run();
    let run = workshop.path("run");
    let started = Instant::now();
    workshop.fuselm("run recipe.yml").exits(0);
    let duration = started.elapsed();
    let undisturbed = workshop.path("undisturbed");
    fs::rename(&run, &undisturbed).unwrap();

    let mut moments = Moments(2);
    for _ in 0..12 {
        let child = workshop.command("run recipe.yml").spawn().unwrap();
        sleep(duration / 20 + moments.below(duration / 5));
        kill(child);
    }
    workshop.fuselm("run recipe.yml").exits(0);
    assert_equal_runs(&undisturbed, &run);
    workshop.has_no_leftovers();
}

#[test]
fn what_a_killed_run_left_does_not_enter_one_of_other_options() {
    let workshop = long_run();
    let run = workshop.path("run");
    for place in [
        "topk/teacher=market/part-00001.parquet",
        "checkpoints/target-atlas.state/state.safetensors",
        "checkpoints/.merged.merging",
    ] {
        let mut child = workshop.command("run recipe.yml").spawn().unwrap();
        wait_for(&run.join(place), &mut child);
        kill(child);
        workshop.edit("recipe.yml", "max_tokens: 256", "max_tokens: 128");
        workshop.edit("recipe.yml", "lambda: 0.5", "lambda: 0.25");
        workshop.edit("recipe.yml", "select_topk: 0.5", "select_topk: 0.7");
        workshop.fuselm("run recipe.yml").exits(0);
        let after = workshop.path("after");
        fs::rename(&run, &after).unwrap();
        workshop.fuselm("run recipe.yml").exits(0);
        assert_equal_runs(&run, &after);
        workshop.has_no_leftovers();

        for folder in [run.as_path(), &after] {
            fs::remove_dir_all(folder).unwrap();
        }
        workshop.edit("recipe.yml", "max_tokens: 128", "max_tokens: 256");
        workshop.edit("recipe.yml", "lambda: 0.25", "lambda: 0.5");
        workshop.edit("recipe.yml", "select_topk: 0.7", "select_topk: 0.5");
    }
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let workshop = long_run();
    let mut first = workshop.command("run recipe.yml").spawn().unwrap();
    wait_for(&workshop.path("run/topk/teacher=pivot"), &mut first);
    workshop.fuselm("run recipe.yml").exits(2).says(&[
        "another process is writing",
        "fuselm run",
        "--run-dir",
    ]);
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
    workshop
        .fuselm("run recipe.yml")
        .exits(0)
        .says(&["0 steps done"]);
}

/// Four models that take a while to merge, and configurations `sce.yml` and `ties.yml`.
fn wide_models() -> Workshop {
    let workshop = Workshop::new();
    let sample = data_samples().join("models/pivot");
    for seed in 0..4 {
        let model = tiny_model(&sample, 4).widened(256);
        model.save(&workshop.path(&format!("wide-{seed}")), seed);
    }
    for (method, parameters) in METHODS {
        let config = format!(
            "merge_method: {method}\nbase_model: wide-0\n\
             models: [{{ model: wide-1 }}, {{ model: wide-2 }}, {{ model: wide-3 }}]\n\
             parameters: {{ {parameters} }}\n"
        );
        workshop.write(&format!("{method}.yml"), &config);
    }
    workshop
}

const METHODS: [(&str, &str); 2] = [
    ("sce", "select_topk: 0.3"),
    ("ties", "density: 0.4, weight: 0.5"),
];

/// Starts a merge and kills it once its journal has `lines` lines; whether it was still at work.
fn merge_until(workshop: &Workshop, arguments: &str, out: &str, lines: usize) -> bool {
    let journal = workshop.path(&format!(".{out}.merging/merge-journal.jsonl"));
    let mut child = workshop
        .command(&format!("merge {arguments} {out}"))
        .spawn()
        .unwrap();
    let done = || fs::read(&journal).map_or(0, |text| text.split(|byte| *byte == b'\n').count());
    while done() <= lines && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_micros(200));
    }
    kill(child)
}

/// Fails unless two folders have the same files, but for the card, which has the folder's name, and
/// its digest.
#[track_caller]
fn assert_equal_models(workshop: &Workshop, a: &str, b: &str) {
    let contents = |folder: &str| -> Vec<_> {
        let folder = workshop.path(folder);
        let content = |path: &std::path::PathBuf| {
            if path.ends_with("README.md") {
                return Vec::new();
            }
            if path.ends_with("fuselm-digests.json") {
                let mut record = read_json(path);
                record["files"]["README.md"] = serde_json::Value::Null;
                return record.to_string().into_bytes();
            }
            fs::read(path).unwrap()
        };
        let name = |path: &Path| path.strip_prefix(&folder).unwrap().to_path_buf();
        let files = files(&folder);
        files
            .iter()
            .map(|path| (name(path), content(path)))
            .collect()
    };
    for (a, b) in contents(a).into_iter().zip(contents(b)) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs", a.0.display());
    }
    assert_eq!(contents(a).len(), contents(b).len());
}

#[test]
fn a_killed_merge_continues() {
    let workshop = wide_models();
    for (method, _) in METHODS {
        for shards in ["", "--out-shard-size 3000000"] {
            let arguments = format!("{method}.yml {shards}");
            let undisturbed = format!("merge {arguments} undisturbed");
            workshop.fuselm(&undisturbed).exits(0);
            let sharded = workshop.path("undisturbed/model.safetensors.index.json");
            assert_eq!(sharded.exists(), !shards.is_empty());
            let mut killed = 0;
            for lines in [0, 1, 2, 7, 13, 20, 28, 34, 38] {
                killed += u32::from(merge_until(&workshop, &arguments, "merged", lines));
                if workshop.path("merged").exists() {
                    break;
                }
            }
            assert!(killed >= 4, "only {killed} were hit");
            if !workshop.path("merged").exists() {
                workshop
                    .fuselm(&format!("merge {arguments} merged"))
                    .exits(0);
            }
            assert_equal_models(&workshop, "undisturbed", "merged");
            workshop.has_no_leftovers();
            for folder in ["undisturbed", "merged"] {
                fs::remove_dir_all(workshop.path(folder)).unwrap();
            }
        }
    }
}

#[test]
fn a_killed_merge_notices_that_an_input_has_changed() {
    let workshop = wide_models();
    let input = workshop.path("wide-2/model.safetensors");
    let sample = data_samples().join("models/pivot");
    let other = tiny_model(&sample, 4).widened(256);
    other.save(&workshop.path("other"), 9);
    let other = fs::read(workshop.path("other/model.safetensors")).unwrap();

    assert!(merge_until(&workshop, "sce.yml", "merged", 8));
    // The same number of bytes, and the same time of the last change.
    let before = fs::metadata(&input).unwrap().modified().unwrap();
    fs::write(&input, other).unwrap();
    let file = fs::File::options().append(true).open(&input).unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    workshop
        .fuselm("merge sce.yml merged")
        .exits(0)
        .says(&["had other inputs or settings: starting again"]);
    workshop.fuselm("merge sce.yml undisturbed").exits(0);
    assert_equal_models(&workshop, "undisturbed", "merged");
    workshop.has_no_leftovers();
}

#[test]
fn an_interrupt_keeps_what_is_complete() {
    let workshop = long_run();
    workshop.edit("recipe.yml", "max_steps: 12", "max_steps: 50");
    let run = workshop.path("run");
    workshop.fuselm("run recipe.yml").exits(0);
    let undisturbed = workshop.path("undisturbed");
    fs::rename(&run, &undisturbed).unwrap();

    for place in [
        "topk/teacher=market/part-00002.parquet",
        "checkpoints/target-atlas.state/state.safetensors",
    ] {
        let mut child = workshop.command("run recipe.yml").spawn().unwrap();
        wait_for(&run.join(place), &mut child);
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        let mut stderr = String::new();
        let mut pipe = child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        // Nothing but complete files, and the state from which training continues.
        for path in files(&run) {
            let name = path.to_string_lossy();
            assert!(
                !name.contains(".tmp-") && !name.contains(".partial"),
                "{name}"
            );
        }
    }
    assert!(RunDir::new(&run).list(Kind::Steps).unwrap().len() < 3);
    workshop.fuselm("run recipe.yml").exits(0);
    assert_equal_runs(&undisturbed, &run);
    workshop.has_no_leftovers();
}
