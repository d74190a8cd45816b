//! A whole run of a tiny recipe: what it leaves, what it skips, what it refuses.

use fuselm::artifact::{Artifact, Kind, RunDir};

use super::program::{Finished, Workshop, data_samples, files};
use super::rows::assert_equal_runs;

fn steps_done(finished: &Finished) -> u64 {
    finished.number_before(" steps done")
}

#[test]
fn a_run_leaves_every_artifact_and_does_not_repeat_itself() {
    let workshop = Workshop::new();
    let first = workshop.fuselm("run recipe.yml").exits(0);
    assert!(steps_done(&first) > 20, "{}", first.stderr);
    workshop.has_no_leftovers();

    let run = RunDir::new(workshop.path("run"));
    for kind in Kind::ALL {
        let found = run.list(kind).unwrap();
        assert!(!found.is_empty(), "no `{kind}`");
        for values in found {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let artifact = Artifact::open(&run.artifact(kind, &values), kind).unwrap();
            let parts = if kind.per_sample() { 3 } else { 1 };
            assert_eq!(artifact.parts().len(), parts, "{kind} {values:?}");
            assert!(artifact.rows() > 0, "{kind} {values:?}");
        }
    }
    // `twin` has the pivot's vocabulary: nothing to align, map or project.
    for kind in [Kind::Alignment, Kind::TokenMap, Kind::Projected] {
        assert_eq!(run.list(kind).unwrap(), [["atlas"], ["market"]]);
    }
    let checkpoints = [
        "clm",
        "merged",
        "target-atlas",
        "target-market",
        "target-twin",
    ];
    for name in checkpoints {
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            assert!(run.checkpoint(name).join(file).is_file(), "{name} {file}");
        }
    }

    let board = workshop
        .fuselm("sql --run run --name eval_scoreboard --format json")
        .exits(0);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&board.stdout).unwrap();
    let mut models: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["model"].as_str())
        .collect();
    models.sort_unstable();
    models.dedup();
    let mut expected = vec!["atlas", "market", "pivot", "twin"];
    expected.extend(checkpoints);
    expected.sort_unstable();
    assert_eq!(models, expected);
    for row in rows.iter().filter(|row| row["metric"] == "bpb") {
        let value = row["value"].as_f64().unwrap();
        assert!(value > 0.0 && value < 100.0, "{row}");
    }

    workshop.fuselm("check run").exits(0);

    let second = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps_done(&second), 0, "{}", second.stderr);
}

#[test]
fn only_what_depends_on_a_changed_option_is_done_again() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.edit("recipe.yml", "lambda: 0.5", "lambda: 0.25");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    // Three targets are trained, merged and evaluated; the baseline has no targets.
    assert_eq!(steps_done(&again), 3 + 1 + 4, "{}", again.stderr);

    workshop.edit("recipe.yml", "top_k: 8", "top_k: 6");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    // Four scores, two projections, three fusions; the models are not reevaluated but trained.
    assert_eq!(
        steps_done(&again),
        4 + 2 + 3 + 3 + 1 + 4,
        "{}",
        again.stderr
    );
    workshop.has_no_leftovers();

    // What is damaged or lost is made again, and nothing else.
    let part = "run/projected/teacher=atlas/part-00001.parquet";
    std::fs::remove_file(workshop.path(part)).unwrap();
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps_done(&again), 1, "{}", again.stderr);
}

#[test]
fn another_seed_trains_other_models_from_the_same_targets() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.edit("recipe.yml", "seed: 7", "seed: 8");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    // Three targets and the baseline are trained, the targets merged, all evaluated.
    assert_eq!(steps_done(&again), 4 + 1 + 5, "{}", again.stderr);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --threads 1").exits(0);
    let one = workshop.path("one");
    std::fs::rename(workshop.path("run"), &one).unwrap();
    workshop.fuselm("run recipe.yml --threads 3").exits(0);
    assert_equal_runs(&one, &workshop.path("run"));
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let workshop = Workshop::new();
    let before = files(&workshop.path(""));
    let plan = workshop.fuselm("run recipe.yml --dry-run").exits(0);
    for word in [
        "pivot",
        "score market",
        "train target-twin",
        "merge merged",
        "to do",
    ] {
        assert!(plan.stdout.contains(word), "no `{word}` in {}", plan.stdout);
    }
    assert_eq!(files(&workshop.path("")), before);
}

