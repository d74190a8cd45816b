//! Stages that several processes do, part by part: together they make what one makes.

use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::moments::Moments;
use super::program::{Workshop, copy_lines, data_samples, parts, shell, shell_command};
use super::rows::assert_equal_runs;

/// The stages of the recipe, in order, and whether they are done in shards.
const STAGES: [(&str, bool); 10] = [
    ("models", false),
    ("corpus", false),
    ("score", true),
    ("align", true),
    ("map", false),
    ("project", true),
    ("fuse", true),
    ("train", false),
    ("merge", false),
    ("eval", true),
];

/// A run of 10 parts.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let chat = data_samples().join("chat/train.jsonl");
    copy_lines(&chat, &workshop.path("chat.jsonl"), 80);
    workshop
}

/// The run that one process makes, in `undisturbed`: merges say where their models lay.
fn undisturbed(workshop: &Workshop) {
    workshop.fuselm("run recipe.yml").exits(0);
    fs::rename(workshop.path("run"), workshop.path("undisturbed")).unwrap();
}

fn start(workshop: &Workshop, stage: &str, shard: usize, of: usize) -> Child {
    let arguments = format!("run recipe.yml --only {stage} --shard {shard}/{of}");
    workshop.command(&arguments).spawn().unwrap()
}

#[test]
fn shards_at_once_make_what_one_run_makes() {
    let workshop = workshop();
    undisturbed(&workshop);
    for (stage, in_shards) in STAGES {
        if !in_shards {
            workshop
                .fuselm(&format!("run recipe.yml --only {stage}"))
                .exits(0);
            continue;
        }
        // One of them twice, as after a mistaken restart.
        let shards = [0, 1, 2, 3, 2].map(|shard| start(&workshop, stage, shard, 4));
        for child in shards {
            let output = child.wait_with_output().unwrap();
            let words = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{stage}: {words}");
        }
    }
    let last = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(last.number_before("steps done"), 0, "{}", last.stderr);
    assert_equal_runs(&workshop.path("undisturbed"), &workshop.path("run"));
    workshop.has_no_leftovers();
}

/// Single commands, of a run and with folders of their own.
#[test]
fn commands_take_shards() {
    let workshop = workshop();
    undisturbed(&workshop);
    let corpus = "corpus --run run --input chat.jsonl --max-tokens 256 --part-samples 8 \
        --model pivot=models/pivot --model market=models/market";
    workshop.fuselm(corpus).exits(0);
    let score = "score --run run --name market --model models/market --top-k 8";
    let first = workshop.fuselm(&format!("{score} --shard 1/3")).exits(0);
    assert!(first.stderr.contains("distributions"), "{}", first.stderr);
    let made = |dir: &str| parts(&workshop.path(dir)).len();
    assert_eq!(made("run/topk/teacher=market"), 3);
    // Who reads it is told what is missing.
    let align = "align --run run --pivot pivot --teacher market";
    workshop.fuselm(align).exits(0);
    workshop.fuselm("check run").exits(3);
    let check = workshop.fuselm("check run");
    let words = format!("{}{}", check.stdout, check.stderr);
    assert!(
        words.contains("parts 0, 2 to 3, 5 to 6, 8 are missing, and any after them"),
        "{words}"
    );
    for shard in ["0/3", "2/3", "1/3"] {
        workshop
            .fuselm(&format!("{score} --shard {shard}"))
            .exits(0);
    }
    for kind in ["topk", "sequence_metrics"] {
        let dir = format!("{kind}/teacher=market");
        let [ours, whole] =
            ["run", "undisturbed"].map(|run| parts(&workshop.path(&format!("{run}/{dir}"))));
        assert_eq!(ours.len(), whole.len());
        for (ours, whole) in ours.iter().zip(&whole) {
            assert!(
                fs::read(ours).unwrap() == fs::read(whole).unwrap(),
                "{ours:?}"
            );
        }
    }

    // More parts of an evaluation than one: by tokens.
    let lines = fs::read_to_string(data_samples().join("chat/train.jsonl")).unwrap();
    workshop.write("many.jsonl", &lines.repeat(4));
    let eval = "eval --model models/market --data many=many.jsonl";
    let whole = workshop.fuselm(&format!("{eval} --out whole")).exits(0);
    assert!(made("whole") > 1);
    workshop
        .fuselm(&format!("{eval} --shard 0/2"))
        .exits(2)
        .says(&["--out"]);
    workshop
        .fuselm(&format!("{eval} --out items --shard 1/2"))
        .exits(0);
    let both = workshop
        .fuselm(&format!("{eval} --out items --shard 0/2"))
        .exits(0);
    assert_eq!(both.stdout, whole.stdout);
    assert_eq!(made("items"), made("whole"));
    // Nothing is measured again.
    let again = workshop.fuselm(&format!("{eval} --out items")).exits(0);
    assert_eq!(again.stdout, whole.stdout);
}

