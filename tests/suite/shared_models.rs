//! Real models, where the shared material is there: tests/recipes on a part of the text.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fuselm::artifact::{Kind, RunDir};

use super::program::{Workshop, copy_lines, shared};

/// The recipe `name` of tests/recipes, with short texts and trainings.
fn shortened(workshop: &Workshop, shared: &Path, name: &str) {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes");
    let domains = shared.join("assets/text/domains");
    let train = workshop.path("stories_train.jsonl");
    copy_lines(&domains.join("stories_train.jsonl"), &train, 60);
    let valid = workshop.path("stories_val.jsonl");
    copy_lines(&domains.join("stories_val.jsonl"), &valid, 12);
    let text = fs::read_to_string(recipes.join(name)).unwrap();
    let text = text
        .replace("../../../shared/assets/text/domains/", "")
        .replace("../../../shared", &shared.to_string_lossy());
    workshop.write(name, &text);
    workshop.edit(name, "train: {", "train: { max_steps: 4,");
}

/// Bits per byte of each model.
fn scoreboard(workshop: &Workshop, run: &str) -> BTreeMap<String, f64> {
    let sql = format!("sql --run {run} --name eval_scoreboard --format json");
    let board = workshop.fuselm(&sql).exits(0).stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&board).unwrap();
    let bpb = rows.iter().filter(|row| row["metric"] == "bpb");
    bpb.map(|row| {
        let model = row["model"].as_str().unwrap().to_owned();
        (model, row["value"].as_f64().unwrap())
    })
    .collect()
}

#[test]
fn stories_are_fused() {
    let Some(shared) = shared() else { return };
    let workshop = Workshop::new();
    shortened(&workshop, &shared, "stories.yml");
    workshop.fuselm("run stories.yml --run-dir run").exits(0);
    workshop.fuselm("check run").exits(0);

    let run = RunDir::new(workshop.path("run"));
    // One source shares the pivot's vocabulary and is fused as it is.
    assert_eq!(run.list(Kind::Projected).unwrap(), [["stories3m"]]);
    assert_eq!(
        run.list(Kind::Targets).unwrap(),
        [["llama2xs"], ["stories3m"]]
    );

    let board = scoreboard(&workshop, "run");
    eprintln!("{board:#?}");
    // Of published size and quality: the larger the better, by far.
    assert!(board["stories3m"] < 0.6 && board["stories3m"] > 0.2);
    assert!(board["stories260k"] < 1.1 && board["stories260k"] > 0.6);
    for name in [
        "clm",
        "clm-merged",
        "merged",
        "target-stories3m",
        "target-llama2xs",
    ] {
        let change = board[name] - board["stories260k"];
        assert!(change.abs() < 0.1, "{name}: {change:+}");
    }
    // The projected distributions of a far better source are better than the pivot's own.
    let quality = "sql --run run --name projection_quality --format json";
    let quality = workshop.fuselm(quality).exits(0).stdout;
    assert!(quality.contains("stories3m"), "{quality}");
    workshop
        .fuselm("run stories.yml --run-dir run")
        .exits(0)
        .says(&["0 steps done"]);
    workshop.has_no_leftovers();
}

#[test]
fn a_pivot_with_slack_is_made_and_fused() {
    let Some(shared) = shared() else { return };
    let workshop = Workshop::new();
    let slack = workshop.path("slack");
    fs::create_dir(&slack).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes/slack/config.json");
    fs::copy(config, slack.join("config.json")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = shared.join("assets/models/stories260K").join(file);
        fs::write(slack.join(file), fs::read(from).unwrap()).unwrap();
    }
    shortened(&workshop, &shared, "stories-slack-pivot.yml");
    let pivot = "run stories-slack-pivot.yml --run-dir pivot";
    workshop.fuselm(pivot).exits(0);
    let weights = "model.safetensors";
    fs::copy(
        workshop.path("pivot/checkpoints/clm").join(weights),
        slack.join(weights),
    )
    .unwrap();

    shortened(&workshop, &shared, "stories-slack.yml");
    workshop
        .fuselm("run stories-slack.yml --run-dir run")
        .exits(0);
    workshop.fuselm("check run").exits(0);
    let board = scoreboard(&workshop, "run");
    eprintln!("{board:#?}");
    // Trained for four steps, it knows next to nothing, and anyone can teach it.
    for name in ["clm", "merged", "target-stories3m", "target-llama2xs"] {
        assert!(board[name] < board["slack"], "{name}");
    }
}
