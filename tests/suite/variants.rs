//! What runs share: variants of a recipe, distributions of other runs, sources that come and go.

use std::fs;
use std::path::Path;

use fuselm::artifact::{Kind, RunDir};
use serde_json::Value;

use super::program::{Finished, Workshop, data_samples, tiny_model};
use super::rows::all_rows;

const GRID: &str = "\
grid: { align.spans: [offsets, dtw], map.method: [ms, prefix] }
variants: [ { name: token, set: { fuse.level: token } } ]
";

fn done(finished: &Finished) -> u64 {
    finished.number_before(" steps done")
}

/// The steps that were done (not those of the plan, which are indented).
fn steps<'a>(finished: &'a Finished, stage: &str) -> Vec<&'a str> {
    let lines = finished.stderr.lines();
    let steps = lines.filter_map(|line| line.strip_prefix(stage)?.strip_prefix(' '));
    steps
        .map(|rest| rest.split("  ").next().unwrap_or_default())
        .collect()
}

/// The random models are sure of nothing: keep what little probability arrives.
fn unsure(workshop: &Workshop) {
    with(workshop, "project: { min_mass: 0.0 }\n");
}

fn with(workshop: &Workshop, more: &str) {
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    workshop.write("recipe.yml", &format!("{recipe}{more}"));
}

#[test]
fn variants_share_what_they_do_not_change() {
    let workshop = Workshop::new();
    workshop.edit("recipe.yml", "baselines: [clm]\n", "");
    with(&workshop, GRID);
    let plan = workshop.fuselm("run recipe.yml --dry-run").exits(0).stdout;
    let of = |name: &str| -> Vec<&str> {
        let after = plan.split(&format!("variant {name}, ")).nth(1).unwrap();
        let lines = after
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("  "));
        lines
            .map(|line| line[2..].split("  ").next().unwrap())
            .collect()
    };
    // The recipe itself is `offsets` and `ms`.
    assert!(of("offsets-ms").is_empty(), "{plan}");
    let prefix = of("offsets-prefix");
    assert_eq!(prefix[..2], ["map market", "project market"], "{plan}");
    assert!(
        !prefix
            .iter()
            .any(|step| step.starts_with("score") || step.starts_with("align"))
    );
    assert!(!prefix.contains(&"train target-twin"));
    assert!(of("dtw-ms").contains(&"align atlas"));
    // The alignment of the variant before is shared.
    assert!(!of("dtw-prefix").contains(&"align atlas"));
    let token = of("token");
    assert!(
        token.contains(&"fuse atlas") && !token.contains(&"project atlas"),
        "{plan}"
    );

    let first = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps(&first, "score").len(), 4, "{}", first.stderr);
    assert_eq!(steps(&first, "align").len(), 4);
    // Where nothing is counted, the alignment makes no difference to the map.
    assert_eq!(steps(&first, "map").len(), 6);
    assert!(first.stdout.contains("dtw-prefix"), "{}", first.stdout);
    workshop.has_no_leftovers();
    let second = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(done(&second), 0, "{}", second.stderr);

    // Each is a whole run, and takes no second place on disk.
    for name in [
        "offsets-ms",
        "offsets-prefix",
        "dtw-ms",
        "dtw-prefix",
        "token",
    ] {
        let dir = workshop.path("run/variants").join(name);
        workshop
            .fuselm(&format!("check {}", dir.display()))
            .exits(0);
        let part = "topk/teacher=atlas/part-00000.parquet";
        same_file(&workshop.path("run").join(part), &dir.join(part));
    }
    let compared = workshop
        .fuselm("sql --run run --name compare_runs --format json --param model=merged")
        .exits(0);
    let rows: Vec<Value> = serde_json::from_str(&compared.stdout).unwrap();
    assert_eq!(rows.len(), 6, "{}", compared.stdout);
    for row in &rows {
        let (run, difference) = (row["run"].as_str().unwrap(), row["difference"].as_f64());
        if run.is_empty() || run == "offsets-ms" {
            assert_eq!(difference, Some(0.0), "{row}");
        }
    }

    // Training again in one place does not touch what the others have.
    let kept = workshop.path("run/variants/offsets-ms/checkpoints/merged/model.safetensors");
    let before = fs::read(&kept).unwrap();
    workshop.edit("recipe.yml", "lambda: 0.5", "lambda: 0.25");
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    workshop.write("recipe.yml", recipe.split("grid:").next().unwrap());
    let again = workshop.fuselm("run recipe.yml").exits(0);
    // Three targets, their merge, four evaluations.
    assert_eq!(done(&again), 3 + 1 + 4, "{}", again.stderr);
    assert!(fs::read(&kept).unwrap() == before);
    let own = workshop.path("run/checkpoints/merged/model.safetensors");
    assert!(fs::read(own).unwrap() != before);
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(a), inode(b), "{} is a copy", b.display());
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
}

