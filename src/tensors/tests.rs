use std::path::Path;

use super::*;

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

/// A file with the given header text and `data` bytes of zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refused(bytes: &[u8], expected: &str) {
    let error = Header::parse(Path::new("x.safetensors"), bytes).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains(expected),
        "expected `{expected}` in `{error}`"
    );
    assert!(error.contains("x.safetensors"));
}

#[test]
fn hostile_headers_are_refused_with_a_reason() {
    refused(b"", "found 0 bytes");
    refused(&[1, 2, 3], "found 3 bytes");
    refused(&[0xff; 16], "the limit is");
    refused(&file("{}", 0)[..9], "the header claims 2 bytes");
    refused(&file("not json", 0), "not what it should be");
    refused(&file("{}", 3), "3 bytes after the last tensor");
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    refused(&file(&one("F32", "[2]", "[0,4]"), 4), "takes 8 bytes");
    refused(&file(&one("F32", "[2]", "[8,0]"), 8), "takes 8 bytes");
    refused(
        &file(&one("F32", "[2]", "[0,8]"), 4),
        "the file holds 4 bytes",
    );
    refused(&file(&one("F32", "[1]", "[4,8]"), 8), "leave a gap");
    refused(
        &file(&one("Q4", "[1]", "[0,4]"), 4),
        "`Q4` is not supported",
    );
    refused(
        &file(&one("F32", "[-1]", "[0,4]"), 4),
        "not what it should be",
    );
    let huge = one("F32", "[4294967296,4294967296,4294967296]", "[0,0]");
    refused(&file(&huge, 0), "overflows");
    refused(
        &file(
            &one("F32", "[1]", "[18446744073709551612,18446744073709551615]"),
            4,
        ),
        "takes 4 bytes",
    );
    let t = r#"{"dtype":"U8","shape":[4],"data_offsets":"#;
    refused(
        &file(&format!(r#"{{"a":{t}[0,4]}},"b":{t}[2,6]}}}}"#), 6),
        "overlap",
    );
    refused(
        &file(&format!(r#"{{"a":{t}[0,4]}},"a":{t}[4,8]}}}}"#), 8),
        "occurs twice",
    );
}

#[test]
fn every_truncation_and_bit_flip_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), three(), 1 << 30);
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    for length in 0..bytes.len() {
        assert!(Header::parse(Path::new("x"), &bytes[..length]).is_err());
    }
    let header = bytes.len() - 34;
    for at in 0..header {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            // Either refused, or everything it describes lies inside the file.
            if let Ok(header) = Header::parse(Path::new("x"), &flipped) {
                assert!(header.tensors.iter().all(|t| t.end <= bytes.len()));
            }
        }
    }
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
    std::fs::remove_file(&index).unwrap();
    let error = Checkpoint::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("found neither"), "{error}");
    assert!(Checkpoint::open(&dir.path().join("nowhere")).is_err());
}
