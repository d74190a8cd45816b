use std::fs;
use std::path::Path;

use crate::checkpoint::cells::{Cells, in_file, of_tensor};
use crate::checkpoint::*;
use crate::error::Error;
use crate::files::verify;
use crate::tensors::{Dtype, TensorSpec};

/// Bytes without a pattern.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let number = |index: u64| {
        let mut x = (index ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x >> 48) as u8
    };
    (0..count as u64).map(number).collect()
}

#[test]
fn a_tensors_digest_does_not_depend_on_how_it_is_written() {
    for size in [0, 1, 65_535, 65_536, 65_537, 200_000, 1 << 20] {
        let all = bytes(size, 2);
        let expected = of_tensor(&all);
        // Rows of three kinds of length: none, some, and all of them begin cells.
        for step in [1000, 65_500, 65_536, 131_072, 196_500, size.max(1)] {
            let mut places: Vec<usize> = (0..size).step_by(step).collect();
            for turn in 0..2 {
                let cells = Cells::new(size as u64);
                for place in &places {
                    cells.add(*place as u64, &all[*place..(place + step).min(size)]);
                }
                assert_eq!(cells.digest(), Some(expected), "{size} by {step}, {turn}");
                places.reverse();
                let middle = places.len() / 3;
                places.rotate_left(middle);
            }
        }
    }
}

#[test]
fn a_tensor_that_is_not_written_once_has_no_digest_of_what_went_by() {
    let all = bytes(200_000, 3);
    let add = |pieces: &[(usize, usize)]| {
        let cells = Cells::new(200_000);
        for (begin, end) in pieces {
            cells.add(*begin as u64, &all[*begin..*end]);
        }
        cells.digest()
    };
    assert_eq!(add(&[]), None);
    assert_eq!(add(&[(0, 199_999)]), None);
    assert_eq!(add(&[(0, 70_000), (70_001, 200_000)]), None);
    assert_eq!(add(&[(0, 70_000), (69_999, 200_000)]), None);
    assert_eq!(add(&[(0, 200_000), (65_536, 131_072)]), None);
    assert_eq!(add(&[(0, 200_000), (10, 11)]), None);
    assert_eq!(
        add(&[(0, 70_000), (70_000, 200_000)]),
        Some(of_tensor(&all))
    );
}

#[test]
fn a_tensor_in_a_file_has_the_digest_of_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    // More than a thread reads at a time, from an odd byte on.
    let all = bytes(5_000_001, 4);
    fs::write(&path, &all).unwrap();
    for (begin, end) in [(0, 5_000_001), (3, 4_999_999), (7, 8), (9, 9)] {
        let found = in_file(&path, begin as u64..end as u64).unwrap();
        assert_eq!(found, of_tensor(&all[begin..end]));
    }
}

/// A checkpoint of two files and a configuration, with its record.
fn checkpoint(dir: &Path) {
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs = vec![
        spec("a", &[100, 300]),
        spec("none", &[0, 4]),
        spec("b", &[50_000]),
    ];
    let writer = CheckpointWriter::open(dir, Layout::new(specs.clone(), 150_000).unwrap()).unwrap();
    for (at, spec) in specs.iter().enumerate() {
        let all = bytes(spec.bytes() as usize, at as u64);
        let middle = all.len() / 3;
        writer.write(at, middle as u64, &all[middle..]).unwrap();
        writer.write(at, 0, &all[..middle]).unwrap();
        writer.complete(at).unwrap();
    }
    let record = writer.record().unwrap();
    writer.finish(dir).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    fs::create_dir(dir.join("inner")).unwrap();
    fs::write(dir.join("inner/tokenizer.json"), "{ }").unwrap();
    fs::write(dir.join("journal"), "").unwrap();
    record.write(dir, &["journal"]).unwrap();
    fs::remove_file(dir.join("journal")).unwrap();
}

fn damage(dir: &Path) -> Vec<String> {
    let text = |error: &Error| {
        let text = error.to_string();
        let code = if text.contains("is missing") { 1 } else { 3 };
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(text.contains("; "), "no remedy: {text}");
        text
    };
    let record = match FolderRecord::read(dir) {
        Ok(record) => record.unwrap(),
        Err(error) => return vec![text(&error)],
    };
    let problems = record.problems(dir).unwrap();
    if !problems.is_empty() {
        return problems.iter().map(text).collect();
    }
    let found = verify(&record.claims(dir)).unwrap();
    found.iter().map(|(_, error)| text(error)).collect()
}

#[test]
fn every_flipped_byte_of_a_checkpoint_is_found() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path());
    assert_eq!(damage(dir.path()), [""; 0]);
    let mut files: Vec<String> = vec!["config.json".into(), "inner/tokenizer.json".into()];
    files.extend(["model-00001-of-00002.safetensors".into(), RECORD.into()]);
    files.extend(["model-00002-of-00002.safetensors".into()]);
    files.push("model.safetensors.index.json".into());
    let mut flips = 0;
    for name in &files {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let step = (whole.len() / 40).max(1);
        for place in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&path, bytes).unwrap();
            let found = damage(dir.path());
            assert!(!found.is_empty(), "{name} byte {place}");
            assert!(name == RECORD || found[0].contains(name), "{found:?}");
            flips += 1;
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(flips > 150, "{flips}");
    assert_eq!(damage(dir.path()), [""; 0]);
}

#[test]
fn files_of_a_checkpoint_that_are_missing_longer_or_unknown_are_named() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path());
    let config = dir.path().join("config.json");
    fs::remove_file(&config).unwrap();
    assert!(damage(dir.path())[0].contains("config.json: is missing"));
    fs::write(&config, "{ }").unwrap();
    assert!(damage(dir.path())[0].contains("config.json: has 3 bytes, 2 were written"));
    fs::write(&config, "{}").unwrap();
    fs::write(dir.path().join(".DS_Store"), "").unwrap();
    assert_eq!(damage(dir.path()), [""; 0]);
    fs::write(dir.path().join("inner/model-3.safetensors"), "").unwrap();
    assert!(damage(dir.path())[0].contains("inner/model-3.safetensors: is not in"));
}

#[test]
fn a_record_does_not_lead_out_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../x", "/etc/passwd", "a/../../b"] {
        let text = format!("{{\"files\":{{\"{name}\":{{\"bytes\":1,\"digest\":\"0\"}}}}}}");
        fs::write(dir.path().join(RECORD), text).unwrap();
        let error = FolderRecord::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("is no file in it"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_a_checkpoint_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint_dir, other) = (dir.path().join("checkpoint"), dir.path().join("other"));
    fs::create_dir(&checkpoint_dir).unwrap();
    checkpoint(&checkpoint_dir);
    fs::create_dir(&other).unwrap();
    fs::write(other.join("x"), "").unwrap();
    for (name, target) in [("inner/around", &checkpoint_dir), ("out", &other)] {
        let link = checkpoint_dir.join(name);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let found = damage(&checkpoint_dir);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains(&format!("{name}: is not in")),
            "{found:?}"
        );
        fs::remove_file(link).unwrap();
    }
    assert_eq!(damage(&checkpoint_dir), [""; 0]);
}