#[test]
fn only_what_depends_on_fusion_and_merging_is_done_again() {
    let workshop = Workshop::new();
    workshop.edit("recipe.yml", "baselines: [clm]\n", "");
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.edit("recipe.yml", "select_topk: 0.5", "select_topk: 1.0");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(done(&again), 1 + 1, "{}", again.stderr);
    workshop.edit(
        "recipe.yml",
        "merge_method: sce, parameters: { select_topk: 1.0 }",
        "merge_method: linear, parameters: { weight: 1.0 }",
    );
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(done(&again), 1 + 1, "{}", again.stderr);
    workshop.edit("recipe.yml", "rule: mince", "rule: avgce");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    // Fusions, trainings, the merge, evaluations.
    assert_eq!(done(&again), 3 + 3 + 1 + 4, "{}", again.stderr);
}

#[test]
fn a_source_more_is_the_only_one_that_is_scored() {
    let workshop = Workshop::new();
    let twin = "  - { name: twin, model: models/twin }\n";
    workshop.edit("recipe.yml", twin, "");
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.edit("recipe.yml", "score: {", &format!("{twin}score: {{"));
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps(&again, "score"), ["twin"], "{}", again.stderr);
    assert_eq!(steps(&again, "train"), ["target-twin"]);
    assert!(steps(&again, "project").is_empty());

    // Without it again: what is quickly made of it goes, its distributions stay.
    workshop.edit("recipe.yml", twin, "");
    let again = workshop.fuselm("run recipe.yml").exits(0);
    again.says(&["removing", "targets/fusion=twin"]);
    assert!(workshop.path("run/topk/teacher=twin").is_dir());
}

#[test]
fn tokens_that_nothing_reads_any_more_go() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    assert!(workshop.path("run/tokens/vocab=market").is_dir());
    // The source now has the pivot's vocabulary.
    tiny_model(&data_samples().join("models/pivot"), 2).save(&workshop.path("models/same"), 9);
    workshop.edit("recipe.yml", "model: models/market", "model: models/same");
    workshop.fuselm("run recipe.yml").exits(0);
    assert!(
        !workshop
            .path("run/tokens/vocab=market/template=pivot")
            .exists()
    );
    assert!(!workshop.path("run/vocab/vocab=market").exists());
    workshop.fuselm("check run").exits(0);
}

#[test]
fn distributions_of_another_run_are_used() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    workshop.fuselm("run recipe.yml --only score").exits(0);
    fs::copy(workshop.path("recipe.yml"), workshop.path("other.yml")).unwrap();
    workshop.edit("other.yml", "run: run", "run: other");
    for name in ["atlas", "twin"] {
        let plain = format!("model: models/{name} }}");
        workshop.edit(
            "other.yml",
            &plain,
            &format!("model: models/{name}, topk: {{ from: run }} }}"),
        );
    }
    let first = workshop.fuselm("run other.yml").exits(0);
    first.says(&["distributions of"]);
    for name in ["atlas", "twin"] {
        let part = format!("topk/teacher={name}/part-00001.parquet");
        same_file(
            &workshop.path("run").join(&part),
            &workshop.path("other").join(&part),
        );
        let metrics = format!("sequence_metrics/teacher={name}/part-00001.parquet");
        let rows = |run: &str| all_rows(&workshop.path(run).join(&metrics));
        assert_eq!(rows("run"), rows("other"));
    }
    workshop.fuselm("check other").exits(0);
    assert_eq!(done(&workshop.fuselm("run other.yml").exits(0)), 0);
    // A model whose distributions are there needs no weights.
    fs::remove_file(workshop.path("models/twin/model.safetensors")).unwrap();
    workshop
        .fuselm("run other.yml --run-dir third --only corpus")
        .exits(0);

    // `inspect` says where they belong.
    let seen = workshop
        .fuselm("inspect run/topk/teacher=atlas")
        .exits(0)
        .stdout;
    for words in [
        "tokens/vocab=atlas/template=pivot",
        "same as     other/topk/teacher=atlas",
        "usable by   third",
    ] {
        assert!(seen.contains(words), "no `{words}` in\n{seen}");
    }
}

