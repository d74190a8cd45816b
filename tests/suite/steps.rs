//! What is done again when something changes: exactly the steps whose results depend on it.
//!
//! For each key of a recipe and each input the plan (`--dry-run`) is asked what a run is to do
//! again, and what it would leave is compared with a run from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::program::{Finished, Workshop, copy_lines, data_samples, read_json, tiny_model};
use super::readme::recipe_keys;
use super::rows::differing;

/// What makes an option count.
const DTW: &str = "align.spans: dtw";
const LORA: &str = "train.method: lora";
const EARLY: &str =
    "train.valid: valid.jsonl; train.early_stopping_patience: 1; train.eval_steps: 1";
/// Random draws stay in one vocabulary.
const SAMPLED: &str = "sources: [{name: twin, model: models/twin}]; score.mode: sampled";

/// Steps by the beginning of their names.
const MERGED: [&str; 2] = ["merge", "eval merged"];
const TARGETS: [&str; 2] = ["train target", "eval target"];
const CLM: [&str; 2] = ["train clm", "eval clm"];
const TRAINED: [&[&str]; 3] = [&TARGETS, &CLM, &MERGED];
const FUSED: [&[&str]; 3] = [&["fuse"], &TARGETS, &MERGED];
/// What follows from the sources with vocabularies of their own.
const OTHERS: [&str; 6] = [
    "fuse market",
    "fuse atlas",
    "train target-market",
    "train target-atlas",
    "eval target-market",
    "eval target-atlas",
];
const PROJECTED: [&[&str]; 3] = [&["project"], &OTHERS, &MERGED];
const MAPPED: [&[&str]; 4] = [&["map"], &["project"], &OTHERS, &MERGED];
const ALIGNED: [&[&str]; 5] = [&["align"], &["map"], &["project"], &OTHERS, &MERGED];
const SCORED: [&[&str]; 5] = [&["score"], &["project"], &["fuse"], &TARGETS, &MERGED];
const READ: [&[&str]; 10] = [
    &["corpus samples"],
    &["corpus tokens"],
    &["score"],
    &["align"],
    &["map"],
    &["project"],
    &["fuse"],
    &TARGETS,
    &CLM,
    &MERGED,
];

/// Whether results differ in this small run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    /// Some do.
    Differ,
    /// Here they are equal.
    Equal,
    /// They may: by rounding, which is allowed, or as the data have it.
    May,
}
use Rows::{Differ, Equal, May};

/// A key, what makes it count, what it is set to, and the steps that are to be done again.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    Vec<&'static str>,
    Rows,
);

