//! A full disk: a message that says so, no half-written file, and the same command continues.

use super::program::{Workshop, shell};

/// Whether the shell can mount a small disk of its own, as root or in a user namespace.
fn can_mount(workshop: &Workshop) -> bool {
    let line = "mkdir -p disk && unshare -rm mount -t tmpfs -o size=64k none disk";
    let can = shell(&workshop.path(""), line).code == 0;
    if !can {
        eprintln!("skipped: no file system can be mounted here");
    }
    can
}

#[test]
fn a_full_disk_is_said_and_the_run_continues_on_a_larger_one() {
    let workshop = Workshop::new();
    if !can_mount(&workshop) {
        return;
    }
    // From too small for the corpus to almost enough; then the disk grows.
    let script = "\
        mount -t tmpfs -o size=16k none disk || exit 99
        for size in 60 100 140 200 260 320 380 440 500 560 620 700 800; do
          mount -o remount,size=${size}k disk || exit 99
          \"$FUSELM\" run recipe.yml --run-dir disk/run 2>said && break
          echo \"exit $?\" >>all; cat said >>all
          find disk -name '*.tmp-*' -o -name '*.partial' -o -name '*.old' | sed 's/^/left /' >>all
        done
        mount -o remount,size=64m disk || exit 99
        \"$FUSELM\" run recipe.yml --run-dir disk/run || exit 98
        \"$FUSELM\" check disk/run";
    workshop.write("script", script);
    shell(&workshop.path(""), "unshare -rm sh script").exits(0);
    let all = std::fs::read_to_string(workshop.path("all")).unwrap();
    let failures = all.matches("exit ").count();
    assert!(failures >= 3, "only {failures} were full\n{all}");
    assert_eq!(all.matches("exit 1\n").count(), failures, "{all}");
    let words = "No space left on device (os error 28); free some space";
    assert_eq!(all.matches(words).count(), failures, "{all}");
    assert!(!all.contains("left disk"), "{all}");
    assert!(!all.contains("panicked"), "{all}");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_like_any_other() {
    let workshop = Workshop::new();
    // Blocks of 512 or 1,024 bytes: below the size of a checkpoint.
    let line = "trap '' XFSZ; ulimit -f 100; exec \"$FUSELM\" run recipe.yml";
    let finished = shell(&workshop.path(""), line);
    let finished = finished.exits(1).says(&["run/checkpoints", "arge"]);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.has_no_leftovers();
}
