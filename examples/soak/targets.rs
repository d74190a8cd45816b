//! The readers, and the files that they begin with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use fuselm::artifact::{Artifact, Existing, Kind, RunDir};
use fuselm::checkpoint::Gguf;
use fuselm::corpus::{Corpus, CorpusOptions, Model, Tokenise, WriteVocab};
use fuselm::import::{Format, Import};
use fuselm::merge::MergeConfig;
use fuselm::model::Config;
use fuselm::query::{Params, Session, SessionOptions};
use fuselm::recipe::Recipe;
use fuselm::stage::Stage;
use fuselm::text::{self, Chat, ChatTemplate, Message, Reading};
use fuselm::vocab::Tokenizer;

/// A reader.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Files that it can read; the folder is for what it needs beside them.
    pub seeds: fn(&Path) -> Result<Vec<Vec<u8>>>,
    /// Reads an input; whether it was accepted.
    pub read: fn(&[u8], &Path) -> bool,
}

const fn target(
    name: &'static str,
    seeds: fn(&Path) -> Result<Vec<Vec<u8>>>,
    read: fn(&[u8], &Path) -> bool,
) -> Target {
    Target { name, seeds, read }
}

pub const TARGETS: [Target; 12] = [
    target("tokenizer", tokenizers, read_tokenizer),
    target("template", templates, read_template),
    target("config", configs, read_config),
    target("gguf", ggufs, read_gguf),
    target("records", records, read_records),
    target("part", parts, read_part),
    target("vllm", vllm, read_vllm),
    target("distillkit", distillkit, read_distillkit),
    target("fuseai", fuseai, read_fuseai),
    target("recipe", recipes, read_recipe),
    target("merge", merges, read_merge),
    target("sql", statements, read_statement),
];

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples")
}

/// Real files outside the repository, where they are.
fn shared() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    std::env::var_os("FUSELM_TEST_SHARED").map_or(default, PathBuf::from)
}

/// All files below a folder whose names end so, at most so large.
fn files(folder: &Path, end: &str, most: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end)
                && entry.metadata().is_ok_and(|meta| meta.len() <= most)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read_all(paths: Vec<PathBuf>) -> Result<Vec<Vec<u8>>> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
    paths.into_iter().map(read).collect()
}

/// Puts the input into a file, and reads that.
fn through(bytes: &[u8], path: &Path, read: impl FnOnce(&Path) -> bool) -> bool {
    fs::write(path, bytes).is_ok() && read(path)
}

fn tokenizers(_: &Path) -> Result<Vec<Vec<u8>>> {
    // Large ones would be read a few times a second.
    let mut paths = files(&samples(), "tokenizer.json", 1 << 20);
    paths.extend(files(&shared().join("cases"), "tokenizer.json", 1 << 18));
    read_all(paths)
}

fn read_tokenizer(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("tokenizer.json"), |_| {
        let Ok(tokenizer) = Tokenizer::load(scratch) else {
            return false;
        };
        let encoded = tokenizer.encode("Grüße, 世界! <s> 1234\n\n  def f(x):\u{0}");
        encoded.is_ok_and(|encoded| !tokenizer.decode(&encoded.ids).is_empty())
    })
}

fn templates(_: &Path) -> Result<Vec<Vec<u8>>> {
    let chats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chats");
    read_all(files(&chats, ".jinja", 1 << 20))
}

fn read_template(bytes: &[u8], _: &Path) -> bool {
    let source = String::from_utf8_lossy(bytes);
    let template = ChatTemplate::from_source("template", &source, Some("<s>"), Some("</s>"));
    let Ok(template) = template else {
        return false;
    };
    let mut chat = Chat::default();
    for (role, content) in [("system", "Be."), ("user", "Hello?"), ("assistant", "Yes.")] {
        chat.messages.push(Message::new(role, content));
    }
    template.render(&chat, true).is_ok() | text::transcript(&chat, Some(&template)).is_ok()
}