fn cases() -> Vec<Case> {
    let all = |groups: &[&[&'static str]]| groups.concat();
    let (train, targets) = (all(&TRAINED), all(&[&TARGETS, &MERGED]));
    let dated: &[&str] = &["corpus valid", "corpus transcripts", "eval"];
    vec![
        ("corpus.inputs", "", "[other.jsonl]", all(&READ), Differ),
        (
            "corpus.format",
            "",
            "messages",
            all(&[&["corpus valid"], &all(&READ)]),
            Equal,
        ),
        (
            "corpus.template",
            "",
            "native",
            all(&[&["corpus transcripts", "corpus valid"], &all(&READ)]),
            Differ,
        ),
        (
            "corpus.date",
            "train.valid: valid.jsonl",
            "2025-01-02",
            all(&[dated, &all(&READ)]),
            Differ,
        ),
        ("corpus.fields", "", "{prompt: question}", all(&READ), Equal),
        ("corpus.bad_records", "", "skip", all(&READ), Equal),
        (
            "corpus.special_tokens",
            "",
            "tokens",
            all(&[&["eval"], &all(&READ)]),
            Equal,
        ),
        ("corpus.max_tokens", "", "64", all(&READ), Differ),
        ("corpus.too_long", "", "skip", all(&READ), Equal),
        ("corpus.part_samples", "", "5", all(&READ), May),
        ("corpus.strict", "", "true", vec![], Equal),
        ("corpus.split", "", "other", all(&READ), Differ),
        ("score.top_k", "", "5", all(&SCORED), Differ),
        ("score.top_p", "", "0.05", all(&SCORED), Differ),
        (
            "score.mode",
            "sources: [{name: twin, model: models/twin}]",
            "sampled",
            all(&SCORED),
            Differ,
        ),
        ("score.samples", SAMPLED, "20", all(&SCORED), Differ),
        ("score.seed", SAMPLED, "3", all(&SCORED), Differ),
        ("score.batch_tokens", "", "512", vec![], May),
        ("score.offload", "", "true", vec![], Equal),
        (
            "score.offload_memory",
            "score.offload: true",
            "1",
            vec![],
            Equal,
        ),
        ("align.spans", "", "dtw", all(&ALIGNED), Differ),
        ("align.dtw_ties", DTW, "fusellm", all(&ALIGNED), May),
        ("align.dtw_text", DTW, "pieces", all(&ALIGNED), May),
        ("align.dtw_band", DTW, "1", all(&ALIGNED), Differ),
        ("map.method", "", "em", all(&MAPPED), Differ),
        ("map.width", "", "3", all(&MAPPED), Differ),
        ("project.short", "", "tail", all(&PROJECTED), Differ),
        ("project.min_read", "", "1", all(&PROJECTED), Differ),
        (
            "project.fallback",
            "project.min_mass: 0.9",
            "skip",
            all(&PROJECTED),
            Differ,
        ),
        (
            "project.min_mass",
            "map.method: em",
            "0.9",
            all(&PROJECTED),
            Differ,
        ),
        ("project.top_k", "", "3", all(&PROJECTED), Differ),
        ("fuse.mode", "", "joint", all(&FUSED), Differ),
        ("fuse.rule", "", "avgce", all(&FUSED), Differ),
        ("fuse.level", "", "token", all(&FUSED), Differ),
        ("fuse.metric", "fuse.rule: avgce", "ce", all(&FUSED), Differ),
        ("fuse.use_pivot", "", "false", all(&FUSED), Differ),
        ("fuse.pivot_wins", "", "text", all(&FUSED), Differ),
        (
            "fuse.weights",
            "fuse.rule: avgce",
            "published",
            all(&FUSED),
            Differ,
        ),
        ("fuse.top_k", "", "2", all(&FUSED), Differ),
        ("train.lambda", "", "0.25", targets.clone(), Differ),
        ("train.lr", "", "0.002", train.clone(), Differ),
        (
            "train.epochs",
            "train.max_steps: null",
            "2",
            train.clone(),
            Differ,
        ),
        ("train.max_steps", "", "2", train.clone(), Differ),
        ("train.batch_tokens", "", "700", train.clone(), Differ),
        ("train.micro_batch_tokens", "", "300", train.clone(), May),
        ("train.gradient_checkpointing", "", "true", vec![], Equal),
        ("train.packing", "", "false", train.clone(), May),
        ("train.warmup_ratio", "", "0.5", train.clone(), Differ),
        ("train.schedule", "", "constant", train.clone(), Differ),
        ("train.weight_decay", "", "0.1", train.clone(), Differ),
        ("train.beta1", "", "0.8", train.clone(), Differ),
        ("train.beta2", "", "0.9", train.clone(), Differ),
        ("train.eps", "", "0.001", train.clone(), Differ),
        ("train.clip", "", "0.01", train.clone(), Differ),
        ("train.tail", "", "label", targets, Differ),
        ("train.method", "", "lora", train.clone(), Differ),
        ("train.lora.rank", LORA, "4", train.clone(), Differ),
        ("train.lora.alpha", LORA, "64", train.clone(), Differ),
        (
            "train.lora.targets",
            LORA,
            "[q_proj]",
            train.clone(),
            Differ,
        ),
        ("train.lora.rslora", LORA, "true", train.clone(), Differ),
        ("train.lora.save", LORA, "both", train.clone(), Differ),
        ("train.freeze", "", "[embed_tokens]", train.clone(), Differ),
        (
            "train.param_groups",
            "",
            "[{match: layers.0, lr_scale: 0.5}]",
            train.clone(),
            Differ,
        ),
        ("train.dtype", "", "bf16", train.clone(), Differ),
        ("train.seed", "", "8", train.clone(), Differ),
        (
            "train.valid",
            "",
            "valid.jsonl",
            all(&[&["corpus valid"], &train]),
            Differ,
        ),
        (
            "train.eval_steps",
            "train.valid: valid.jsonl",
            "1",
            train.clone(),
            Differ,
        ),
        (
            "train.early_stopping_patience",
            "train.valid: valid.jsonl; train.eval_steps: 1",
            "1",
            train.clone(),
            Equal,
        ),
        (
            "train.early_stopping_threshold",
            EARLY,
            "10",
            train.clone(),
            Differ,
        ),
        (
            "train.load_best",
            "train.valid: valid.jsonl; train.eval_steps: 1; train.lr: 1",
            "true",
            train.clone(),
            Differ,
        ),
        ("train.checkpoint_every", "", "1", vec![], Equal),
        ("seed", "", "8", train.clone(), Differ),
        (
            "baselines",
            "",
            "[clm, clm-merged]",
            vec!["train clm-", "merge clm-", "eval clm-"],
            Differ,
        ),
        (
            "merge",
            "",
            "{merge_method: linear, parameters: {weight: 1}}",
            all(&[&MERGED]),
            Differ,
        ),
        (
            "merge.models",
            "",
            "[{model: models/pivot}, {model: models/other}]",
            all(&[&MERGED]),
            Differ,
        ),
        (
            "eval",
            "",
            "[{name: held-out, data: valid.jsonl}]",
            vec!["eval"],
            Differ,
        ),
    ]
}

/// The workshop's recipe with dotted keys set, as `key: value; key: value` says.
fn recipe(base: &Value, settings: &str) -> String {
    let mut recipe = base.clone();
    for setting in settings.split("; ").filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once(": ").unwrap();
        let mut place = &mut recipe;
        for word in key.split('.') {
            if place.get(word).is_none() {
                place[word] = Value::Object(Map::new());
            }
            place = &mut place[word];
        }
        *place = serde_saphyr::from_str(value).unwrap();
    }
    recipe.to_string()
}

/// The steps of a plan whose lines are `wanted`.
fn steps_with(plan: &Finished, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let steps = plan.stdout.split("\nsteps\n").nth(1).unwrap();
    let lines = steps.lines().filter_map(|line| line.strip_prefix("  "));
    let lines = lines.filter(|line| wanted(line));
    lines
        .map(|line| line.split("  ").next().unwrap().to_owned())
        .collect()
}

/// The steps of a plan that are not simply up to date.
fn to_do(plan: &Finished) -> BTreeSet<String> {
    steps_with(plan, |line| !line.contains("  up to date"))
}

/// All steps of a plan.
fn steps(plan: &Finished) -> BTreeSet<String> {
    steps_with(plan, |_| true)
}

/// The step that makes an artifact or checkpoint of the workshop's run.
fn maker(result: &str) -> String {
    let (kind, rest) = result.split_once('/').unwrap_or((result, ""));
    let name = rest.split('=').next_back().unwrap();
    match kind {
        "topk" | "sequence_metrics" => format!("score {name}"),
        "alignment" => format!("align {name}"),
        "token_map" => format!("map {name}"),
        "projected" => format!("project {name}"),
        "targets" => format!("fuse {name}"),
        "merge_stats" => format!("merge {name}"),
        "checkpoints" if rest.ends_with("merged") => format!("merge {rest}"),
        "checkpoints" => format!("train {}", rest.trim_end_matches("/adapter")),
        "steps" => format!("train {name}"),
        "eval_items" => format!("eval {name}"),
        "variants" if rest.contains("/tokens/") => "corpus valid tokens".to_owned(),
        "variants" => "corpus valid".to_owned(),
        "samples" => "corpus samples".to_owned(),
        "transcripts" if name == "pivot" => "corpus samples".to_owned(),
        "tokens" => format!(
            "corpus tokens {}",
            rest["vocab=".len()..].split('/').next().unwrap()
        ),
        "transcripts" => format!("corpus transcripts {name}"),
        "vocab" => format!("corpus vocab {name}"),
        other => other.to_owned(),
    }
}

fn matches(step: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| step.starts_with(pattern))
}

