use std::path::Path;

use crate::checkpoint::*;
use crate::tensors::{Dtype, Elements, TensorSpec};

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    }
}

fn write(dir: &Path, specs: Vec<TensorSpec>, shard_size: u64) {
    let layout = Layout::new(specs, shard_size).unwrap();
    let writer = CheckpointWriter::open(dir, layout).unwrap();
    for (at, tensor) in writer.layout().tensors().to_vec().iter().enumerate() {
        let values: Vec<f32> = (0..tensor.elements()).map(|i| (i + at) as f32).collect();
        let mut bytes = vec![0; tensor.bytes() as usize];
        tensor.dtype.encode(&values, &mut bytes);
        // Out of order, in two pieces.
        let half = bytes.len() / 2;
        writer.write(at, half as u64, &bytes[half..]).unwrap();
        writer.write(at, 0, &bytes[..half]).unwrap();
    }
    writer.finish(dir).unwrap();
}

fn three() -> Vec<TensorSpec> {
    vec![
        spec("a", Dtype::BF16, &[2, 3]),
        spec("b", Dtype::F32, &[5]),
        spec("c", Dtype::F16, &[]),
    ]
}

#[test]
fn what_is_written_is_read_back_single_and_sharded() {
    for (shard_size, files) in [(1 << 30, 1), (32, 2), (1, 3)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), three(), shard_size);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.files().count(), files);
        assert_eq!(checkpoint.bytes(), 12 + 20 + 2);
        let names: Vec<_> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let a = checkpoint.tensor("a").unwrap();
        assert_eq!((a.dtype, a.shape), (Dtype::BF16, [2, 3].as_slice()));
        assert_eq!(a.to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut middle = [0.0; 2];
        checkpoint.tensor("b").unwrap().read(2, &mut middle);
        assert_eq!(middle, [3.0, 4.0]);
        assert_eq!(checkpoint.tensor("c").unwrap().to_f32(), [2.0]);
        checkpoint.read_ahead("a", 0..4);
        checkpoint.release("a", 0..4, true);
        assert_eq!(a.to_f32()[5], 5.0);
        // The format's own implementation agrees.
        for file in checkpoint.files() {
            safetensors::SafeTensors::deserialize(&std::fs::read(file).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        vec![spec("lm_head.weight", Dtype::F32, &[1])],
        100,
    );
    let error = Checkpoint::open(dir.path()).unwrap();
    let error = error.tensor("lm_head.weigth").unwrap_err().to_string();
    assert!(error.contains("did you mean `lm_head.weight`?"), "{error}");
}

#[test]
fn an_index_stays_in_its_folder_and_tells_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), three(), 32);
    let index = dir.path().join("model.safetensors.index.json");
    let good = std::fs::read_to_string(&index).unwrap();
    let refused = |text: String, expected: &str| {
        std::fs::write(&index, text).unwrap();
        let error = Checkpoint::open(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains(expected),
            "expected `{expected}` in `{error}`"
        );
    };
    let first = "model-00001-of-00002.safetensors";
    refused(
        good.replace(first, "../up.safetensors"),
        "outside the folder",
    );
    refused(good.replace(first, "/etc/passwd"), "outside the folder");
    refused(
        good.replace(first, "nope.safetensors"),
        "`nope.safetensors` is missing",
    );
    refused(
        good.replace("\"a\":", "\"z\":"),
        "tensor `z` is not in shard",
    );
    refused("{".into(), "expected a weight map");
    refused("[]".into(), "expected a weight map");
    refused(good.replace(first, ""), "outside the folder");
    refused(good.replace(first, "."), "outside the folder");
    refused(good.replace(first, "x/../../y"), "outside the folder");
    refused(good.replace("\"b\":", "\"a\":"), "`a` occurs twice");
    // All names in the wrong place.
    let second = "model-00002-of-00002.safetensors";
    refused(good.replace(first, second), "is not in shard");
    // A copy of a shard under another name.
    let copy = dir.path().join("copy.safetensors");
    std::fs::copy(dir.path().join(first), &copy).unwrap();
    std::fs::write(&index, good.replacen(first, "copy.safetensors", 1)).unwrap();
    let found = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(found.file_of("a"), Some(copy.as_path()));
    assert_eq!((found.tensors().len(), found.unlisted().len()), (3, 2));
    #[cfg(unix)]
    {
        // A download cache is made of links to files elsewhere: they are followed.
        let elsewhere = tempfile::tempdir().unwrap();
        let blob = elsewhere.path().join("blob");
        std::fs::rename(dir.path().join(first), &blob).unwrap();
        std::os::unix::fs::symlink(&blob, dir.path().join(first)).unwrap();
        std::fs::write(&index, &good).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 3);
        std::fs::remove_file(&blob).unwrap();
        refused(good.clone(), &format!("`{first}` is missing"));
    }
    std::fs::remove_file(&index).unwrap();
    let error = Checkpoint::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("found neither"), "{error}");
    assert!(Checkpoint::open(&dir.path().join("nowhere")).is_err());
}

#[test]
fn shards_in_folders_of_the_folder_are_read_and_count_for_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), three(), 32);
    let [first, second] = [1, 2].map(|n| format!("model-0000{n}-of-00002.safetensors"));
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::rename(dir.path().join(&second), inner.join(&second)).unwrap();
    let index = dir.path().join(INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace(&second, &format!("inner/{second}"))).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 3);
    assert_eq!(
        weight_files(dir.path()).unwrap(),
        [format!("inner/{second}"), first]
    );
    let before = model_digest(dir.path()).unwrap();
    let path = inner.join(&second);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(model_digest(dir.path()).unwrap(), before);
}

#[test]
fn a_folder_without_weights_has_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    let error = model_digest(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no `*.safetensors` file here"), "{error}");
    assert!(!has_weights(dir.path()));
}

#[test]
fn the_index_defines_a_model_not_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), three(), 32);
    let digest = model_digest(dir.path()).unwrap();
    let files = weight_files(dir.path()).unwrap();
    assert_eq!(files.len(), 2);
    // A copy in another layout, and shards of an older version.
    for name in [
        "consolidated.safetensors",
        "model-00003-of-00003.safetensors",
    ] {
        std::fs::copy(dir.path().join(&files[0]), dir.path().join(name)).unwrap();
    }
    assert_eq!(weight_files(dir.path()).unwrap(), files);
    assert_eq!(model_digest(dir.path()).unwrap(), digest);
    // A stale tensor in a shard of the model.
    let index = dir.path().join(INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    let mut parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    parsed["weight_map"].as_object_mut().unwrap().remove("b");
    std::fs::write(&index, parsed.to_string()).unwrap();
    let found = Checkpoint::open(dir.path()).unwrap();
    assert!(found.info("b").is_none() && found.info("a").is_some());
    assert_eq!(found.unlisted(), ["b"]);
    // A whole file beside an index of shards: the file, as in transformers.
    let single = dir.path().join(SINGLE);
    std::fs::copy(dir.path().join(&files[1]), &single).unwrap();
    assert_eq!(weight_files(dir.path()).unwrap(), [SINGLE]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 1);
}
