//! Every reader of a file from outside is given the file cut short, grown, with flipped bits, and as
//! a link to itself: it ends soon, in little memory, with an error that names the file.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use fuselm::model::{Decoder, LoadOptions, Mode};
use fuselm::vocab::Tokenizer;
use serde_json::json;

use super::convert::convert;
use super::exchange::as_vllm;
use super::program::{Workshop, shell, shell_command};

/// Most memory that a command may hold, in bytes, and how long it may take.
const MEMORY: u64 = 2 << 30;
const TIME: Duration = Duration::from_secs(20);

/// A reader: the file that it is given, and the command that reads it.
struct Reader {
    file: &'static str,
    command: &'static str,
}

const fn reader(file: &'static str, command: &'static str) -> Reader {
    Reader { file, command }
}

const READERS: [Reader; 21] = [
    reader(
        "models/market/config.json",
        "eval --model models/market --data valid.jsonl",
    ),
    reader(
        "models/market/tokenizer.json",
        "eval --model models/market --data valid.jsonl",
    ),
    reader(
        "models/market/tokenizer_config.json",
        "eval --model models/market --data valid.jsonl",
    ),
    reader(
        "models/market/model.safetensors",
        "eval --model models/market --data valid.jsonl",
    ),
    reader(
        "models/market/chat_template.jinja",
        "generate --model models/market --prompt Hello --max-new-tokens 3",
    ),
    reader(
        "adapter/adapter_config.json",
        "generate --model models/market+adapter --prompt Hello --max-new-tokens 3",
    ),
    reader(
        "adapter/adapter_model.safetensors",
        "generate --model models/market+adapter --prompt Hello --max-new-tokens 3",
    ),
    reader(
        "market.gguf",
        "convert market.gguf converted --tokenizer models/market --force",
    ),
    reader("market.gguf", "inspect market.gguf"),
    reader(
        "chat.jsonl",
        "corpus --run new --input chat.jsonl --model p=models/pivot --force",
    ),
    reader(
        "chat.json",
        "corpus --run new --input chat.json --model p=models/pivot --force",
    ),
    reader(
        "chat.jsonl.gz",
        "corpus --run new --input chat.jsonl.gz --model p=models/pivot --force",
    ),
    reader(
        "chat.jsonl.zst",
        "corpus --run new --input chat.jsonl.zst --model p=models/pivot --force",
    ),
    reader(
        "chat.parquet",
        "corpus --run new --input chat.parquet --model p=models/pivot --force",
    ),
    reader(
        "market.jsonl",
        "import --run run --name again --tokenizer models/market --format vllm --from market.jsonl --force",
    ),
    reader("recipe.yml", "run recipe.yml --dry-run"),
    reader("merge.yml", "merge merge.yml merged --dry-run"),
    reader("run/topk/teacher=market/part-00000.parquet", "check run"),
    reader(
        "run/topk/teacher=market/part-00000.parquet",
        "sql --run run \"SELECT teacher, sum(target_logprob), max(array_length(ids)) FROM topk GROUP BY teacher\"",
    ),
    reader(
        "run/tokens/vocab=market/template=pivot/_part-00000.json",
        "check run",
    ),
    reader(
        "run/stages/score-market.json",
        "run recipe.yml --only score",
    ),
];

/// A file changed in every way, each with a name; none where it is a link to itself.
fn changes(whole: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut changes = vec![("a link to itself".to_owned(), None)];
    let length = whole.len();
    for kept in [0, 1, 7, length / 3, length / 2, length * 9 / 10, length - 1] {
        let cut = whole[..kept.min(length)].to_vec();
        changes.push((format!("cut to {kept} of {length} bytes"), Some(cut)));
    }
    for (more, name) in [
        (&b"\0"[..], "a zero"),
        (b"}\n", "a brace"),
        (whole, "itself"),
    ] {
        let grown = [whole, more].concat();
        changes.push((format!("grown by {name}"), Some(grown)));
    }
    // More where formats have their headers: at the beginning and at the end.
    let places = (0..6)
        .map(|at| at * 3)
        .chain((1..7).map(|at| length.saturating_sub(at * 3)))
        .chain((1..8).map(|at| length * at / 8));
    for (at, bit) in places.zip([0, 7, 3, 6, 1, 5].into_iter().cycle()) {
        let mut flipped = whole.to_vec();
        let Some(byte) = flipped.get_mut(at) else {
            continue;
        };
        *byte ^= 1 << bit;
        changes.push((format!("bit {bit} of byte {at} flipped"), Some(flipped)));
    }
    changes
}

