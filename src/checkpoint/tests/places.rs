use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::*;
use crate::error::Result;

/// A temporary folder and the place `out` in it.
struct Fixture {
    dir: tempfile::TempDir,
    out: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        Self { dir, out }
    }

    /// Another program's folder in the place.
    fn appears(&self, text: &str) {
        fs::create_dir_all(&self.out).unwrap();
        fs::write(self.out.join("theirs"), text).unwrap();
    }

    /// What lies beside and in the place.
    fn holds(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            found.push(entry.unwrap().file_name().into_string().unwrap());
        }
        if let Ok(entries) = fs::read_dir(&self.out) {
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            found.extend(names.map(|name| format!("out/{name}")));
        }
        found.sort();
        found
    }
}

fn write(dir: &Path) -> Result<FolderRecord> {
    fs::write(dir.join("ours"), "whole").unwrap();
    Ok(FolderRecord::default())
}

const OURS: [&str; 3] = ["out", "out/fuselm-digests.json", "out/ours"];

#[test]
fn a_folder_takes_an_empty_place_and_that_of_the_folder_it_was_planned_for() {
    let f = Fixture::new();
    let publish = |force| {
        Target::look(&f.out, force)
            .unwrap()
            .begin("test")
            .unwrap()
            .fill(write)
    };
    publish(false).unwrap();
    assert_eq!(f.holds(), OURS);
    fs::remove_dir_all(&f.out).unwrap();
    fs::create_dir(&f.out).unwrap();
    publish(false).unwrap();
    assert_eq!(f.holds(), OURS);
    f.appears("x");
    assert!(Target::look(&f.out, false).unwrap().is_taken());
    publish(false).unwrap();
    assert_eq!(f.holds(), OURS);
}

#[test]
fn a_folder_that_appeared_or_changed_meanwhile_is_kept() {
    for force in [false, true] {
        for begun in [false, true] {
            for before in [false, true] {
                let f = Fixture::new();
                if before {
                    f.appears("before");
                }
                let target = Target::look(&f.out, force).unwrap();
                let result = if begun {
                    target.begin("test").unwrap().fill(|dir| {
                        f.appears("meanwhile");
                        write(dir)
                    })
                } else {
                    f.appears("meanwhile");
                    target.begin("test").map(drop)
                };
                let error = result.unwrap_err();
                assert_eq!(error.exit_code(), 2);
                let what = if before { "changed" } else { "appeared" };
                assert!(error.to_string().contains(what), "{error}");
                assert_eq!(f.holds(), ["out", "out/theirs"]);
                assert_eq!(
                    fs::read_to_string(f.out.join("theirs")).unwrap(),
                    "meanwhile"
                );
            }
        }
    }
}

#[test]
fn with_force_another_checkpoint_of_ours_is_replaced() {
    let f = Fixture::new();
    let [first, second, third] = [false, true, false].map(|force| Target::look(&f.out, force));
    first.unwrap().begin("one").unwrap().fill(write).unwrap();
    second.unwrap().begin("two").unwrap().fill(write).unwrap();
    assert_eq!(f.holds(), OURS);
    assert!(third.unwrap().begin("three").is_err());
}

#[test]
fn one_process_has_the_place() {
    let f = Fixture::new();
    let target = Target::look(&f.out, true).unwrap();
    let place = target.begin("merge").unwrap();
    let error = target.begin("train").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("(fuselm merge, process "),
        "{error}"
    );
    drop(place);
    assert!(f.holds().is_empty());
    target.begin("train").unwrap().fill(write).unwrap();
    assert_eq!(f.holds(), OURS);
}

#[test]
fn after_an_error_nothing_is_left() {
    let f = Fixture::new();
    f.appears("x");
    let target = Target::look(&f.out, true).unwrap();
    let failed = target.begin("test").unwrap().fill(|dir| {
        fs::write(dir.join("half"), "").unwrap();
        Err(crate::error::Error::Interrupted)
    });
    assert!(failed.is_err());
    assert_eq!(f.holds(), ["out", "out/theirs"]);
}

#[test]
fn the_older_folder_comes_back_where_a_process_ended_between_two_renames() {
    let f = Fixture::new();
    f.appears("x");
    fs::rename(&f.out, f.dir.path().join(".out.old")).unwrap();
    let target = Target::look(&f.out, false).unwrap();
    assert!(target.is_taken() && target.holds("theirs"));
    drop(target.begin("test").unwrap());
    assert_eq!(f.holds(), ["out", "out/theirs"]);
    // And is removed where the newer one is there.
    fs::create_dir(f.dir.path().join(".out.old")).unwrap();
    drop(target.begin("test").unwrap());
    assert_eq!(f.holds(), ["out", "out/theirs"]);
}

#[cfg(unix)]
#[test]
fn a_link_is_replaced_and_what_it_leads_to_is_kept() {
    let f = Fixture::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for name in [None, Some("x")] {
        if let Some(name) = name {
            fs::write(elsewhere.path().join(name), "").unwrap();
        }
        let _ = fs::remove_dir_all(&f.out);
        std::os::unix::fs::symlink(elsewhere.path(), &f.out).unwrap();
        let target = Target::look(&f.out, false).unwrap();
        assert_eq!(target.is_taken(), name.is_some());
        target.begin("test").unwrap().fill(write).unwrap();
        assert_eq!(f.holds(), OURS);
        assert!(elsewhere.path().is_dir() && !f.out.is_symlink());
    }
    assert!(elsewhere.path().join("x").exists());
}

#[test]
fn of_two_at_once_one_is_there_whole_and_the_other_is_told() {
    let mut refused = 0;
    for round in 0..80 {
        let f = Fixture::new();
        let force = round % 2 == 1;
        if round % 4 == 1 {
            let target = Target::look(&f.out, false).unwrap();
            target.begin("test").unwrap().fill(write).unwrap();
        }
        let publish = |text: &str| {
            let target = Target::look(&f.out, force)?;
            if target.is_taken() && !force {
                return Err(crate::error::Error::usage("not empty"));
            }
            target.begin("test")?.fill(|dir| {
                for file in 0..20 {
                    fs::write(dir.join(format!("{file}")), text).unwrap();
                }
                Ok(FolderRecord::default())
            })
        };
        let results = std::thread::scope(|scope| {
            ["one", "two"]
                .map(|text| scope.spawn(move || publish(text)))
                .map(|thread| thread.join().unwrap())
        });
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(error.exit_code(), 2, "{error}");
            refused += 1;
        }
        assert!(results.iter().any(Result::is_ok), "{results:?}");
        let names = f.holds();
        assert_eq!((names.len(), names[0].as_str()), (22, "out"), "{names:?}");
        let text = |file: u32| fs::read_to_string(f.out.join(format!("{file}"))).unwrap();
        assert!((1..20).all(|file| text(file) == text(0)));
    }
    assert!(refused > 20, "{refused}");
}
