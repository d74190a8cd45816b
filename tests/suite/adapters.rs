//! `BASE+ADAPTER` is a model wherever one is named: the same as the folder that it merges to.

use std::fs;
use std::path::Path;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use fuselm::checkpoint::Checkpoint;
use fuselm::lora::ModelPath;
use fuselm::model::{Decoder, Mode};
use fuselm::vocab::Tokenizer;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use super::convert::{convert, options};
use super::program::{Workshop, parts, read_json};
use super::rows::all_rows;

const PREFIX: &str = "base_model.model.";

/// Names, less the prefix, and shapes of an adapter's tensors.
type Shapes = Vec<(String, Vec<usize>)>;

/// Numbers from -0.3 to 0.3, others for each seed.
fn numbers(seed: usize, count: usize) -> Vec<f32> {
    let number = |at: usize| ((at * 2_654_435_761 + seed * 40_503) % 1009) as f32 / 1009.0;
    (0..count).map(|at| (number(at) - 0.5) * 0.6).collect()
}

/// Writes the folder of an adapter; its numbers are drawn.
fn write(dir: &Path, config: &Value, tensors: &[(String, Vec<usize>)]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let data = tensors.iter().enumerate().map(|(seed, (name, shape))| {
        // Lengths are positive.
        let offset = if name.contains("magnitude") { 1.0 } else { 0.0 };
        let values = numbers(seed + 1, shape.iter().product());
        let values = values.into_iter().map(|value| value + offset);
        values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
    });
    let data: Vec<Vec<u8>> = data.collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (format!("{PREFIX}{name}"), view)
    });
    let bytes = serialize(views, None).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), bytes).unwrap();
}

/// The kinds of adapters of `base`: a name, settings, tensors.
fn kinds(base: &Path) -> Vec<(&'static str, Value, Shapes)> {
    let checkpoint = Checkpoint::open(base).unwrap();
    let shape = |name: &str| checkpoint.info(name).unwrap().shape.clone();
    let halves = |module: &str, rank: usize| {
        let shape = shape(&format!("{module}.weight"));
        [
            (format!("{module}.lora_A.weight"), vec![rank, shape[1]]),
            (format!("{module}.lora_B.weight"), vec![shape[0], rank]),
        ]
    };
    let embedding = |rank: usize| {
        let shape = shape("model.embed_tokens.weight");
        [("A", vec![rank, shape[0]]), ("B", vec![shape[1], rank])]
            .map(|(half, shape)| (format!("model.embed_tokens.lora_embedding_{half}"), shape))
    };
    let settings = |more: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none",
            "target_modules": ["0.self_attn.q_proj", "1.mlp.down_proj", "embed_tokens"]});
        for (field, value) in more.as_object().unwrap() {
            config[field] = value.clone();
        }
        config
    };
    let (q, down) = (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
    );
    let both = || [halves(q, 2), halves(down, 2)].concat();
    let rows = |module: &str| vec![shape(&format!("{module}.weight"))[0]];
    let lengths = [q, down].map(|m| (format!("{m}.lora_magnitude_vector"), rows(m)));
    let patterns = json!({"rank_pattern": {"1.mlp.down_proj": 5}, "alpha_pattern": {"q_proj": 7}});
    // A head that is the embedding has its shape.
    let whole = ["model.norm.weight", "lm_head.weight"];
    let whole = whole.map(|name| match checkpoint.info(name) {
        Some(info) => (name.to_owned(), info.shape.clone()),
        None => (name.to_owned(), shape("model.embed_tokens.weight")),
    });
    vec![
        ("plain", settings(json!({})), both()),
        ("rslora", settings(json!({"use_rslora": true})), both()),
        (
            "dora",
            settings(json!({"use_dora": true})),
            [&both()[..], &lengths].concat(),
        ),
        (
            "patterns",
            settings(patterns),
            [halves(q, 2), halves(down, 5)].concat(),
        ),
        (
            "saved",
            settings(json!({"modules_to_save": ["model.norm", "lm_head"]})),
            [&both()[..], &whole].concat(),
        ),
        (
            "embeddings",
            settings(json!({})),
            [&both()[..], &embedding(2)].concat(),
        ),
    ]
}

/// Writes a copy of the model `from` in bfloat16.
fn narrow(workshop: &Workshop, from: &str, to: &str) {
    let decoder = Decoder::load(workshop.path(from), &options(Mode::Inference)).unwrap();
    let from = workshop.path(from);
    decoder
        .save(&workshop.path(to), &from, DType::BF16)
        .unwrap();
}

/// Merges BASE+ADAPTER into a folder, in f32.
fn merge(workshop: &Workshop, model: &str, out: &str) {
    let config = format!("merge_method: passthrough\nmodels: [{model}]\nout_dtype: float32\n");
    workshop.write("merge.yml", &config);
    workshop
        .fuselm(&format!("merge merge.yml {out} --force"))
        .exits(0);
}

