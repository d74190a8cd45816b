use std::fs;

use super::fixture::*;
use super::*;
use crate::artifact::Kind;

#[test]
fn artifacts_parts_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let topk = run.artifact(Kind::Topk, &["p"]);
    for path in [topk.clone(), topk.join("part-00000.parquet")] {
        let inspection = inspect(&path).unwrap();
        let Inspection::Artifact(report) = &inspection else {
            panic!("{inspection}");
        };
        assert_eq!(
            (report.kind, report.rows, report.samples, report.parts),
            (Kind::Topk, 4, 2, 1)
        );
        let ids = report.columns.iter().find(|c| c.name == "id_gaps").unwrap();
        assert_eq!((ids.data_type.as_str(), ids.values), ("list<u32>", 8));
        let text = inspection.to_string();
        assert!(
            text.contains("bytes per token") && text.contains("vocabulary  digest"),
            "{text}"
        );
    }
    let tokens = inspect(&run.artifact(Kind::Tokens, &["pv", "pivot"])).unwrap();
    let Inspection::Artifact(tokens) = tokens else {
        panic!()
    };
    assert_eq!(tokens.bytes_per_token.unwrap(), tokens.bytes as f64 / 6.0);

    fs::create_dir_all(run.checkpoint("merged")).unwrap();
    fs::write(
        run.artifact(Kind::Steps, &["t"]).join("part-00000.parquet"),
        "x",
    )
    .unwrap();
    let inspection = inspect(dir.path()).unwrap();
    let Inspection::Run(report) = &inspection else {
        panic!()
    };
    assert_eq!(report.checkpoints, ["merged"]);
    let topk = report
        .artifacts
        .iter()
        .find(|a| a.artifact == "topk/teacher=p")
        .unwrap();
    assert_eq!((topk.rows, topk.parts), (4, 1));
    let damaged = report
        .artifacts
        .iter()
        .find(|a| a.artifact == "steps/target=t")
        .unwrap();
    assert!(damaged.problem.as_ref().unwrap().contains("were written"));
    assert!(inspection.to_string().contains("topk/teacher=p"));
    assert!(
        serde_json::to_string(&inspection)
            .unwrap()
            .contains("\"is\":\"run\"")
    );
}

/// A safetensors file with one tensor of 2 × 3 bf16 values.
fn weights() -> Vec<u8> {
    let header = br#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(&[0; 12]);
    file
}

#[test]
fn checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 3}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, weights()).unwrap();
    let inspection = inspect(dir.path()).unwrap();
    let Inspection::Checkpoint(report) = &inspection else {
        panic!()
    };
    assert_eq!((report.tensors, report.parameters), (1, 6));
    assert_eq!(report.dtypes.get("BF16"), Some(&6));
    assert_eq!(report.architecture.as_deref(), Some("LlamaForCausalLM"));
    assert!(inspection.to_string().contains("hidden_size 3"));
    assert!(matches!(inspect(&path), Ok(Inspection::Checkpoint(_))));
    let whole = weights();
    for cut in [0, 7, 20, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = inspect(&path).unwrap_err();
        assert!(
            error.to_string().contains("damaged or incomplete"),
            "{error}"
        );
    }
    fs::write(&path, [255; 64]).unwrap();
    assert!(inspect(&path).is_err());
    assert!(inspect(&dir.path().join("none")).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(inspect(empty.path()).is_err());
}

