//! Which files of a model's folder belong to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::checkpoint::*;

fn put(dir: &Path, files: &[&str]) {
    for file in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file.as_bytes()).unwrap();
    }
}

/// The files below a folder, by their paths in it.
fn listed(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let inside = path.strip_prefix(dir).unwrap();
                    found.insert(inside.to_str().unwrap().replace('\\', "/"));
                }
            }
        }
    }
    found
}

const CARRIED: [&str; 20] = [
    "1_Pooling/config.json",
    "LICENSE.txt",
    "USE_POLICY.md",
    "additional_chat_templates/rag.jinja",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "configuration_x.py",
    "generation_config.json",
    "modeling_x.py",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "tiktoken.model",
    "tokenization_x.py",
    "tokenizer.json",
    "tokenizer_config.json",
    "voices/a/b.json",
];

const LEFT: [&str; 12] = [
    "config.json",
    "README.md",
    "model.safetensors",
    "consolidated.safetensors",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "x-Q4_K_M.gguf",
    "tf_model.h5",
    "original/params.json",
    "onnx/config.json",
    "checkpoint-10/trainer_state.json",
    ".git/config",
];

#[test]
fn everything_that_is_no_weight_is_carried_along() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    put(dir.path(), &CARRIED);
    put(dir.path(), &LEFT);
    put(
        dir.path(),
        &["adapter/adapter_config.json", "adapter/notes.txt"],
    );
    let companions = Companions::of(dir.path()).unwrap();
    companions.copy(to.path(), |_| true).unwrap();
    assert_eq!(listed(to.path()), CARRIED.map(str::to_owned).into());
    let text = fs::read_to_string(to.path().join("1_Pooling/config.json")).unwrap();
    assert_eq!(text, "1_Pooling/config.json");
    let said = companions.left_out(|_| None).unwrap();
    for part in [
        "`consolidated.safetensors`",
        "`tf_model.h5`",
        "`x-Q4_K_M.gguf`",
        "weights that the model does not consist of",
        "`original/`",
        "`onnx/`",
        "`checkpoint-10/`",
        "`adapter/` (an adapter)",
    ] {
        assert!(said.contains(part), "expected `{part}` in {said}");
    }
    // What is the model, or written anew, is not said.
    for part in ["`model.safetensors`", "README", "`config.json`", ".git"] {
        assert!(!said.contains(part), "{said}");
    }
    let said = companions.left_out(|role| (role == Role::Slow).then_some("slow"));
    assert!(
        said.unwrap()
            .contains("`tekken.json`, `tiktoken.model` (slow)")
    );
}

#[test]
fn what_is_carried_along_counts_for_what_is_made() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &["tokenizer.json", "model.safetensors"]);
    let digest = || companions_digest(dir.path()).unwrap();
    let first = digest();
    put(
        dir.path(),
        &[
            "README.md",
            "consolidated.safetensors",
            "onnx/x.json",
            ".cache/x",
        ],
    );
    assert_eq!(digest(), first);
    put(dir.path(), &["1_Pooling/config.json"]);
    assert_ne!(digest(), first);
    assert_eq!(
        companions_digest(&dir.path().join("none")).unwrap(),
        companions_digest(tempfile::tempdir().unwrap().path()).unwrap()
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_within_a_cache_and_not_beyond() {
    use std::os::unix::fs::symlink;
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("models--o--m");
    let snapshot = cache.join("snapshots/abc");
    put(&cache, &["blobs/1", "blobs/2", "blobs/3"]);
    put(home.path(), &["secret"]);
    fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
    symlink("../../blobs/1", snapshot.join("tokenizer.json")).unwrap();
    symlink("../../blobs/2", snapshot.join("notes.txt")).unwrap();
    symlink("../../../blobs/3", snapshot.join("1_Pooling/config.json")).unwrap();
    symlink("../../../secret", snapshot.join("stolen.txt")).unwrap();
    symlink(home.path(), snapshot.join("all")).unwrap();
    symlink("nothing", snapshot.join("dangling.txt")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let companions = Companions::of(&snapshot).unwrap();
    companions.copy(to.path(), |_| true).unwrap();
    let expected = ["1_Pooling/config.json", "notes.txt", "tokenizer.json"];
    assert_eq!(listed(to.path()), expected.map(str::to_owned).into());
    assert!(!to.path().join("notes.txt").is_symlink());
    let said = companions.left_out(|_| None).unwrap();
    for part in [
        "`all`, `stolen.txt` (a link out of the folder)",
        "`dangling.txt` (a link to nothing)",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // A folder that is itself reached by a link; a folder of links into the cache.
    let other = home.path().join("other");
    symlink(&snapshot, &other).unwrap();
    assert_eq!(
        Companions::of(&other)
            .unwrap()
            .left_out(|_| None)
            .unwrap()
            .matches('`')
            .count(),
        6
    );
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    symlink(cache.join("blobs/2"), folder.join("notes.txt")).unwrap();
    assert!(
        Companions::of(&folder)
            .unwrap()
            .left_out(|_| None)
            .is_none()
    );
}

#[test]
fn large_files_are_not_taken_for_companions() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &["small.dat", "large.dat"]);
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join("large.dat"))
        .unwrap();
    file.set_len((256 << 20) + 1).unwrap();
    let companions = Companions::of(dir.path()).unwrap();
    let said = companions.left_out(|_| None).unwrap();
    assert!(
        said.contains("`large.dat` (too large); companions have at most"),
        "{said}"
    );
}