#[test]
fn a_model_with_an_adapter_has_the_weights_of_its_merged_folder() {
    let workshop = Workshop::new();
    narrow(&workshop, "models/pivot", "models/narrow");
    for base in ["models/pivot", "models/narrow", "models/atlas"] {
        for (kind, config, tensors) in kinds(&workshop.path(base)) {
            write(&workshop.path("adapter"), &config, &tensors);
            merge(&workshop, &format!("{base}+adapter"), "merged");
            let model = ModelPath {
                base: workshop.path(base),
                adapter: Some(workshop.path("adapter")),
            };
            let load = |model: ModelPath| Decoder::load(model, &options(Mode::Inference)).unwrap();
            let plain = load(workshop.path(base).into());
            let merged = load(workshop.path("merged").into());
            let adapted = load(model);
            let mut changed = 0;
            for (name, var) in merged.params() {
                let numbers = |decoder: &Decoder| -> Vec<f32> {
                    let params = decoder.params();
                    let var = params
                        .get(name)
                        .unwrap_or_else(|| &params["model.embed_tokens.weight"]);
                    var.flatten_all().unwrap().to_vec1().unwrap()
                };
                assert!(
                    numbers(&adapted) == numbers(&merged),
                    "{base} {kind}: {name}"
                );
                assert_eq!(var.dims(), adapted.params()[name].dims());
                changed += usize::from(numbers(&plain) != numbers(&merged));
            }
            let saved = tensors.iter().filter(|(name, _)| !name.contains("lora_"));
            let adapted = tensors.iter().filter(|(name, _)| name.contains("_A"));
            assert_eq!(changed, saved.count() + adapted.count(), "{base} {kind}");
        }
    }
}

/// Everything that reads a model: the same rows and texts as from the merged folder.
#[test]
fn a_model_with_an_adapter_is_scored_as_its_merged_folder() {
    let workshop = Workshop::new();
    workshop
        .fuselm("corpus --run run --input chat.jsonl --max-tokens 256 --model pivot=models/pivot")
        .exits(0);
    let score = |model: &str, more: &str| {
        workshop
            .fuselm(&format!(
                "score --run run --name m --model {model} --force {more}"
            ))
            .exits(0);
        let rows = |kind: &str| {
            let all = parts(&workshop.path(kind)).into_iter();
            all.map(|part| all_rows(&part)).collect::<Vec<_>>()
        };
        (rows("run/topk"), rows("run/sequence_metrics"))
    };
    let printed = |line: &str| workshop.fuselm(line).exits(0).stdout;
    let eval = |model: &str, more: &str| {
        printed(&format!(
            "eval --model {model} --name m --data valid.jsonl {more}"
        ))
    };
    let generate = |model: &str| {
        printed(&format!(
            "generate --model {model} --raw --prompt Hello --temperature 0 --max-new-tokens 12"
        ))
    };
    let plain = score("models/pivot", "");
    for (kind, config, tensors) in kinds(&workshop.path("models/pivot")) {
        write(&workshop.path("adapter"), &config, &tensors);
        let model = "models/pivot+adapter";
        merge(&workshop, model, "merged");
        let expected = score("merged", "");
        assert!(expected != plain, "{kind}: nothing changed");
        assert!(score(model, "") == expected, "{kind}");
        let small = "--offload --offload-memory 0.0001";
        assert!(score(model, small) == expected, "{kind}, from disk");
        for more in ["", "--offload", "--dtype bf16"] {
            assert_eq!(eval(model, more), eval("merged", more), "{kind} {more}");
        }
        assert_eq!(generate(model), generate("merged"), "{kind}");
        assert_eq!(
            generate("models/pivot --adapter adapter"),
            generate("merged"),
            "{kind}"
        );
    }
    // Another adapter is another model: what was scored is not up to date.
    let config = read_json(&workshop.path("adapter/adapter_config.json"));
    let mut stronger = config.clone();
    stronger["lora_alpha"] = json!(9);
    let line = "score --run run --name m --model models/pivot+adapter";
    workshop.fuselm(line).exits(0).says(&["up to date"]);
    workshop.write("adapter/adapter_config.json", &stronger.to_string());
    let again = workshop.fuselm(line);
    assert!(!again.stderr.contains("up to date"), "{}", again.stderr);
}

#[test]
fn an_adapter_of_a_gguf_file_is_that_of_its_model() {
    let workshop = Workshop::new();
    let base = workshop.path("models/pivot");
    let decoder = Decoder::load(&base, &options(Mode::Inference)).unwrap();
    let tokenizer = Tokenizer::load(&base).unwrap();
    let gguf = convert(&decoder, GgmlDType::F32, Some(tokenizer.vocabulary()));
    gguf.write(&workshop.path("pivot.gguf"));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let _ = fs::copy(base.join(file), workshop.path(file));
    }
    for (kind, config, tensors) in kinds(&base) {
        write(&workshop.path("adapter"), &config, &tensors);
        let eval = |model: &str| {
            let line = format!("eval --model {model}+adapter --name m --data valid.jsonl");
            workshop.fuselm(&line).exits(0).stdout
        };
        assert_eq!(eval("pivot.gguf"), eval("models/pivot"), "{kind}");
    }
}