#[test]
fn variants_with_equal_results_share_what_follows() {
    let workshop = Workshop::new();
    // No list is so long: the same targets by another option.
    with(
        &workshop,
        "variants: [ { name: cut, set: { fuse.top_k: 500 } } ]\n",
    );
    let run = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps(&run, "fuse").len(), 6, "{}", run.stderr);
    assert_eq!(steps(&run, "train").len(), 4, "{}", run.stderr);
    assert_eq!(steps(&run, "merge").len(), 1, "{}", run.stderr);
    let weights = "checkpoints/merged/model.safetensors";
    let variant = workshop.path("run/variants/cut");
    same_file(&workshop.path("run").join(weights), &variant.join(weights));
    workshop.fuselm("check run/variants/cut").exits(0);
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(done(&again), 0, "{}", again.stderr);

    workshop.edit("recipe.yml", "fuse.top_k: 500", "fuse.top_k: 2");
    let other = workshop.fuselm("run recipe.yml").exits(0);
    assert_eq!(steps(&other, "fuse").len(), 3, "{}", other.stderr);
    assert_eq!(steps(&other, "train").len(), 3, "{}", other.stderr);
    assert_ne!(
        fs::read(workshop.path("run").join(weights)).unwrap(),
        fs::read(variant.join(weights)).unwrap()
    );
}

#[test]
fn a_run_goes_on_after_its_recipe_was_renamed_and_the_project_moved() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    fs::copy(workshop.path("recipe.yml"), workshop.path("other.yml")).unwrap();
    workshop
        .fuselm("run other.yml")
        .exits(2)
        .says(&["the run of another recipe", "recipe.yml"]);
    fs::remove_file(workshop.path("recipe.yml")).unwrap();
    let renamed = workshop.fuselm("run other.yml").exits(0);
    assert_eq!(done(&renamed), 0, "{}", renamed.stderr);

    fs::create_dir(workshop.path("moved")).unwrap();
    for name in ["other.yml", "models", "chat.jsonl", "valid.jsonl", "run"] {
        let to = workshop.path("moved").join(name);
        fs::rename(workshop.path(name), to).unwrap();
    }
    // The artifact `models` says where they lie.
    let moved = workshop
        .fuselm("run moved/other.yml --run-dir moved/run")
        .exits(0);
    assert_eq!(done(&moved), 1, "{}", moved.stderr);
    assert_eq!(steps(&moved, "models").len(), 1, "{}", moved.stderr);
}

#[test]
fn distributions_that_do_not_belong_are_refused() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    workshop.fuselm("run recipe.yml --only score").exits(0);
    let refused = |from: &str, to: &str, code: i32, words: &[&str]| {
        fs::copy(workshop.path("recipe.yml"), workshop.path("other.yml")).unwrap();
        workshop.edit(
            "other.yml",
            "model: models/atlas }",
            "model: models/atlas, topk: { from: run } }",
        );
        workshop.edit("other.yml", from, to);
        workshop
            .fuselm("run other.yml --run-dir other")
            .exits(code)
            .says(words);
        assert!(!workshop.path("other/topk/teacher=atlas").exists());
    };
    let words = ["topk/teacher=atlas", "other tokens", "max_tokens"];
    refused("max_tokens: 256", "max_tokens: 64", 1, &words);
    let words = ["topk/teacher=atlas", "models/market", "tokenizer"];
    refused("from: run", "from: run, name: market", 1, &words[2..]);
    refused(
        "from: run",
        "from: nowhere",
        1,
        &["nowhere", "source `atlas`"],
    );
    refused("from: run", "from: other", 2, &["this run itself"]);
    refused("from: run", "form: run", 2, &["did you mean `from`"]);
    tiny_model(&data_samples().join("models/atlas"), 3).save(&workshop.path("models/atlas"), 99);
    refused("score: {", "score: {", 1, &["the distributions of model"]);
}