/// A workshop whose templates show the date, with a second corpus, and its recipe.
fn workshop() -> (Workshop, Value) {
    let workshop = Workshop::new();
    for model in ["pivot", "market", "atlas", "twin"] {
        let path = workshop
            .path("models")
            .join(model)
            .join("tokenizer_config.json");
        let mut config = read_json(&path);
        let template = config["chat_template"].as_str().unwrap();
        config["chat_template"] = format!("{{{{ strftime_now('%Y') }}}} {template}").into();
        fs::write(&path, config.to_string()).unwrap();
    }
    tiny_model(&data_samples().join("models/pivot"), 2).save(&workshop.path("models/other"), 77);
    copy_lines(
        &data_samples().join("chat/market-tune.jsonl"),
        &workshop.path("other.jsonl"),
        12,
    );
    let text = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    let mut recipe: Value = serde_saphyr::from_str(&text).unwrap();
    // The random models are sure of nothing: keep what little probability arrives.
    recipe["project"] = json!({ "min_mass": 0.0 });
    (workshop, recipe)
}

/// A run from nothing of the recipe as it is now, moved to `folder`: merged models name the folders
/// that they come from.
fn fresh(workshop: &Workshop, folder: &str) -> PathBuf {
    workshop.fuselm("run recipe.yml").exits(0);
    fs::rename(workshop.path("run"), workshop.path(folder)).unwrap();
    workshop.path(folder)
}

