//! Runs that are killed at any moment end, started again, as if nothing had happened.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fuselm::artifact::{Kind, RunDir};

use super::program::{Workshop, copy_lines, data_samples, files, tiny_model};
use super::rows::assert_equal_runs;

/// Moments to strike at, in microseconds: the same in every run of the tests, without a pattern.
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: Duration) -> Duration {
        // Knuth's MMIX generator; its high bits are good.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
}

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
    workshop
        .fuselm("run recipe.yml")
        .exits(1)
        .says(&["another process works on this run", "--run-dir"]);
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
    workshop
        .fuselm("run recipe.yml")
        .exits(0)
        .says(&["0 steps done"]);
}

#[test]
fn a_killed_merge_continues() {
    let workshop = Workshop::new();
    let sample = data_samples().join("models/pivot");
    for seed in 0..4 {
        let model = tiny_model(&sample, 4).widened(256);
        model.save(&workshop.path(&format!("wide-{seed}")), seed);
    }
    let config = "\
merge_method: sce
base_model: wide-0
models: [{ model: wide-1 }, { model: wide-2 }, { model: wide-3 }]
parameters: { select_topk: 0.3 }
";
    workshop.write("merge.yml", config);
    let started = Instant::now();
    workshop.fuselm("merge merge.yml undisturbed").exits(0);
    let duration = started.elapsed();
    let mut moments = Moments(3);
    let mut killed = 0;
    for _ in 0..8 {
        let child = workshop.command("merge merge.yml merged").spawn().unwrap();
        sleep(duration / 10 + moments.below(duration / 3));
        killed += u32::from(kill(child));
        if workshop.path("merged").exists() {
            break;
        }
    }
    assert!(killed > 0);
    if !workshop.path("merged").exists() {
        workshop.fuselm("merge merge.yml merged").exits(0);
    }
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let bytes = |folder: &str| fs::read(workshop.path(folder).join(name)).unwrap();
        assert!(bytes("undisturbed") == bytes("merged"), "{name} differs");
    }
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
