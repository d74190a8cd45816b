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
