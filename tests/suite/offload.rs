//! Scoring a model that is left on disk.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use super::program::{Workshop, data_samples, parts, tiny_model};
use super::rows::all_rows;

/// Bytes of memory of a process that are no file's: the weights of a mapped model do not count.
fn anonymous(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The most anonymous memory that a command was seen to have.
fn peak(workshop: &Workshop, arguments: &str) -> u64 {
    let mut child = workshop.command(arguments).spawn().unwrap();
    let mut peak = 0;
    loop {
        peak = anonymous(&child).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{arguments}: {status}");
            return peak;
        }
        sleep(Duration::from_millis(2));
    }
}

fn assert_same_rows(a: &Path, b: &Path) {
    let (ours, others) = (parts(a), parts(b));
    assert_eq!(ours.len(), others.len());
    for (a, b) in ours.iter().zip(&others) {
        assert!(all_rows(a) == all_rows(b), "{} differs", a.display());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_larger_than_the_memory_used_is_scored_alike() {
    let workshop = Workshop::new();
    // 14 layers of 4.7 million parameters: 264 MB, each layer 19 MB.
    let folder = workshop.path("models/large");
    tiny_model(&data_samples().join("models/pivot"), 14)
        .widened(620)
        .save(&folder, 3);
    let size = fs::metadata(folder.join("model.safetensors"))
        .unwrap()
        .len();
    workshop
        .fuselm("corpus --run run --input chat.jsonl --max-tokens 256 --model large=models/large")
        .exits(0);
    let score = "score --run run --name large --model models/large --batch-tokens 512";
    let in_memory = peak(&workshop, score);
    fs::rename(workshop.path("run/topk"), workshop.path("topk")).unwrap();
    fs::rename(
        workshop.path("run/sequence_metrics"),
        workshop.path("metrics"),
    )
    .unwrap();
    let offload = format!("{score} --offload --offload-memory 0.01");
    let on_disk = peak(&workshop, &offload);
    assert!(size > 250 << 20, "{size}");
    assert!(in_memory > size, "{in_memory} of {size}");
    assert!(on_disk < 160 << 20, "{on_disk}");
    assert_same_rows(&workshop.path("topk"), &workshop.path("run/topk"));
    assert_same_rows(
        &workshop.path("metrics"),
        &workshop.path("run/sequence_metrics"),
    );
}
