//! The command line itself: help, wrong usage, pipes.

use super::program::{Workshop, shell};

const COMMANDS: [&str; 16] = [
    "run", "corpus", "score", "align", "map", "project", "fuse", "train", "merge", "eval",
    "generate", "sql", "check", "inspect", "import", "export",
];

#[test]
fn help_names_every_command_and_each_shows_an_example() {
    let workshop = Workshop::new();
    let help = workshop.fuselm("--help").exits(0);
    for command in COMMANDS {
        let listed = |line: &str| line.trim_start().starts_with(&format!("{command} "));
        assert!(help.stdout.lines().any(listed), "no `{command}`");
        let help = workshop.fuselm(&format!("{command} --help")).exits(0);
        let example = help.stdout.split("Example:").nth(1).unwrap_or_default();
        let example = example.trim_start();
        assert!(
            example.starts_with(&format!("fuselm {command}")),
            "`{command}` shows no example"
        );
    }
    workshop.fuselm("--version").exits(0);
}

#[test]
fn the_examples_in_the_help_are_well_formed() {
    let workshop = Workshop::new();
    for command in COMMANDS {
        let help = workshop.fuselm(&format!("{command} --help")).exits(0);
        let example = help.stdout.split("Example:").nth(1).unwrap_or_default();
        let arguments = example.trim().strip_prefix("fuselm ").unwrap_or_default();
        // Its files are not here, so it fails; what must not happen is that clap refuses it.
        let line = format!("\"$FUSELM\" {arguments}");
        let tried = shell(&workshop.path(""), &line);
        assert!(!tried.stderr.contains("Usage:"), "{line}\n{}", tried.stderr);
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let workshop = Workshop::new();
    for arguments in [
        "",
        "distil",
        "run",
        "run recipe.yml --run-dri x",
        "score --name x",
        "sql --format xml",
        "run recipe.yml --device tpu",
        "run recipe.yml --threads many",
    ] {
        let finished = workshop.fuselm(arguments).exits(2);
        assert!(!finished.stderr.is_empty(), "`{arguments}` says nothing");
        assert!(finished.stdout.is_empty(), "`{arguments}`");
    }
    workshop
        .fuselm("run recipe.yml --run-dri x")
        .says(&["--run-dir"]);
}

#[test]
fn every_command_refuses_a_device_that_does_not_exist() {
    let workshop = Workshop::new();
    let help = workshop.fuselm("--help").exits(0).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let names = commands.lines().take_while(|line| line.starts_with("  "));
    // Wrapped descriptions are indented further.
    let names = names.filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() > 15, "{names:?}");
    let needed = |name: &str| match name {
        "run" => "recipe.yml",
        "corpus" => "--run x --input chat.jsonl --model pivot=models/pivot",
        "score" => "--run x --name pivot --model models/pivot",
        "align" => "--run x --teacher atlas",
        "map" => "--run x --teacher atlas --model models/atlas --pivot-model models/pivot",
        "project" => "--run x --teacher atlas --model models/atlas --pivot-model models/pivot",
        "fuse" => "--run x --member pivot --member atlas",
        "train" => "--run x --name y --model models/pivot",
        "merge" => "merge.yml out",
        "convert" => "models/pivot out",
        "extract-lora" => "models/pivot models/twin out",
        "eval" => "--model models/pivot --data valid.jsonl",
        "generate" => "--model models/pivot --prompt a",
        "import" => "--run x --name y --tokenizer models/pivot --from z --format vllm",
        "export" => "--run x --name y --out z",
        "check" | "inspect" | "status" => "x",
        _ => "",
    };
    for name in names {
        for (device, word) in [("banana", "banana"), ("cuda:x", "cuda:x"), ("CPU", "`CPU`")] {
            let line = format!("{name} {} --device {device}", needed(name));
            workshop.fuselm(&line).exits(2).says(&["device", word]);
        }
    }
}