#[test]
fn what_is_no_shard_is_said() {
    let workshop = workshop();
    for (arguments, words) in [
        (
            "run recipe.yml --only score --shard 4/4",
            "I from 0 to N - 1",
        ),
        ("run recipe.yml --only score --shard four", "I/N"),
        (
            "run recipe.yml --only score --shard slurm",
            "no task of a Slurm job array",
        ),
        ("run recipe.yml --shard 0/2", "--only"),
        (
            "run recipe.yml --only scored",
            "known are `models`, `corpus`",
        ),
        ("train --shard 0/2", "unexpected argument"),
    ] {
        workshop.fuselm(arguments).exits(2).says(&[words]);
    }
    workshop.fuselm("run recipe.yml --only models").exits(0);
    let whole = workshop.fuselm("run recipe.yml --only corpus --shard 0/2");
    whole.exits(2).says(&["`corpus` cannot be done in shards"]);

    // As Slurm says it.
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let task = "SLURM_ARRAY_TASK_ID=6 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=5 \
        SLURM_ARRAY_TASK_MAX=7 $FUSELM run recipe.yml --only 'score market' --shard slurm";
    shell(&workshop.path("."), task)
        .exits(0)
        .says(&["parts of other shards are missing"]);
    let indices: Vec<String> = parts(&workshop.path("run/topk"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(indices, ["part-00001", "part-00004", "part-00007"]);
}

/// Shards share a run folder; who wants it alone is told to wait, and the other way round.
#[test]
fn a_whole_run_and_shards_keep_each_other_out() {
    let workshop = workshop();
    for stage in ["models", "corpus"] {
        workshop
            .fuselm(&format!("run recipe.yml --only {stage}"))
            .exits(0);
    }
    let lock = workshop.path("run/stages/lock");
    // What holds a lock for a while, as a stopped process does.
    let hold = |how: &str| {
        let line = format!("exec flock --no-fork {how} {} sleep 60", lock.display());
        let child = shell_command(&workshop.path("."), &line).spawn().unwrap();
        let started = Instant::now();
        let is_held = || {
            let line = format!("flock --nonblock {} true", lock.display());
            shell(&workshop.path("."), &line).code != 0
        };
        while !is_held() {
            assert!(started.elapsed() < Duration::from_secs(60), "no lock");
            sleep(Duration::from_millis(10));
        }
        child
    };
    let score = |shard: &str| workshop.fuselm(&format!("run recipe.yml --only score {shard}"));
    let mut shared = hold("--shared");
    score("").exits(2).says(&["another process is writing"]);
    score("--shard 0/2").exits(0);
    shared.kill().unwrap();
    shared.wait().unwrap();
    let mut alone = hold("--exclusive");
    score("--shard 1/2")
        .exits(2)
        .says(&["another process is writing"]);
    alone.kill().unwrap();
    alone.wait().unwrap();
    score("--shard 1/2").exits(0);
}

/// A part that is half made on a machine that died: nobody sees its locks, and its lease is not
/// heard any more. Its clock may be wrong by an hour.
#[test]
fn the_parts_of_a_dead_machine_are_made_after_a_while() {
    let workshop = workshop();
    undisturbed(&workshop);
    for stage in ["models", "corpus"] {
        workshop
            .fuselm(&format!("run recipe.yml --only {stage}"))
            .exits(0);
    }
    let dir = workshop.path("run/topk/teacher=pivot");
    fs::create_dir_all(&dir).unwrap();
    let holder = json!({
        "process": 1, "host": "node07", "boot": "00000000",
        "lease": "11111111", "beat": 3
    });
    fs::write(dir.join(".part-00002.lease"), holder.to_string()).unwrap();
    let half = dir.join(".part-00002.parquet.tmp-00000000-22222222");
    fs::write(&half, "PAR1").unwrap();
    let line = "FUSELM_LEASE_SECONDS=2 $FUSELM run recipe.yml --only 'score pivot' --shard 0/2";
    let started = Instant::now();
    shell(&workshop.path("."), line)
        .exits(0)
        .says(&["waiting for part 2, made by process 1 on node07"]);
    assert!(started.elapsed() >= Duration::from_secs(2));
    let [ours, whole] = ["run", "undisturbed"]
        .map(|run| workshop.path(&format!("{run}/topk/teacher=pivot/part-00002.parquet")));
    assert!(fs::read(ours).unwrap() == fs::read(whole).unwrap());
    // What it had begun to write may still be written to, for all that is known.
    assert!(half.exists());
}

/// Shards of a stage, in any order, killed at any moment.
#[test]
fn shards_that_are_killed_lose_nothing() {
    let workshop = workshop();
    undisturbed(&workshop);
    let mut moments = Moments(3);
    let mut killed = 0;
    for (stage, in_shards) in STAGES {
        if in_shards {
            for shard in [2, 0, 1, 1, 0, 2] {
                let mut child = start(&workshop, stage, shard, 3);
                sleep(moments.below(Duration::from_millis(120)));
                killed += u32::from(child.try_wait().unwrap().is_none());
                child.kill().unwrap();
                child.wait().unwrap();
            }
            for shard in [1, 2, 0] {
                let output = start(&workshop, stage, shard, 3)
                    .wait_with_output()
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        } else {
            workshop
                .fuselm(&format!("run recipe.yml --only {stage}"))
                .exits(0);
        }
    }
    assert!(killed >= 8, "only {killed} were hit");
    workshop.fuselm("run recipe.yml").exits(0);
    assert_equal_runs(&workshop.path("undisturbed"), &workshop.path("run"));
    workshop.has_no_leftovers();
}

/// What `status` says of a run, from its folder alone.
#[test]
fn the_status_of_a_run_has_its_parts_and_who_makes_them() {
    let workshop = workshop();
    let status = || -> Value {
        let finished = workshop.fuselm("status run --json").exits(0);
        serde_json::from_str(&finished.stdout).unwrap()
    };
    let artifact = |status: &Value, name: &str| -> Value {
        let all = status["artifacts"].as_array().unwrap();
        let found = all.iter().find(|artifact| artifact["artifact"] == name);
        found.cloned().unwrap_or(Value::Null)
    };
    workshop
        .fuselm("status run")
        .exits(1)
        .says(&["no run folder here"]);
    for stage in ["models", "corpus"] {
        workshop
            .fuselm(&format!("run recipe.yml --only {stage}"))
            .exits(0);
    }
    workshop
        .fuselm("run recipe.yml --only score --shard 1/3")
        .exits(0);
    let topk = "topk/teacher=pivot";
    let found = artifact(&status(), topk);
    assert_eq!((&found["parts"], &found["of"]), (&json!(3), &json!(10)));
    assert_eq!(found["making"], json!([]));

    // On another machine, which is heard of or not; on this one, that has ended.
    let lease = |part: u32, boot: &str| {
        let holder = json!({
            "process": 7, "host": "node07", "job": "12_3", "boot": boot, "lease": "1", "beat": 3
        });
        let path = workshop.path(&format!("run/{topk}/.part-{part:05}.lease"));
        fs::write(path, holder.to_string()).unwrap();
    };
    lease(2, "00000000");
    fs::write(workshop.path(&format!("run/{topk}/.part-00005.lease")), "?").unwrap();
    let found = artifact(&status(), topk);
    let maker = |at: usize| found["making"][at].clone();
    assert_eq!(maker(0)["part"], 2);
    assert_eq!(maker(0)["holder"]["host"], "node07");
    assert_eq!(maker(0)["is_dead"], false);
    assert_eq!(
        (&maker(1)["part"], &maker(1)["holder"]),
        (&json!(5), &Value::Null)
    );
    let shown = workshop.fuselm("status run").exits(0).stdout;
    for words in [
        "3 of 10",
        "part 2: process 7 on node07 (job 12_3)",
        "part 5: another process",
    ] {
        assert!(shown.contains(words), "no `{words}` in:\n{shown}");
    }
    // Nobody is at work that could be waited for after a second look.
    let line = "FUSELM_LEASE_SECONDS=1 timeout 60 $FUSELM status run --watch --every 1";
    let watched = shell(&workshop.path("."), line).exits(0).stdout;
    assert!(watched.contains("which has ended"), "{watched}");

    for part in [2, 5] {
        fs::remove_file(workshop.path(&format!("run/{topk}/.part-{part:05}.lease"))).unwrap();
    }
    workshop.fuselm("run recipe.yml").exits(0);
    let whole = status();
    assert_eq!(artifact(&whole, topk)["parts"], 10);
    assert_eq!(artifact(&whole, "eval_items/model=pivot")["of"], 1);
    let checkpoints = whole["checkpoints"].as_array().unwrap();
    assert!(
        checkpoints
            .iter()
            .all(|checkpoint| checkpoint["is_there"] == true)
    );
    assert!(
        checkpoints
            .iter()
            .any(|checkpoint| checkpoint["checkpoint"] == "checkpoints/merged")
    );
}

/// What a variant shares is not made for it again, and comes to it once all shards are done.
#[test]
fn shards_make_nothing_twice_for_variants() {
    let workshop = workshop();
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    let variants = "variants:\n  - { name: other, set: { train.lambda: 0.7 } }\n";
    workshop.write("recipe.yml", &(recipe + variants));
    undisturbed(&workshop);
    for stage in ["models", "corpus"] {
        workshop
            .fuselm(&format!("run recipe.yml --only {stage}"))
            .exits(0);
    }
    let shard = |at: usize| {
        let score = workshop.fuselm(&format!("run recipe.yml --only score --shard {at}/2"));
        score.exits(0)
    };
    // Four models, and the same four of the variant.
    let first = shard(0);
    assert_eq!(
        (
            first.number_before("steps done"),
            first.number_before("shared, ")
        ),
        (4, 4)
    );
    assert!(
        !workshop
            .path("run/variants/other/topk/teacher=pivot")
            .exists()
    );
    let last = shard(1);
    assert_eq!(
        (
            last.number_before("steps done"),
            last.number_before("shared, ")
        ),
        (4, 4)
    );
    let made = |dir: &str| parts(&workshop.path(dir)).len();
    assert_eq!(made("run/variants/other/topk/teacher=pivot"), 10);
    workshop.fuselm("run recipe.yml").exits(0);
    assert_equal_runs(&workshop.path("undisturbed"), &workshop.path("run"));
    workshop.has_no_leftovers();
}