#[test]
fn every_key_reaches_the_steps_that_depend_on_it_and_no_other() {
    let (workshop, base) = workshop();
    let cases = cases();
    let covered: BTreeSet<&str> = cases.iter().map(|case| case.0).collect();
    for key in recipe_keys() {
        assert!(covered.contains(key.as_str()), "no case for `{key}`");
    }
    let mut befores: BTreeMap<&str, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (at, (key, setup, value, expected, rows)) in cases.iter().enumerate() {
        let count = befores.len();
        let before = befores.entry(setup).or_insert_with(|| {
            workshop.write("recipe.yml", &recipe(&base, setup));
            let folder = format!("before-{count}");
            fresh(&workshop, &folder);
            folder
        });
        workshop.write(
            "recipe.yml",
            &recipe(&base, &format!("{setup}; {key}: {value}")),
        );
        let plan = workshop
            .fuselm(&format!("run recipe.yml --dry-run --run-dir {before}"))
            .exits(0);
        let found = to_do(&plan);
        let wanted = steps(&plan);
        let wanted: BTreeSet<String> = wanted
            .into_iter()
            .filter(|step| matches(step, expected))
            .collect();
        if found != wanted {
            let (less, more): (Vec<_>, Vec<_>) = (
                wanted.difference(&found).collect(),
                found.difference(&wanted).collect(),
            );
            wrong.push(format!("`{key}`: not to do {less:?}, to do {more:?}"));
        }
        let after = fresh(&workshop, &format!("after-{at}"));
        let changed = differing(&workshop.path(before), &after);
        fs::remove_dir_all(&after).unwrap();
        if *rows == May {
            continue;
        }
        for result in changed
            .iter()
            .filter(|result| !matches(&maker(result), expected))
        {
            wrong.push(format!("`{key}` changes {result}"));
        }
        if *rows == Differ && changed.is_empty() {
            wrong.push(format!("`{key}` changes nothing"));
        }
        if *rows == Equal && !changed.is_empty() {
            wrong.push(format!("`{key}` changes {changed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_input_reaches_the_steps_that_read_it_and_no_other() {
    let (workshop, base) = workshop();
    let seed = std::cell::Cell::new(1234);
    let weights = |model: &str| {
        seed.set(seed.get() + 1);
        let owner = match model {
            "twin" | "other" => "pivot",
            own => own,
        };
        let layers = if ["atlas", "twin"].contains(&model) {
            3
        } else {
            2
        };
        let dir = workshop.path("models").join(model);
        let kept = fs::read(dir.join("tokenizer_config.json")).unwrap();
        tiny_model(&data_samples().join("models").join(owner), layers).save(&dir, seed.get());
        fs::write(dir.join("tokenizer_config.json"), kept).unwrap();
    };
    let edit = |path: &str, change: &dyn Fn(&mut Value)| {
        let path = workshop.path(path);
        let mut value = read_json(&path);
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    };
    let of = |name: &str, stages: &[&str]| -> Vec<String> {
        stages
            .iter()
            .map(|stage| format!("{stage} {name}"))
            .collect()
    };
    let chain = |name: &str| {
        let mut steps = of(name, &["project", "fuse"]);
        steps.extend([
            format!("train target-{name}"),
            format!("eval target-{name}"),
        ]);
        steps.extend(MERGED.map(str::to_owned));
        steps
    };
    let everything = |more: &[&str]| -> Vec<String> {
        READ.concat()
            .iter()
            .chain(more)
            .map(|step| (*step).to_owned())
            .collect()
    };
    let linear = "merge: {merge_method: linear, models: [{model: run/checkpoints/target-twin, parameters: {weight: 1}}, {model: models/other, parameters: {weight: 1}}]}";
    let adapted = "merge: {merge_method: linear, models: [{model: models/pivot+adapter, parameters: {weight: 1}}, {model: run/checkpoints/target-twin, parameters: {weight: 1}}]}";
    let lora = "train.method: lora; train.lora.save: both";
    type Change<'a> = Box<dyn Fn() + 'a>;
    let cases: Vec<(&str, &str, Change<'_>, Vec<String>)> = vec![
        (
            "the weights of a source",
            "",
            Box::new(|| weights("market")),
            [
                vec!["models".into()],
                of("market", &["score", "eval"]),
                chain("market"),
            ]
            .concat(),
        ),
        (
            "the weights of a source in the pivot's vocabulary",
            "",
            Box::new(|| weights("twin")),
            [
                vec!["models".into()],
                of("twin", &["score", "eval"]),
                chain("twin"),
            ]
            .concat(),
        ),
        (
            "the weights of the pivot",
            "",
            Box::new(|| weights("pivot")),
            [
                "models",
                "score pivot",
                "project",
                "fuse",
                "train",
                "merge",
                "eval pivot",
                "eval target",
                "eval clm",
                "eval merged",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        (
            "the tokens of a source",
            "",
            Box::new(|| {
                edit("models/atlas/tokenizer.json", &|json| {
                    json["added_tokens"]
                        .as_array_mut()
                        .unwrap()
                        .iter_mut()
                        .for_each(|token| token["rstrip"] = json!(true));
                })
            }),
            [
                of(
                    "atlas",
                    &[
                        "corpus vocab",
                        "corpus tokens",
                        "score",
                        "align",
                        "map",
                        "eval",
                    ],
                ),
                chain("atlas"),
            ]
            .concat(),
        ),
        (
            "the chat template of the pivot",
            "",
            Box::new(|| {
                edit("models/pivot/tokenizer_config.json", &|json| {
                    let template = json["chat_template"]
                        .as_str()
                        .unwrap()
                        .replace("'%Y'", "'%m'");
                    json["chat_template"] = template.into();
                })
            }),
            everything(&["eval pivot"]),
        ),
        (
            "a file that checkpoints take over",
            "",
            Box::new(|| {
                fs::write(
                    workshop.path("models/pivot/generation_config.json"),
                    "{\"eos_token_id\": 2}",
                )
                .unwrap();
            }),
            TRAINED
                .concat()
                .iter()
                .map(|step| (*step).to_owned())
                .collect(),
        ),
        (
            "the corpus",
            "",
            Box::new(|| {
                copy_lines(
                    &data_samples().join("chat/train.jsonl"),
                    &workshop.path("chat.jsonl"),
                    20,
                );
            }),
            everything(&[]),
        ),
        (
            "what is evaluated on",
            "",
            Box::new(|| {
                copy_lines(
                    &data_samples().join("chat/sql-valid.jsonl"),
                    &workshop.path("valid.jsonl"),
                    4,
                );
            }),
            vec!["eval".into()],
        ),
        (
            "what is validated on",
            "train.valid: valid.jsonl; eval: []",
            Box::new(|| {
                copy_lines(
                    &data_samples().join("chat/sql-valid.jsonl"),
                    &workshop.path("valid.jsonl"),
                    3,
                );
            }),
            ["corpus valid", "train", "merge"]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            "a model that the merge names",
            linear,
            Box::new(|| weights("other")),
            MERGED.map(str::to_owned).to_vec(),
        ),
        (
            "a target that the merge names",
            linear,
            Box::new(|| weights("twin")),
            [
                vec!["models".into()],
                of("twin", &["score", "eval"]),
                chain("twin"),
            ]
            .concat(),
        ),
        (
            "an adapter that the merge names",
            adapted,
            Box::new(|| {
                fs::rename(workshop.path("adapter2"), workshop.path("adapter3")).unwrap();
                fs::remove_dir_all(workshop.path("adapter")).unwrap();
                fs::rename(workshop.path("adapter3"), workshop.path("adapter")).unwrap();
            }),
            MERGED.map(str::to_owned).to_vec(),
        ),
    ];
    // Two adapters of the pivot.
    workshop.write("recipe.yml", &recipe(&base, lora));
    fresh(&workshop, "lora");
    for (target, name) in [("target-twin", "adapter"), ("target-market", "adapter2")] {
        let from = workshop
            .path("lora/checkpoints")
            .join(target)
            .join("adapter");
        fs::rename(from, workshop.path(name)).unwrap();
    }
    let mut wrong = Vec::new();
    for (what, setup, change, expected) in cases {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        workshop.write("recipe.yml", &recipe(&base, setup));
        workshop.fuselm("run recipe.yml").exits(0);
        change();
        let plan = workshop.fuselm("run recipe.yml --dry-run").exits(0);
        let found = to_do(&plan);
        let wanted: BTreeSet<String> = steps(&plan)
            .into_iter()
            .filter(|step| matches(step, &expected))
            .collect();
        if found != wanted {
            let (less, more): (Vec<_>, Vec<_>) = (
                wanted.difference(&found).collect(),
                found.difference(&wanted).collect(),
            );
            wrong.push(format!("{what}: not to do {less:?}, to do {more:?}"));
        }
        // What is done again is what a run from nothing gives.
        workshop.fuselm("run recipe.yml").exits(0);
        let kept = workshop.path("kept");
        fs::rename(workshop.path("run"), &kept).unwrap();
        let again = fresh(&workshop, "run");
        for result in differing(&kept, &again)
            .iter()
            .filter(|result| again.join(result).is_dir())
        {
            wrong.push(format!("{what}: {result} is not that of a new run"));
        }
        fs::remove_dir_all(&kept).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