#[test]
fn single_commands_note_their_models_as_a_run_does() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let corpus = "corpus --run single --input chat.jsonl --max-tokens 256 --part-samples 8 \
        --model pivot=models/pivot --model market=models/market --model atlas=models/atlas \
        --model twin=models/twin";
    workshop.fuselm(corpus).exits(0);
    let rows = |run: &str, query: &str| workshop.query(run, query);
    let models = "SELECT * FROM models ORDER BY name";
    let path = |row: &serde_json::Value| row["location"].as_str().unwrap().replace("./", "");
    let same_models = || {
        let (mut ours, mut theirs) = (rows("single", models), rows("run", models));
        for row in ours.iter_mut().chain(&mut theirs) {
            row["location"] = path(row).into();
        }
        assert_eq!(ours, theirs);
    };
    same_models();
    for name in ["pivot", "market", "atlas", "twin"] {
        let score = format!("score --run single --name {name} --model models/{name} --top-k 8");
        workshop.fuselm(&score).exits(0);
    }
    same_models();
    // Tokens are counted as there, special ones left out.
    let tokens = "SELECT * FROM sequence_ce ORDER BY teacher, sample_id";
    assert_eq!(rows("single", tokens), rows("run", tokens));

    // A model that joins after the corpus was made.
    let first = "corpus --run later --input chat.jsonl --max-tokens 256 --model pivot=models/pivot";
    workshop.fuselm(first).exits(0);
    workshop
        .fuselm("score --run later --name twin --model models/twin")
        .exits(0);
    let found = rows(
        "later",
        "SELECT name, role, vocabulary FROM models ORDER BY name",
    );
    assert_eq!(
        found,
        [
            serde_json::json!({ "name": "pivot", "role": "pivot", "vocabulary": "pivot" }),
            serde_json::json!({ "name": "twin", "role": "source", "vocabulary": "pivot" })
        ]
    );
    // In a run that an earlier version made, nobody has noted the pivot.
    std::fs::remove_dir_all(workshop.path("later/models")).unwrap();
    workshop
        .fuselm("score --run later --name pivot --model models/pivot")
        .exits(0);
    let role = rows("later", "SELECT role FROM models");
    assert_eq!(role, [serde_json::json!({ "role": "pivot" })]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let workshop = Workshop::new();
    let dir = workshop.path("");
    // The shell's own word on how the first command of the pipe ended.
    let piped = |command: &str| {
        let line = format!("{{ {command}; echo \"$?\" >&2; }} | head -1 >/dev/null");
        shell(&dir, &line).stderr
    };
    for command in ["\"$FUSELM\" sql --list", "\"$FUSELM\" --help"] {
        assert_eq!(piped(command).trim(), "0", "{command}");
    }
    // Far more than the buffer of a pipe.
    std::fs::create_dir(dir.join("stages")).unwrap();
    let many = "SELECT a.value, b.value FROM range(1000) a, range(1000) b";
    let command = format!("\"$FUSELM\" -q sql --format csv '{many}'");
    assert_eq!(piped(&command).trim(), "0");
}

#[test]
fn data_goes_to_stdout_and_words_to_stderr() {
    let workshop = Workshop::new();
    let run = workshop.fuselm("run recipe.yml").exits(0);
    // The scoreboard, and nothing else.
    assert!(run.stdout.starts_with("bits per byte"), "{}", run.stdout);
    assert!(!run.stdout.contains("to do") && run.stdout.contains("merged"));
    let quiet = workshop.fuselm("run recipe.yml --quiet").exits(0);
    assert!(quiet.stderr.is_empty(), "{}", quiet.stderr);

    let query = "SELECT name FROM models ORDER BY name";
    let output = workshop
        .command("-q sql --run run --format csv")
        .arg(query)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["name", "atlas", "market", "pivot", "twin"]
    );

    for path in ["run", "run/topk/teacher=market", "run/checkpoints/merged"] {
        let text = workshop.fuselm(&format!("inspect {path}")).exits(0).stdout;
        assert!(!text.is_empty(), "{path}");
        let json = workshop.fuselm(&format!("inspect {path} --json")).exits(0);
        serde_json::from_str::<serde_json::Value>(&json.stdout).unwrap();
    }
    let eval = "eval --model run/checkpoints/merged --data v=valid.jsonl --json";
    let results = workshop.fuselm(eval).exits(0).stdout;
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    assert!(results[0]["bpb"].as_f64().unwrap() > 0.0);
    let said = workshop
        .fuselm("generate --model run/checkpoints/merged --prompt Hello --max-new-tokens 4")
        .exits(0);
    assert!(!said.stdout.is_empty());
}