fn configs(_: &Path) -> Result<Vec<Vec<u8>>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let mut paths = files(&models, "config.json", 1 << 16);
    paths.extend(files(&samples(), "config.json", 1 << 16));
    read_all(paths)
}

fn read_config(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("config.json"), |_| {
        Config::load(scratch).is_ok()
    })
}

fn ggufs(_: &Path) -> Result<Vec<Vec<u8>>> {
    Ok(vec![gguf("gpt2")?, gguf("llama")?])
}

/// A small Llama in a GGUF file, with a tokenizer of one of the two kinds.
fn gguf(kind: &str) -> Result<Vec<u8>> {
    let text = |text: &str| Value::String(text.to_owned());
    let list = |words: Vec<String>| Value::Array(words.into_iter().map(Value::String).collect());
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    if kind == "llama" {
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        types.extend([6; 256]);
    }
    tokens.extend(('!'..='~').map(String::from));
    let mark = if kind == "llama" { "▁" } else { "Ġ" };
    tokens.extend([
        mark.to_owned(),
        format!("{mark}W"),
        "el".into(),
        "ell".into(),
    ]);
    types.resize(tokens.len(), 1);
    let rows = tokens.len();
    let scores = (0..rows).map(|at| Value::F32(-(at as f32))).collect();
    let merges = [format!("{mark} W"), "e l".into(), "el l".into()];
    let number = Value::U32;
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.embedding_length", number(32)),
        ("llama.feed_forward_length", number(32)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.context_length", number(64)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.rope.dimension_count", number(16)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text(kind)),
        (
            "tokenizer.ggml.pre",
            text(if kind == "gpt2" { "gpt-2" } else { "default" }),
        ),
        ("tokenizer.ggml.tokens", list(tokens)),
        (
            "tokenizer.ggml.token_type",
            Value::Array(types.into_iter().map(Value::I32).collect()),
        ),
        ("tokenizer.ggml.scores", Value::Array(scores)),
        ("tokenizer.ggml.merges", list(merges.to_vec())),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.ggml.unknown_token_id", number(0)),
        (
            "tokenizer.chat_template",
            text("{% for m in messages %}{{ m.content }}{% endfor %}"),
        ),
    ];
    let shapes: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[rows, 32]),
        ("output_norm.weight", &[32]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[16, 32]),
        ("blk.0.attn_v.weight", &[16, 32]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_gate.weight", &[32, 32]),
        ("blk.0.ffn_up.weight", &[32, 32]),
        ("blk.0.ffn_down.weight", &[32, 32]),
    ];
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let tensor = Tensor::ones(shape, DType::F32, &Device::Cpu)?;
        let dtype = match shape.len() {
            1 => GgmlDType::F32,
            _ => GgmlDType::Q8_0,
        };
        tensors.push((name, QTensor::quantize(&tensor, dtype)?));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (*k, v)).collect();
    let mut file = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors)?;
    Ok(file.into_inner())
}

fn read_gguf(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("model.gguf"), |path| {
        let opened = Gguf::open(path).is_ok();
        let (config, tokenizer) = (Config::load(path), Tokenizer::of_model(path));
        let text = tokenizer.is_ok_and(|tokenizer| tokenizer.encode("Hello, Welt").is_ok());
        opened & (config.is_ok() | text)
    })
}

fn records(_: &Path) -> Result<Vec<Vec<u8>>> {
    let mut paths = files(&samples().join("chat"), ".jsonl", 1 << 16);
    for end in [".jsonl", ".json", ".parquet", ".gz", ".zst"] {
        paths.extend(files(&shared().join("cases/text"), end, 1 << 16));
    }
    read_all(paths)
}

fn read_records(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("records"), |path| {
        let Ok(records) = text::read_as(path, &Reading::default()) else {
            return false;
        };
        records.take(10_000).all(|record| record.is_ok())
    })
}

