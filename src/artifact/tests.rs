use std::fs;
use std::path::Path;

use super::distribution::{Distribution, DistributionBuilder, Distributions, LOGPROB_STEP};
use super::rows::{BySample, SampleCursor};
use super::tokens::SampleTokens;
use super::*;

fn info(index: u32, first_sample: u64, samples: u64, last: bool) -> PartInfo {
    PartInfo {
        index,
        first_sample,
        samples,
        last,
    }
}

/// Two parts: samples 0..3 with rows for 0 and 2, then 3..5 with 9,000 rows for sample 3.
fn write_topk(dir: &Path, existing: Existing, k: u64) -> crate::error::Result<()> {
    let provenance = Provenance::new(Kind::Topk)
        .vocabulary("v")
        .options(serde_json::json!({ "top_k": k }));
    let writer = Writer::create(dir, provenance, existing)?;
    let mut rows = DistributionBuilder::topk();
    let push = |rows: &mut DistributionBuilder, sample, pos| {
        let row = Distribution {
            pos,
            target_id: 7,
            target_logprob: -0.123_456,
            tail_logprob: -3.0,
            ids: &[7, 9],
            logprobs: &[-0.123_456, -2.5],
        };
        rows.push(sample, row);
    };
    let mut part = writer.part(info(0, 0, 3, false))?;
    for (sample, pos) in [(0, 1), (0, 2), (2, 0)] {
        push(&mut rows, sample, pos);
    }
    part.write(&rows.finish()?)?;
    part.finish()?;
    let mut part = writer.part(info(1, 3, 2, true))?;
    for pos in 0..9000 {
        push(&mut rows, 3, pos);
    }
    part.write(&rows.finish()?)?;
    part.finish()
}

#[test]
fn rows_come_back_sample_by_sample_across_batches() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    let artifact = Artifact::open(dir.path(), Kind::Topk).unwrap();
    assert_eq!((artifact.rows(), artifact.samples()), (9003, 5));
    let counts: Vec<(u64, usize)> = artifact
        .parts()
        .iter()
        .flat_map(|part| BySample::new(part).unwrap())
        .map(|rows| {
            rows.map(|rows| (rows.sample_id, rows.rows.num_rows()))
                .unwrap()
        })
        .collect();
    assert_eq!(counts, [(0, 2), (2, 1), (3, 9000)]);

    let mut cursor = SampleCursor::new(&artifact.parts()[0]).unwrap();
    assert_eq!(cursor.seek(0).unwrap().unwrap().num_rows(), 2);
    assert!(cursor.seek(1).unwrap().is_none());
    let batch = cursor.seek(2).unwrap().unwrap();
    let rows = Distributions::new(&batch).unwrap();
    let row = rows.row(0);
    assert_eq!((row.pos, row.ids), (0, &[7, 9][..]));
    // The target's log-probability is exact, the list's are rounded.
    assert_eq!(row.target_logprob, -0.123_456);
    assert!((row.logprobs[0] + 0.123_456).abs() <= LOGPROB_STEP / 2.0);
    assert_eq!(row.logprobs[1], -2.5);
    assert!(cursor.seek(99).unwrap().is_none());
}

#[test]
fn equal_results_are_resumed_and_others_refused_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    let same = Provenance::new(Kind::Topk)
        .vocabulary("v")
        .options(serde_json::json!({ "top_k": 2 }));
    assert!(
        Writer::create(dir.path(), same.clone(), Existing::Refuse)
            .unwrap()
            .is_complete()
    );
    fs::remove_file(dir.path().join("part-00000.parquet")).unwrap();
    let resumed = Writer::create(dir.path(), same, Existing::Refuse).unwrap();
    assert!(!resumed.is_complete() && resumed.is_done(1) && !resumed.is_done(0));

    let error = write_topk(dir.path(), Existing::Refuse, 3).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("top_k: 2 -> 3"), "{error}");
    write_topk(dir.path(), Existing::Replace, 3).unwrap();
    Artifact::open(dir.path(), Kind::Topk).unwrap();
}

#[test]
fn missing_parts_and_damage_are_found_when_opening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        Artifact::open(dir.path(), Kind::Topk)
            .unwrap_err()
            .to_string()
    };
    assert!(open().contains("no `topk` artifact here"));
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    let last = dir.path().join("part-00001.parquet");
    let whole = fs::read(&last).unwrap();

    fs::remove_file(&last).unwrap();
    assert!(open().contains("part 1 is missing"), "{}", open());
    for cut in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&last, &whole[..cut]).unwrap();
        assert!(open().contains("not a complete Parquet file"), "{}", open());
    }
    let mut wrong = whole.clone();
    let place = wrong.windows(5).rposition(|w| w == b"top_k").unwrap();
    wrong[place] = b'T';
    fs::write(&last, &wrong).unwrap();
    assert!(open().contains("damaged"), "{}", open());
    fs::write(&last, &whole).unwrap();
    fs::remove_file(dir.path().join("part-00000.parquet")).unwrap();
    assert!(open().contains("part 0 is missing"), "{}", open());
    let error = Artifact::open(dir.path(), Kind::Tokens)
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds `topk`, expected `tokens`"), "{error}");
}

#[test]
fn an_unfinished_part_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), Provenance::new(Kind::Topk), Existing::Refuse).unwrap();
    drop(writer.part(PartInfo::ONLY).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn tokens_round_trip_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let samples = vec![
        SampleTokens {
            sample_id: 0,
            ids: vec![1, 5, 6],
            byte_end: vec![0, 2, 4],
            supervised: vec![false, false, true],
        },
        SampleTokens {
            sample_id: 1,
            ..Default::default()
        },
    ];
    let writer =
        Writer::create(dir.path(), Provenance::new(Kind::Tokens), Existing::Refuse).unwrap();
    let mut part = writer.part(info(0, 0, 2, true)).unwrap();
    part.write(&tokens::to_batch(&samples).unwrap()).unwrap();
    part.finish().unwrap();
    let artifact = Artifact::open(dir.path(), Kind::Tokens).unwrap();
    assert_eq!(tokens::read_part(&artifact.parts()[0]).unwrap(), samples);
    assert_eq!(samples[0].predicted().collect::<Vec<_>>(), [1]);
    assert_eq!((samples[0].byte_start(0), samples[0].byte_start(2)), (0, 2));
}

#[test]
fn identity_ignores_key_order_and_program_version_only() {
    let a = Provenance::new(Kind::Topk).options(serde_json::json!({"a": 1, "b": {"c": 2, "d": 3}}));
    let mut b =
        Provenance::new(Kind::Topk).options(serde_json::json!({"b": {"d": 3, "c": 2}, "a": 1}));
    b.tool = "0.0.0".into();
    assert_eq!(a.identity(), b.identity());
    assert_ne!(a.identity(), a.clone().model("m").identity());
    assert_ne!(a.identity(), a.clone().input("x", "y").identity());
    assert!(a.differences(&b).is_empty());
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for bad in ["", ".", "..", "a/b", "a b", ".hidden", "é"] {
        assert!(check_name("model", bad).is_err(), "{bad}");
    }
    check_name("model", "Qwen2.5-0.5B_x").unwrap();
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
    assert!(
        digest::model(dir.path())
            .unwrap_err()
            .to_string()
            .contains("safetensors")
    );
}
