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