/// Makes a run with tokens of a model of the samples.
fn run(scratch: &Path) -> Result<()> {
    let run = RunDir::new(scratch.join("run"));
    let folder = samples().join("models/market");
    let tokenizer = Tokenizer::load(&folder)?;
    let input = scratch.join("texts.jsonl");
    let chats = fs::read_to_string(samples().join("chat/train.jsonl"))?;
    let few: Vec<&str> = chats.lines().take(4).collect();
    fs::write(&input, few.join("\n"))?;
    let of = |kind, values: &[&str]| run.artifact(kind, values);
    let corpus = Corpus {
        options: CorpusOptions {
            inputs: vec![input],
            ..CorpusOptions::default()
        },
        models: vec![Model {
            name: "market",
            tokenizer: &tokenizer,
            context: None,
            rows: tokenizer.vocabulary().len(),
        }],
        samples: of(Kind::Samples, &[]),
        transcripts: of(Kind::Transcripts, &["market"]),
    };
    corpus.run(Existing::Refuse.into())?;
    let vocab = WriteVocab {
        vocabulary: tokenizer.vocabulary(),
        out: of(Kind::Vocab, &["market"]),
    };
    vocab.run(Existing::Refuse.into())?;
    let tokenise = Tokenise {
        transcripts: corpus.transcripts.clone(),
        tokenizer: &tokenizer,
        made_by: None,
        special_tokens: corpus.options.special_tokens,
        out: of(Kind::Tokens, &["market", "market"]),
    };
    tokenise.run(Existing::Refuse.into())?;
    Ok(())
}

/// The import into the run that [`run`] has made.
fn import(scratch: &Path, format: Format, from: PathBuf) -> bool {
    let run = RunDir::new(scratch.join("run"));
    let import = Import {
        name: "other".into(),
        from,
        format,
        config: None,
        head: None,
        tokens: run.artifact(Kind::Tokens, &["market", "market"]),
        transcripts: run.artifact(Kind::Transcripts, &["market"]),
        vocab: run.artifact(Kind::Vocab, &["market"]),
        topk: run.artifact(Kind::Topk, &["other"]),
        sequence_metrics: run.artifact(Kind::SequenceMetrics, &["other"]),
    };
    import.run(Existing::Replace.into()).is_ok()
}

fn parts(scratch: &Path) -> Result<Vec<Vec<u8>>> {
    run(scratch)?;
    read_all(files(&scratch.join("run"), ".parquet", 1 << 20))
}

fn read_part(bytes: &[u8], scratch: &Path) -> bool {
    let kinds = [Kind::Samples, Kind::Transcripts, Kind::Tokens, Kind::Vocab];
    let dir = scratch.join("part");
    let _ = fs::create_dir_all(&dir);
    through(bytes, &dir.join("part-00000.parquet"), |_| {
        kinds.into_iter().any(|kind| {
            let Ok(artifact) = Artifact::open(&dir, kind) else {
                return false;
            };
            let all = |part: &fuselm::artifact::Part| {
                part.batches()
                    .is_ok_and(|mut batches| batches.all(|batch| batch.is_ok()))
            };
            artifact.parts().iter().all(all)
        })
    })
}

fn vllm(scratch: &Path) -> Result<Vec<Vec<u8>>> {
    run(scratch)?;
    // As the server answers for the texts of the run.
    let tokens = RunDir::new(scratch.join("run")).artifact(Kind::Tokens, &["market", "market"]);
    let tokens = Artifact::open(&tokens, Kind::Tokens)?;
    let mut lines = String::new();
    for part in tokens.parts() {
        for sample in fuselm::artifact::tokens::read_part(part)? {
            let entry = |id: &u32| {
                format!(
                    "{{\"{id}\": {{\"logprob\": -0.5, \"rank\": 1}}, \"7\": {{\"logprob\": -2.5, \"rank\": 2}}}}"
                )
            };
            let entries: Vec<String> = sample.ids.iter().skip(1).map(entry).collect();
            lines.push_str(&format!(
                "{{\"prompt_token_ids\": {:?}, \"prompt_logprobs\": [null, {}]}}\n",
                sample.ids,
                entries.join(", ")
            ));
        }
    }
    let mut seeds = vec![lines.into_bytes()];
    seeds.extend(read_all(files(
        &shared().join("cases/import"),
        ".jsonl",
        1 << 18,
    ))?);
    Ok(seeds)
}