#[test]
fn a_plan_says_what_steps_will_write_and_have_written() {
    let workshop = Workshop::new();
    let sizes = || {
        let plan = workshop.fuselm("run recipe.yml --dry-run").exits(0).stdout;
        let of = |step: &str| -> String {
            let line = plan
                .lines()
                .find(|line| line.trim_start().starts_with(step));
            let size = line.and_then(|line| line.trim_end().rsplit("  ").next());
            size.unwrap_or_default().to_owned()
        };
        [
            "score market",
            "project market",
            "fuse market",
            "train target-market",
            "merge merged",
        ]
        .map(of)
    };
    let ahead = sizes();
    assert!(
        ahead.iter().all(|size| size.starts_with("about ")),
        "{ahead:?}"
    );
    // Who has read less cannot write more: these are made of the rows of the first.
    assert_eq!((&ahead[0], &ahead[0]), (&ahead[1], &ahead[2]));
    workshop.fuselm("run recipe.yml").exits(0);
    let there = sizes();
    let is_size = |size: &String| size.ends_with("KiB") && !size.contains("about");
    assert!(there.iter().all(is_size), "{there:?}");
}

#[test]
fn one_stage_can_be_run_alone() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let run = RunDir::new(workshop.path("run"));
    assert_eq!(run.list(Kind::Tokens).unwrap().len(), 3);
    assert!(run.list(Kind::Topk).unwrap().is_empty());
    workshop
        .fuselm("run recipe.yml --only fuse")
        .exits(1)
        .says(&["fuse market", "earlier stages"]);
    workshop
        .fuselm("run recipe.yml --only distil")
        .exits(2)
        .says(&["no stage or step `distil`", "`score`"]);
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only models").exits(0);
    std::fs::copy(workshop.path("recipe.yml"), workshop.path("other.yml")).unwrap();
    workshop
        .fuselm("run other.yml --run-dir run")
        .exits(2)
        .says(&["another recipe", "recipe.yml", "--run-dir"]);
    workshop
        .fuselm("run recipe.yml --run-dir models")
        .exits(2)
        .says(&["`models` is not empty", "--run-dir"]);
    assert!(!workshop.path("models/stages").exists());
}

#[test]
fn joint_fusion_by_mean_trains_one_target() {
    let workshop = Workshop::new();
    let fusion = "fuse: { mode: pairwise, rule: mince }";
    workshop.edit("recipe.yml", fusion, "fuse: { mode: joint, rule: avgce }");
    workshop.fuselm("run recipe.yml").exits(0);
    let run = RunDir::new(workshop.path("run"));
    assert_eq!(run.list(Kind::Targets).unwrap(), [["joint"]]);
    assert!(run.checkpoint("target").join("model.safetensors").is_file());
    workshop.fuselm("check run").exits(0);
    let second = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps_done(&second), 0);
    workshop.has_no_leftovers();
}

#[test]
fn the_quick_start_is_ready_to_run() {
    let workshop = Workshop::new();
    let recipe = data_samples().join("quickstart.yml");
    if !data_samples()
        .join("models/pivot/model.safetensors")
        .exists()
    {
        eprintln!("skipped: the sample models have no weights yet");
        return;
    }
    let recipe = recipe.to_string_lossy();
    let plan = workshop.fuselm(&format!("run {recipe} --run-dir x --dry-run"));
    let plan = plan.exits(0).stdout;
    for word in ["market", "atlas", "sql", "merge merged", "eval merged"] {
        assert!(plan.contains(word), "no `{word}` in {plan}");
    }
}