#[test]
fn bad_adapters_are_named() {
    let workshop = Workshop::new();
    let (_, config, tensors) = kinds(&workshop.path("models/pivot")).remove(0);
    let adapter = workshop.path("adapter");
    let eval = |words: &[&str]| {
        let line = "eval --model models/pivot+adapter --name m --data valid.jsonl";
        let finished = workshop.fuselm(line);
        assert_ne!(finished.code, 0, "{words:?}");
        finished.says(words);
    };
    eval(&["adapter `adapter`: no such folder", "`MODEL+ADAPTER`"]);
    fs::create_dir(&adapter).unwrap();
    eval(&["adapter: expected an adapter, there is no `adapter_config.json`"]);
    let mut wrong = config.clone();
    wrong["r"] = json!(4);
    write(&adapter, &wrong, &tensors);
    eval(&[
        "adapter/adapter_model.safetensors",
        "q_proj.lora_A.weight",
        "expected shape [4, 32]",
        "found [2, 32]",
    ]);
    wrong["use_qalora"] = json!(true);
    write(&adapter, &wrong, &tensors);
    eval(&[
        "adapter/adapter_config.json",
        "field `use_qalora`: expected nothing, found true",
    ]);
    // A without B.
    write(&adapter, &config, &tensors[..3]);
    eval(&["A without B", "the adapter is incomplete"]);
    // Another model's.
    let (_, config, tensors) = kinds(&workshop.path("models/twin")).remove(0);
    let third = |(name, shape): &(String, Vec<usize>)| {
        (name.replace("layers.1", "layers.2"), shape.clone())
    };
    let tensors: Shapes = tensors.iter().map(third).collect();
    write(&adapter, &config, &tensors);
    eval(&["the model has no tensor `model.layers.2.mlp.down_proj.weight`"]);
}

#[test]
fn a_run_takes_a_source_with_an_adapter_but_no_such_pivot() {
    let workshop = Workshop::new();
    let (_, config, tensors) = kinds(&workshop.path("models/twin")).remove(0);
    write(&workshop.path("adapter"), &config, &tensors);
    merge(&workshop, "models/twin+adapter", "models/merged");
    let targets = |model: &str, run: &str| {
        workshop.write("recipe.yml", RECIPE);
        workshop.edit("recipe.yml", "RUN", run);
        workshop.edit("recipe.yml", "MODEL", model);
        workshop.fuselm("run recipe.yml").exits(0);
        let kinds = ["topk", "targets", "eval_items"].map(|kind| format!("{run}/{kind}"));
        let all = kinds.iter().flat_map(|kind| parts(&workshop.path(kind)));
        all.map(|part| all_rows(&part)).collect::<Vec<_>>()
    };
    let adapted = targets("models/twin+adapter", "one");
    assert!(adapted == targets("models/merged", "two"));
    assert!(adapted != targets("models/twin", "three"));
    let place = workshop.query("one", "SELECT location FROM models WHERE name = 'twin'");
    let place = place[0]["location"].as_str().unwrap();
    assert!(place.ends_with("models/twin+./adapter"), "{place}");

    // Another adapter in its place: the steps that read it are done again.
    workshop.write("recipe.yml", RECIPE);
    workshop.edit("recipe.yml", "RUN", "one");
    workshop.edit("recipe.yml", "MODEL", "models/twin+adapter");
    let mut stronger = config;
    stronger["lora_alpha"] = json!(9);
    workshop.write("adapter/adapter_config.json", &stronger.to_string());
    let again = workshop.fuselm("run recipe.yml").exits(0);
    assert!(again.number_before("steps done") > 2, "{}", again.stderr);

    let refused = [
        "cannot be a model with an adapter",
        "models/pivot+",
        "`passthrough`",
    ];
    workshop.edit(
        "recipe.yml",
        "model: models/pivot }",
        "model: models/pivot+adapter }",
    );
    workshop.fuselm("run recipe.yml").exits(2).says(&refused);
    let train = "train --run one --model models/pivot+adapter --max-steps 1";
    workshop.fuselm(train).exits(2).says(&refused);
}

const RECIPE: &str = "\
run: RUN
seed: 7
corpus: { inputs: [chat.jsonl], max_tokens: 256 }
pivot: { name: pivot, model: models/pivot }
sources: [{ name: twin, model: MODEL }]
score: { top_k: 8 }
train: { max_steps: 1, batch_tokens: 512 }
eval: [{ task: perplexity, name: valid, data: valid.jsonl }]
";