fn read_vllm(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("vllm.jsonl"), |path| {
        import(scratch, Format::Vllm, path.to_path_buf())
    })
}

fn distillkit(scratch: &Path) -> Result<Vec<Vec<u8>>> {
    run(scratch)?;
    // The configuration stands before the file, divided from it by a zero.
    let mut seeds = Vec::new();
    for path in files(&shared().join("cases/import"), "data_0.parquet", 1 << 18) {
        let mut seed = fs::read(path.with_file_name("compression_config.yaml"))?;
        seed.push(0);
        seed.extend(fs::read(&path)?);
        seeds.push(seed);
    }
    if seeds.is_empty() {
        seeds.push(b"d: 8\nk: 4\n\0PAR1".to_vec());
    }
    Ok(seeds)
}

fn read_distillkit(bytes: &[u8], scratch: &Path) -> bool {
    let dir = scratch.join("distillkit");
    let _ = fs::create_dir_all(&dir);
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let config = fs::write(dir.join("compression_config.yaml"), &bytes[..end]);
    let data = bytes.get(end + 1..).unwrap_or_default();
    config.is_ok()
        && through(data, &dir.join("data_0.parquet"), |_| {
            import(scratch, Format::Distillkit, dir.clone())
        })
}

fn fuseai(scratch: &Path) -> Result<Vec<Vec<u8>>> {
    run(scratch)?;
    let seeds = read_all(files(&shared().join("cases/import"), ".arrow", 1 << 19))?;
    Ok(match seeds.is_empty() {
        true => vec![b"ARROW1\0\0".to_vec()],
        false => seeds,
    })
}

fn read_fuseai(bytes: &[u8], scratch: &Path) -> bool {
    let dir = scratch.join("fuseai");
    let state = "{\"_data_files\": [{\"filename\": \"data-00000-of-00001.arrow\"}]}";
    let _ = fs::create_dir_all(&dir);
    fs::write(dir.join("state.json"), state).is_ok()
        && through(bytes, &dir.join("data-00000-of-00001.arrow"), |_| {
            import(scratch, Format::Fuseai, dir.clone())
        })
}

fn recipes(_: &Path) -> Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = files(&samples(), ".yml", 1 << 16);
    paths.extend(files(&root.join("examples"), ".yml", 1 << 16));
    paths.extend(files(&root.join("tests/recipes"), ".yml", 1 << 16));
    read_all(paths)
}

fn read_recipe(bytes: &[u8], scratch: &Path) -> bool {
    through(bytes, &scratch.join("recipe.yml"), |path| {
        Recipe::load(path).is_ok()
    })
}

fn merges(_: &Path) -> Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    read_all(files(&root.join("fuzz/seeds/merge_yaml"), ".yml", 1 << 16))
}

fn read_merge(bytes: &[u8], _: &Path) -> bool {
    MergeConfig::from_yaml(&String::from_utf8_lossy(bytes), Path::new("")).is_ok()
}

fn statements(scratch: &Path) -> Result<Vec<Vec<u8>>> {
    run(scratch)?;
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut paths = files(&sql.join("queries"), ".sql", 1 << 16);
    paths.extend(files(&sql.join("checks"), ".sql", 1 << 16));
    read_all(paths)
}

fn read_statement(bytes: &[u8], scratch: &Path) -> bool {
    thread_local! {
        static SESSION: std::cell::OnceCell<Option<Session>> = const { std::cell::OnceCell::new() };
    }
    SESSION.with(|session| {
        let open = || {
            let run = RunDir::new(scratch.join("run"));
            let options = SessionOptions {
                threads: 1,
                ..SessionOptions::default()
            };
            Session::open(&run, &options).ok()
        };
        let session = session.get_or_init(open);
        let sql = String::from_utf8_lossy(bytes);
        session
            .as_ref()
            .is_some_and(|session| session.explain(&sql, &Params::new()).is_ok())
    })
}