/// A safetensors file of these tensors, all zeros.
fn tensors(names: &[(&str, safetensors::Dtype, &[usize])]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = names
        .iter()
        .map(|(_, dtype, shape)| vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8])
        .collect();
    let views = names.iter().zip(&data).map(|((name, dtype, shape), data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.to_vec(), data);
        (*name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn shown(path: &std::path::Path, parts: &[&str]) -> String {
    let text = inspect(path).unwrap().to_string();
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in:\n{text}");
    }
    text
}

#[test]
fn models_are_shown_whether_or_not_they_can_be_scored() {
    use safetensors::Dtype::{BF16, U8};
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let config = r#"{"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
        "text_config": {"num_hidden_layers": 24},
        "quantization_config": {"quant_method": "mxfp4"}}"#;
    put("config.json", config.as_bytes());
    let experts = "model.layers.0.mlp.experts.gate_up_proj";
    let (blocks, scales) = (format!("{experts}_blocks"), format!("{experts}_scales"));
    let all = tensors(&[
        ("model.norm.weight", BF16, &[4]),
        (&blocks, U8, &[2, 2, 1, 16]),
        (&scales, U8, &[2, 2, 1]),
    ]);
    put("model.safetensors", &all);
    put("consolidated.safetensors", &all);
    let text = shown(
        dir.path(),
        &[
            "architecture  GptOssForCausalLM",
            "num_hidden_layers 24",
            "tensors       3 in 1 files",
            "quantised     MXFP4",
            "`quantization_config`",
            "\"mxfp4\"",
            "scored        no: ",
            "beside        left out of",
            "`consolidated.safetensors`",
        ],
    );
    assert_eq!(shown(&dir.path().join("config.json"), &[]), text);
    let file = dir.path().join("consolidated.safetensors");
    shown(&file, &["a single safetensors file", "3 in 1 files"]);

    // Only what the index lists is the model.
    fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("a.safetensors"),
    )
    .unwrap();
    let index =
        r#"{"weight_map": {"model.norm.weight": "a.safetensors", "x": "gone.safetensors"}}"#;
    put("model.safetensors.index.json", index.as_bytes());
    shown(
        dir.path(),
        &[
            "tensors       1 in 1 files",
            "unlisted      2 ",
            "missing       1 files",
            "gone.safetensors",
        ],
    );

    let bins = tempfile::tempdir().unwrap();
    fs::write(bins.path().join("config.json"), config).unwrap();
    fs::write(bins.path().join("pytorch_model.bin"), "PK").unwrap();
    shown(
        bins.path(),
        &[
            "GptOssForCausalLM",
            "pickled weights of PyTorch",
            "scored        no: ",
        ],
    );
    let bin = bins.path().join("pytorch_model.bin");
    shown(&bin, &["pickled weights of PyTorch", "save_pretrained"]);
}

#[test]
fn adapters_and_tokenizers_are_shown() {
    use safetensors::Dtype::F32;
    let dir = tempfile::tempdir().unwrap();
    let settings = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8,
        "lora_alpha": 16, "bias": "none", "use_dora": false, "target_modules": ["q_proj"]}"#;
    fs::write(dir.path().join("adapter_config.json"), settings).unwrap();
    let lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let weights = tensors(&[(lora, F32, &[8, 4])]);
    fs::write(dir.path().join("adapter_model.safetensors"), weights).unwrap();
    let text = shown(
        dir.path(),
        &[
            "a LoRA adapter for `org/base`",
            "r 8",
            "lora_alpha 16",
            "q_proj",
            "parameters 32",
            "org/base+",
        ],
    );
    assert!(
        !text.contains("use_dora") && !text.contains("bias"),
        "{text}"
    );
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "PK").unwrap();
    shown(
        dir.path(),
        &[
            "a LoRA adapter for `org/base`, no model, without",
            "pickled adapters",
        ],
    );

    let dir = tempfile::tempdir().unwrap();
    let tokenizer =
        r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": [{}]}"#;
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("tokenizer.json")] {
        shown(
            &path,
            &[
                "a tokenizer, without a model",
                "kind BPE",
                "pieces 2",
                "added_tokens 1",
            ],
        );
    }
}

/// The header of a GGUF file of this architecture: one tensor of a type that is not read.
fn gguf(architecture: &str, kind: Option<&str>) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let pair =
        |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend((2 + u64::from(kind.is_some())).to_le_bytes());
    file.extend(pair("general.architecture", architecture));
    if let Some(kind) = kind {
        file.extend(pair("general.type", kind));
    }
    file.extend(text(&format!("{architecture}.block_count")));
    file.extend(4u32.to_le_bytes());
    file.extend(7u32.to_le_bytes());
    file.extend(text("blk.0.w"));
    file.extend(2u32.to_le_bytes());
    file.extend(32u64.to_le_bytes());
    file.extend(3u64.to_le_bytes());
    file.extend(20u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file
}

#[test]
fn gguf_files_of_every_architecture_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    for (name, architecture, kind, words) in [
        ("a.gguf", "granitehybrid", None, "a GGUF file"),
        (
            "mmproj-x.gguf",
            "clip",
            Some("mmproj"),
            "an encoder of images",
        ),
        ("lora.gguf", "llama", Some("adapter"), "a LoRA adapter"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, gguf(architecture, kind)).unwrap();
        let layers = "block_count 7";
        shown(
            &path,
            &[
                architecture,
                words,
                layers,
                "IQ4_NL 96",
                "scored        no: ",
            ],
        );
    }
    let path = dir.path().join("a.gguf");
    fs::write(&path, "").unwrap();
    assert!(
        inspect(&path)
            .unwrap_err()
            .to_string()
            .contains("not a GGUF file")
    );
    fs::write(&path, &gguf("x", None)[..60]).unwrap();
    assert!(inspect(&path).unwrap_err().to_string().contains("damaged"));
    // A folder of such files.
    fs::write(&path, gguf("x", None)).unwrap();
    shown(dir.path(), &["GGUF files", "scored        no: "]);
}