/// Waits for the end; the most memory that was seen, unless there was no end.
fn watch(child: &mut Child) -> Option<u64> {
    let (started, status) = (Instant::now(), format!("/proc/{}/status", child.id()));
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > TIME {
            child.kill().unwrap();
            return None;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(most)
}

/// All that the readers read, as it should be.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop
        .fuselm("export --run run --name market --out plain")
        .exits(0);
    workshop.write("market.jsonl", &as_vllm(&workshop, "plain").join("\n"));

    let market = workshop.path("models/market");
    let load = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode: Mode::Inference,
    };
    let decoder = Decoder::load(&market, &load).unwrap();
    let tokenizer = Tokenizer::load(&market).unwrap();
    let gguf = convert(&decoder, GgmlDType::Q8_0, Some(tokenizer.vocabulary()));
    gguf.write(&workshop.path("market.gguf"));
    drop(decoder);

    let chat = fs::read(workshop.path("chat.jsonl")).unwrap();
    let lines = String::from_utf8(chat.clone()).unwrap();
    let records: Vec<&str> = lines.lines().collect();
    workshop.write("chat.json", &format!("[{}]", records.join(",\n")));
    let packed = zstd::encode_all(chat.as_slice(), 3).unwrap();
    fs::write(workshop.path("chat.jsonl.zst"), packed).unwrap();
    let script = "gzip -k chat.jsonl && \"$FUSELM\" sql --run run \
                  \"SELECT text FROM transcripts\" -o chat.parquet";
    shell(&workshop.path(""), script).exits(0);

    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
        "base_model_name_or_path": "models/market"});
    fs::create_dir_all(workshop.path("adapter")).unwrap();
    workshop.write("adapter/adapter_config.json", &config.to_string());
    write_adapter(&workshop.path("adapter/adapter_model.safetensors"));
    workshop.write(
        "models/market/chat_template.jinja",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    );
    workshop.write(
        "merge.yml",
        "merge_method: linear\nmodels:\n  - { model: models/pivot, parameters: { weight: 0.5 } }\n  \
         - { model: run/checkpoints/clm, parameters: { weight: 0.5 } }\n",
    );
    workshop
}

fn write_adapter(path: &Path) {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let data = vec![0u8; 2 * 32 * 4];
    let name =
        |half: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight");
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &data).unwrap();
    let views = [(name("A"), view([2, 32])), (name("B"), view([32, 2]))];
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// Whether an error has a word of the changed file that the whole one does not have: a path, say,
/// that leads nowhere now.
fn names_what_changed(said: &str, whole: &[u8], changed: &[u8]) -> bool {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (whole, changed) = (text(whole), text(changed));
    let new = |word: &&str| word.len() >= 6 && !whole.contains(*word);
    let mut words = changed.split([' ', '\n', ',', '"', '{', '}']).filter(new);
    words.any(|word| said.contains(word))
}

#[test]
fn whatever_a_file_holds_its_reader_ends_with_an_error_that_names_it() {
    let workshop = workshop();
    let mut wrong = Vec::new();
    let (mut tried, mut refused) = (0, 0);
    for Reader { file, command } in READERS {
        let path: PathBuf = workshop.path(file);
        let whole = fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let line = format!("exec \"$FUSELM\" {command}");
        shell(&workshop.path(""), &line).exits(0);
        let _ = fs::remove_dir_all(workshop.path("new"));
        for (name, change) in changes(&whole) {
            fs::remove_file(&path).unwrap();
            match &change {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => symlink(path.file_name().unwrap(), &path).unwrap(),
            }
            let changed = change.unwrap_or_default();
            let mut child = shell_command(&workshop.path(""), &line).spawn().unwrap();
            let most = watch(&mut child);
            let ended = child.wait_with_output().unwrap();
            // `check` is asked for what it finds.
            let said =
                String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
            let base = path.file_name().unwrap().to_string_lossy();
            let stem = base.split('.').next().unwrap_or_default();
            let named = said.contains(file)
                || said.contains(stem.trim_start_matches('_'))
                // A statement reads many files; and a name that was changed is said itself.
                || said.contains("`fuselm check` looks for the file")
                || names_what_changed(&said, &whole, &changed);
            let last: String = said.lines().rev().take(2).collect::<Vec<_>>().join(" | ");
            tried += 1;
            let problem = match (most, ended.status.code()) {
                (None, _) => "did not end",
                (Some(most), _) if most > MEMORY => "took too much memory",
                (_, None) => "was ended by a signal",
                (_, Some(0)) => continue,
                (_, Some(1..=3)) if named => {
                    refused += 1;
                    continue;
                }
                (_, Some(1..=3)) => "does not name the file",
                _ => "panicked",
            };
            wrong.push(format!("{file} ({command}) {name}: {problem}: {last}"));
        }
        let _ = fs::remove_file(&path);
        fs::write(&path, &whole).unwrap();
        let _ = fs::remove_dir_all(workshop.path("new"));
    }
    eprintln!("{tried} tried, {refused} refused");
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        refused * 3 > tried,
        "only {refused} of {tried} were refused"
    );
}