#[test]
fn every_model_can_have_its_own_template() {
    let workshop = Workshop::new();
    unsure(&workshop);
    workshop.edit(
        "recipe.yml",
        "  max_tokens: 256",
        "  max_tokens: 256\n  template: native",
    );
    workshop.edit("recipe.yml", "max_steps: 3", "max_steps: 1");
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);
    let run = RunDir::new(workshop.path("run"));
    assert_eq!(
        run.list(Kind::Tokens).unwrap(),
        [["atlas", "atlas"], ["market", "market"], ["pivot", "pivot"]]
    );
    let found = workshop.fuselm("sql --run run --format json").exits(0).code;
    assert_eq!(found, 0);
    let sql =
        "SELECT teacher, projection, COUNT(*) AS n FROM projected GROUP BY teacher, projection";
    let rows = workshop.query("run", sql);
    let share = |teacher: &str| {
        let of = |names: &[&str]| -> f64 {
            let rows = rows.iter().filter(|row| row["teacher"] == teacher);
            let rows = rows.filter(|row| names.contains(&row["projection"].as_str().unwrap()));
            rows.map(|row| row["n"].as_f64().unwrap()).sum()
        };
        let known = of(&["same_end", "conditioned"]);
        (
            known,
            known + of(&["one_hot", "skipped", "missing"]),
            of(&["missing"]),
        )
    };
    for teacher in ["atlas", "market"] {
        // Nearly all of what is learnt is in messages, which both templates have.
        let (known, all, missing) = share(teacher);
        assert!(missing < 0.02 * all, "{rows:?}");
        assert!(known > 0.3 * all, "{rows:?}");
    }

    // The same by single commands.
    let corpus = "corpus --run single --input chat.jsonl --template-mode native --max-tokens 256 \
        --part-samples 8 --model pivot=models/pivot --model atlas=models/atlas";
    workshop.fuselm(corpus).exits(0);
    for spans in ["offsets", "dtw"] {
        let align = format!("align --run single --teacher atlas --spans {spans} --force");
        workshop.fuselm(&align).exits(0);
    }
    workshop
        .fuselm("align --run single --teacher atlas --force")
        .exits(0);
    let part = "alignment/teacher=atlas/part-00001.parquet";
    let rows = |run: &str| all_rows(&workshop.path(run).join(part));
    assert_eq!(rows("single"), rows("run"));
    workshop
        .fuselm("align --source-tokens single/tokens/vocab=atlas/template=atlas --pivot-tokens single/tokens/vocab=pivot/template=pivot --teacher atlas --out x")
        .exits(1)
        .says(&["other transcripts", "`transcripts` of both"]);
}

#[test]
fn warping_gives_averages_and_other_ties() {
    let workshop = Workshop::new();
    unsure(&workshop);
    workshop.edit(
        "recipe.yml",
        "map: { method: ms }",
        "align: { spans: dtw }\nmap: { method: ms }",
    );
    workshop.edit("recipe.yml", "max_steps: 3", "max_steps: 1");
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);
    let quality = workshop
        .fuselm("sql --run run --name projection_quality --format json")
        .exits(0);
    let rows: Vec<Value> = serde_json::from_str(&quality.stdout).unwrap();
    assert!(
        rows.iter().any(|row| row["projection"] == "averaged"),
        "{rows:?}"
    );
    assert!(
        rows.iter().any(|row| row["projection"] == "same_end"),
        "{rows:?}"
    );
    assert!(
        !rows.iter().any(|row| row["projection"] == "conditioned"),
        "{rows:?}"
    );
    workshop
        .fuselm("align --run run --teacher atlas --spans dtw --dtw-ties fusellm")
        .exits(2)
        .says(&["dtw_ties", "--force"]);
    workshop
        .fuselm("align --run run --teacher atlas --spans dtw --dtw-band 0 --force")
        .exits(2)
        .says(&["`dtw_band` is 0"]);
}
