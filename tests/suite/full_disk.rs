//! A full disk: a message that says so, no half-written file, and the same command continues.

use super::program::{Workshop, data_samples, shell, tiny_model};

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

/// A workshop with the configuration of a merge, and its output.
fn to_merge() -> Workshop {
    let workshop = Workshop::new();
    let config = "\
merge_method: sce
base_model: models/pivot
models: [{ model: models/other }, { model: models/third }]
parameters: { select_topk: 0.3 }
";
    workshop.write("merge.yml", config);
    let sample = data_samples().join("models/pivot");
    for (seed, name) in [(8, "models/other"), (9, "models/third")] {
        tiny_model(&sample, 2).save(&workshop.path(name), seed);
    }
    workshop.fuselm("merge merge.yml whole").exits(0);
    workshop
}

#[test]
fn a_disk_that_fills_during_a_merge_leaves_no_checkpoint_and_the_merge_continues() {
    let workshop = to_merge();
    if !can_mount(&workshop) {
        return;
    }
    let whole = workshop.path("whole/model.safetensors");
    let pages = std::fs::metadata(&whole).unwrap().len().div_ceil(4096);
    // Too small to begin; just enough for the weights alone, so that the journal's page is one too
    // many; enough for the weights but not for the tokenizer; enough.
    let script = format!(
        "\
        mount -t tmpfs -o size=16k none disk || exit 99
        for pages in {} {} {}; do
          mount -o remount,size=$((pages * 4))k disk || exit 99
          \"$FUSELM\" merge merge.yml disk/merged 2>said
          echo \"exit $?\" >>all; cat said >>all; ls disk >>all
        done
        mount -o remount,size=64m disk || exit 99
        \"$FUSELM\" merge merge.yml disk/merged || exit 98
        ls -A disk >left; cp -r disk/merged merged",
        pages - 2,
        pages,
        pages + 4
    );
    workshop.write("script", &script);
    shell(&workshop.path(""), "unshare -rm sh script").exits(0);
    let all = std::fs::read_to_string(workshop.path("all")).unwrap();
    assert_eq!(all.matches("exit 1\n").count(), 3, "{all}");
    let words = "the merged model takes";
    assert_eq!(all.matches(words).count(), 1, "{all}");
    let words = "No space left on device (os error 28); free some space and run the same command";
    assert_eq!(all.matches(words).count(), 2, "{all}");
    // Nothing under the output's name before the end.
    assert!(!all.contains("\nmerged\n"), "{all}");
    assert!(!all.contains("panicked"), "{all}");
    let left = std::fs::read_to_string(workshop.path("left")).unwrap();
    assert_eq!(left, "merged\n");
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let bytes = |folder: &str| std::fs::read(workshop.path(folder).join(name)).unwrap();
        assert!(bytes("whole") == bytes("merged"), "{name} differs");
    }
}

#[test]
fn a_limit_on_file_sizes_stops_a_merge_with_an_error() {
    let workshop = to_merge();
    let line = "trap '' XFSZ; ulimit -f 20; exec \"$FUSELM\" merge merge.yml merged";
    let finished = shell(&workshop.path(""), line);
    let finished = finished.exits(1).says(&["model.safetensors", "too large"]);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(!workshop.path("merged").exists());
    workshop.fuselm("merge merge.yml merged").exits(0);
    workshop.has_no_leftovers();
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
