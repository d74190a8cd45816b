//! What the system, other processes and an impatient user do to the program.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::program::{Workshop, shell};

/// A run whose samples, tokens and one model's distributions are there.
fn scored() -> Workshop {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    workshop.fuselm("run recipe.yml --only models").exits(0);
    workshop.fuselm("run recipe.yml --only score").exits(0);
    workshop
}

#[cfg(unix)]
fn interrupt(process: u32) {
    let sent = Command::new("kill")
        .args(["-INT", &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn what_one_command_writes_no_other_writes_meanwhile() {
    let workshop = scored();
    let lock = workshop.path("run/topk/.teacher=market.lock");
    let held = File::create(&lock).unwrap();
    held.lock().unwrap();
    let score = "score --run run --name market --model models/market --top-k 8 --force";
    let words = [
        "another process is writing `run/topk/teacher=market`",
        "wait for it",
    ];
    workshop.fuselm(score).exits(2).says(&words);
    let recipe = "run recipe.yml --set score.top_k=5";
    workshop.fuselm(recipe).exits(2).says(&words);
    drop(held);
    // The file of a process that was killed locks nobody out, and goes.
    workshop.fuselm(score).exits(0);
    assert!(!lock.exists());
    fs::write(&lock, "").unwrap();
    workshop.fuselm("run recipe.yml --only score").exits(0);
    assert!(!lock.exists());
    workshop.has_no_leftovers();
}

#[test]
fn commands_at_once_on_one_result_end_with_it_whole() {
    let workshop = scored();
    let score = "score --run run --name new --model models/market --top-k 8";
    let children: Vec<_> = (0..4)
        .map(|_| workshop.command(score).spawn().unwrap())
        .collect();
    for child in children {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        let code = ended.status.code();
        assert!(
            code == Some(0) || said.contains("another process is writing"),
            "{said}"
        );
    }
    workshop.fuselm(score).exits(0).says(&["up to date"]);
    workshop.fuselm("check run").exits(0);
    workshop.has_no_leftovers();
}

/// A statement whose plan doubles 30 times.
fn doubling() -> String {
    let mut sql = String::from("WITH a0 AS (SELECT 1 AS x)");
    for at in 1..=30 {
        let last = at - 1;
        sql.push_str(&format!(
            ", a{at} AS (SELECT l.x FROM a{last} AS l CROSS JOIN a{last} AS r)"
        ));
    }
    sql + " SELECT COUNT(*) FROM a30"
}

#[cfg(unix)]
#[test]
fn whatever_is_computed_a_wish_to_stop_is_answered_soon() {
    let workshop = scored();
    let joined = "SELECT COUNT(*) FROM range(1000000) AS a CROSS JOIN range(1000000) AS b \
                  WHERE a.value * b.value % 7 = 3";
    for sql in [doubling(), joined.to_owned()] {
        let mut command = workshop.command("sql --run run");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("{sql};\n").as_bytes()).unwrap();
        sleep(Duration::from_millis(700));
        assert!(child.try_wait().unwrap().is_none(), "not at work");
        interrupt(child.id());
        let asked = Instant::now();
        // It goes on to the next statement, of which there is none, or ends.
        drop(stdin);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
        assert!(
            said.contains("cancelled") || said.contains("interrupted"),
            "{said}"
        );
        assert_ne!(ended.status.code(), Some(0));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn limits_of_the_system_are_named_and_blame_no_file() {
    let workshop = scored();
    let dir = workshop.path("");
    // 512-byte blocks: 8 KiB a file.
    let line = "ulimit -f 16; \"$FUSELM\" run recipe.yml --set score.top_k=6";
    let words = ["File too large", "ulimit -f unlimited"];
    shell(&dir, line).exits(1).says(&words);
    workshop.has_no_leftovers();
    workshop.fuselm("run recipe.yml --only score").exits(0);
    for arguments in [
        "check run",
        "run recipe.yml",
        "sql --run run 'SELECT COUNT(*) FROM topk'",
    ] {
        for files in [10, 12, 16] {
            let line = format!("ulimit -n {files}; \"$FUSELM\" {arguments}");
            let ended = shell(&dir, &line);
            if ended.code != 0 {
                let said = &ended.stderr;
                assert!(said.contains("ulimit -n"), "{line}: {said}");
                assert!(
                    !said.contains("remove it") && !said.contains("damaged"),
                    "{line}: {said}"
                );
                assert!(!said.contains("replacing"), "{line}: {said}");
                assert!(!said.contains("panicked"), "{line}: {said}");
            }
        }
    }
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);
}

/// Prints the lines of a script to the prompt, as a pipe does.
fn piped(workshop: &Workshop, script: &str) -> (Option<i32>, String, String) {
    let mut command = workshop.command("sql --run run");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn what_is_piped_to_the_prompt_runs_and_says_when_it_failed() {
    let workshop = scored();
    let (code, out, said) = piped(
        &workshop,
        "SELECT 1 AS a; SELECT 2 AS b; -- two\nSELECT 3 AS c",
    );
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(out.matches("(1 row)").count(), 3, "{out}");
    let (code, out, said) = piped(&workshop, "SELEC 1;\nSELECT 2;\nSELECT 'open\n");
    assert_eq!(code, Some(2));
    assert!(
        out.contains("(1 row)") && said.contains("2 statements failed"),
        "{out}\n{said}"
    );

    let line = "\"$FUSELM\" sql --run run \"SELECT * FROM 'missing.parquet'\"";
    let words = ["`missing.parquet` is no file that can be read as a table"];
    shell(&workshop.path(""), line).exits(2).says(&words);
    let topk = workshop.path("run/topk/teacher=market/part-00000.parquet");
    let count = format!("SELECT COUNT(*) AS n FROM '{}'", topk.display());
    let found = workshop.query("run", &count);
    let own = "SELECT COUNT(*) AS n FROM topk WHERE teacher = 'market'";
    assert!(found[0]["n"].as_u64() > Some(0) && found[0]["n"].as_u64() < Some(1_000_000));
    assert!(workshop.query("run", own)[0]["n"].as_u64() >= found[0]["n"].as_u64());
    for (name, begins) in [
        ("out.csv", "one\n1\n"),
        ("out.json", "[{\"one\":1}]"),
        ("out.txt", "one\n---"),
    ] {
        let arguments = format!("sql --run run 'SELECT 1 AS one' -o {name}");
        shell(&workshop.path(""), &format!("\"$FUSELM\" {arguments}")).exits(0);
        let text = fs::read_to_string(workshop.path(name)).unwrap();
        assert!(text.starts_with(begins), "{name}: {text}");
    }
}

/// A model whose weights are cut short while they are read.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_cut_short_while_it_is_mapped_is_named() {
    let workshop = scored();
    let model = workshop.path("models/market/model.safetensors");
    let whole = fs::read(&model).unwrap();
    let score =
        "score --run run --name cut --model models/market --offload --batch-tokens 16 --top-k 8";
    let mut said = String::new();
    // Where the reading is, is not known: tried until it is hit.
    for attempt in 0..40u64 {
        fs::write(&model, &whole).unwrap();
        let child = workshop.command(score).spawn().unwrap();
        sleep(Duration::from_millis(20 + 10 * attempt));
        OpenOptions::new()
            .write(true)
            .open(&model)
            .unwrap()
            .set_len(100)
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code().is_some(), "a signal ended it: {said}");
        fs::remove_dir_all(workshop.path("run/topk/teacher=cut")).unwrap_or_default();
        if said.contains("cut short while it was read") {
            assert_eq!(ended.status.code(), Some(3));
            break;
        }
    }
    assert!(
        said.contains("models/market/model.safetensors: it was cut short"),
        "{said}"
    );
}
