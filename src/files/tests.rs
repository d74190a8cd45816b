use std::fs;
use std::io::Write;
use std::path::Path;

use super::*;

#[test]
fn a_hashing_writer_sees_what_is_written() {
    let all: Vec<u8> = (0..300_000u32)
        .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    let mut writer = Hashing::new(Vec::new());
    for piece in all.chunks(7_777) {
        writer.write_all(piece).unwrap();
    }
    assert!(*writer.inner() == all);
    let record = writer.record();
    assert_eq!(record.bytes, 300_000);
    assert_eq!(record.digest, hex(&blake3::hash(&all)));
}

#[cfg(unix)]
#[test]
fn a_file_of_several_names_is_read_once_and_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "x").unwrap();
    fs::hard_link(&path, dir.path().join("b")).unwrap();
    fs::write(dir.path().join("c"), "x").unwrap();
    let claim = |name: &str| Claim {
        path: dir.path().join(name),
        expected: FileRecord {
            bytes: 1,
            digest: "0".repeat(32),
            of: Of::Bytes,
        },
        digest: digest_of_path,
        remedy: "write it again",
    };
    let found = verify(&["a", "b", "c"].map(claim)).unwrap();
    let found: Vec<String> = found.iter().map(|(_, error)| error.to_string()).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    for (error, name) in found.iter().zip(["a", "c"]) {
        assert!(
            error.starts_with(&dir.path().join(name).display().to_string()),
            "{error}"
        );
        assert!(error.ends_with("; write it again"), "{error}");
    }
    let stamp = |path: &Path| Stamp::of(&fs::metadata(path).unwrap());
    assert_eq!(stamp(&path).file(), stamp(&dir.path().join("b")).file());
    assert_ne!(stamp(&path).file(), stamp(&dir.path().join("c")).file());
    // Files of the same number lie on other devices.
    let proc = Path::new("/proc/self/stat");
    if proc.exists() {
        assert_ne!(
            stamp(&path).file().unwrap().0,
            stamp(proc).file().unwrap().0
        );
    }
}

#[test]
fn digests_follow_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "one").unwrap();
    let one = digest::file(&path).unwrap();
    fs::write(&path, "two").unwrap();
    assert_ne!(one, digest::file(&path).unwrap());
    assert_eq!(one.len(), 32);
}
