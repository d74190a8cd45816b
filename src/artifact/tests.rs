use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::distribution::{Distribution, DistributionBuilder, Distributions};
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
    assert!((row.target_logprob + 0.123_456).abs() <= 0.5 / 1024.0);
    assert!((row.logprobs[0] + 0.123_456).abs() < 0.005);
    assert!((row.logprobs[1] + 2.5).abs() < 0.01);
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
fn what_is_replaced_stays_until_the_first_new_part_is_there() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    let other = Provenance::new(Kind::Topk).vocabulary("other");
    let writer = Writer::create(dir.path(), other, Existing::Replace).unwrap();
    drop(writer.part(PartInfo::ONLY).unwrap());
    let old = Artifact::open(dir.path(), Kind::Topk).unwrap();
    assert_eq!(old.parts().len(), 2);
    writer.part(PartInfo::ONLY).unwrap().finish().unwrap();
    let new = Artifact::open(dir.path(), Kind::Topk).unwrap();
    assert_eq!((new.parts().len(), new.rows()), (1, 0));
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
    let seal = dir.path().join("_part-00001.json");
    let sealed = fs::read(&seal).unwrap();
    let mut wrong = whole.clone();
    let place = wrong.windows(5).rposition(|w| w == b"top_k").unwrap();
    wrong[place] = b'T';
    // With the record of what was written, and without: a part from before it was kept.
    for (cut_short, other_footer) in [
        ("were written", "its footer is not the one that was written"),
        ("not a complete Parquet file", "is damaged"),
    ] {
        for cut in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&last, &whole[..cut]).unwrap();
            assert!(open().contains(cut_short), "{}", open());
        }
        fs::write(&last, &wrong).unwrap();
        assert!(open().contains(other_footer), "{}", open());
        fs::write(&last, &whole).unwrap();
        // The second time it is gone.
        let _ = fs::remove_file(&seal);
        Artifact::open(dir.path(), Kind::Topk).unwrap();
    }
    fs::write(&seal, sealed).unwrap();
    fs::remove_file(dir.path().join("part-00000.parquet")).unwrap();
    assert!(open().contains("part 0 is missing"), "{}", open());
    let error = Artifact::open(dir.path(), Kind::Tokens)
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds `topk`, expected `tokens`"), "{error}");
}

#[test]
fn every_flipped_byte_of_a_part_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    // What opening the artifact, or else reading all of it, says.
    let damage = || -> Vec<crate::error::Error> {
        let artifact = match Artifact::open(dir.path(), Kind::Topk) {
            Ok(artifact) => artifact,
            Err(error) => return vec![error],
        };
        let claims = artifact.parts().iter().map(|part| part.claim().unwrap());
        let claims: Vec<_> = claims.map(Option::unwrap).collect();
        let found = crate::files::verify(&claims).unwrap();
        found.into_iter().map(|(_, error)| error).collect()
    };
    assert!(damage().is_empty());
    let (mut flips, mut at_once) = (0, 0);
    for name in [
        "part-00000.parquet",
        "part-00001.parquet",
        "_part-00001.json",
    ] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let step = (whole.len() / 150).max(1);
        for place in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&path, bytes).unwrap();
            let found = damage();
            assert_eq!(found.len(), 1, "{name} byte {place}: {found:?}");
            assert_eq!(found[0].exit_code(), 3, "{name} byte {place}: {found:?}");
            flips += 1;
            at_once += usize::from(Artifact::open(dir.path(), Kind::Topk).is_err());
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(flips > 300 && at_once > 50, "{flips} {at_once}");
    assert!(damage().is_empty());
}

#[test]
fn a_writer_that_is_killed_between_two_names_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    // The record of the last part has its name, the part has not.
    let last = dir.path().join("part-00001.parquet");
    let whole = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    fs::write(dir.path().join(".part-00001.parquet.tmp-1"), &whole[..99]).unwrap();
    let error = Artifact::open(dir.path(), Kind::Topk).unwrap_err();
    assert!(error.to_string().contains("part 1 is missing"), "{error}");
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    assert!(fs::read(&last).unwrap() == whole);
    let artifact = Artifact::open(dir.path(), Kind::Topk).unwrap();
    assert!(artifact.parts()[1].claim().unwrap().is_some());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);

    // A smaller result in its place leaves none of its files.
    let other = Provenance::new(Kind::Topk).vocabulary("other");
    let writer = Writer::create(dir.path(), other, Existing::Replace).unwrap();
    writer.part(PartInfo::ONLY).unwrap().finish().unwrap();
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["_part-00000.json", "part-00000.parquet"]);
    Artifact::open(dir.path(), Kind::Topk).unwrap();

    // The record of a part that no part is to follow.
    fs::copy(
        dir.path().join(&left[0]),
        dir.path().join("_part-00001.json"),
    )
    .unwrap();
    let error = Artifact::open(dir.path(), Kind::Topk).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("_part-00001.json: is about a part"),
        "{error}"
    );
}

#[test]
fn a_file_that_does_not_belong_to_an_artifact_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    for name in [
        ".DS_Store",
        "._part-00000.parquet",
        ".part-00007.parquet.tmp-9",
        "Thumbs.db",
    ] {
        fs::write(dir.path().join(name), "").unwrap();
        Artifact::open(dir.path(), Kind::Topk).unwrap();
    }
    for name in [
        "x.parquet",
        "4f1c_0.parquet",
        "part-0.parquet",
        "part-000000.parquet",
        "part-00001.PARQUET",
        "part--0001.parquet",
        "part-00000.parquet.bak",
        "notes.txt",
        "_SUCCESS",
        "_metadata",
        "_part-1.json",
        "part-00000.json",
    ] {
        let path = dir.path().join(name);
        fs::write(&path, "").unwrap();
        let opened = Artifact::open(dir.path(), Kind::Topk).map(drop);
        let provenance = Provenance::new(Kind::Topk);
        let written = Writer::create(dir.path(), provenance, Existing::Replace).map(drop);
        for result in [opened, written] {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(
                error.to_string().starts_with(&path.display().to_string()),
                "{error}"
            );
        }
        fs::remove_file(path).unwrap();
    }
    fs::create_dir(dir.path().join("teacher=x")).unwrap();
    assert!(Artifact::open(dir.path(), Kind::Topk).is_err());
}

#[test]
fn another_format_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut provenance = Provenance::new(Kind::Topk);
    (provenance.format, provenance.tool) = (1, "0.0.9".into());
    let writer = Writer::create(dir.path(), provenance, Existing::Refuse).unwrap();
    writer.part(PartInfo::ONLY).unwrap().finish().unwrap();
    let error = Artifact::open(dir.path(), Kind::Topk).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("part-00000.parquet: has format version 1, expected 2")
            && text.contains("fuselm 0.0.9"),
        "{text}"
    );
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

/// Writes stored columns of `targets` and reads them as rows.
fn read_targets(
    gaps: &[&[u32]],
    levels: &[&[u16]],
    keys: &[(u64, u32)],
    draws: u16,
) -> crate::error::Result<Vec<RecordBatch>> {
    use arrow::array::*;
    use arrow::datatypes::{UInt16Type, UInt32Type};
    let dir = tempfile::tempdir().unwrap();
    let schema = Kind::Targets.stored_schema();
    let cast = |array: ArrayRef, name: &str| {
        let stored = schema.field_with_name(name).unwrap().data_type();
        arrow::compute::cast(&array, stored).unwrap()
    };
    fn some<T: Copy>(lists: &[&[T]]) -> Vec<Option<Vec<Option<T>>>> {
        let lists = lists.iter();
        lists
            .map(|list| Some(list.iter().map(|x| Some(*x)).collect()))
            .collect()
    }
    let rows = keys.len();
    let gaps = ListArray::from_iter_primitive::<UInt32Type, _, _>(some(gaps));
    let levels = ListArray::from_iter_primitive::<UInt16Type, _, _>(some(levels));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(keys.iter().map(|k| k.0))),
        Arc::new(UInt32Array::from_iter_values(keys.iter().map(|k| k.1))),
        cast(Arc::new(gaps), "id_gaps"),
        Arc::new(UInt16Array::from(vec![2; rows])),
        cast(Arc::new(levels), "levels"),
        Arc::new(UInt16Array::from(vec![0; rows])),
        Arc::new(UInt16Array::from(vec![draws; rows])),
        cast(Arc::new(StringArray::from(vec!["m"; rows])), "winner"),
    ];
    let writer = Writer::create(dir.path(), Provenance::new(Kind::Targets), Existing::Refuse)?;
    let mut part = writer.part(info(0, 0, 9, true))?;
    part.write_stored(&RecordBatch::try_new(schema, columns).unwrap())?;
    part.finish()?;
    let artifact = Artifact::open(dir.path(), Kind::Targets)?;
    artifact.parts()[0].batches()?.collect()
}

#[test]
fn stored_lists_are_read_by_falling_probability() {
    let rows = read_targets(
        &[&[0, 3, 4], &[]],
        &[&[1, 430, 0], &[]],
        &[(0, 0), (2, 1)],
        0,
    );
    let rows = rows.unwrap();
    let targets = targets::Targets::new(&rows[0]).unwrap();
    let row = targets.row(0);
    assert_eq!(row.ids, [3, 0, 7]);
    let prob = |level: f64| (level / 432.0).powi(4) as f32;
    assert_eq!(row.probs, [1.0, prob(3.0), prob(2.0)]);
    assert!(targets.row(1).ids.is_empty());
    // The same as counts of five draws.
    let rows = read_targets(&[&[0, 3]], &[&[0, 1]], &[(0, 0)], 5).unwrap();
    let targets = targets::Targets::new(&rows[0]).unwrap();
    assert_eq!(targets.row(0).ids, [3, 0]);
    assert_eq!(
        (targets.row(0).probs, targets.draws(0)),
        (&[0.6, 0.4][..], 5)
    );
    // A level beyond one is no probability, and its readers say so.
    let rows = read_targets(&[&[0]], &[&[431]], &[(0, 0)], 0).unwrap();
    assert!(targets::Targets::new(&rows[0]).unwrap().row(0).probs[0].is_nan());
}

#[test]
fn impossible_stored_rows_are_named() {
    let found = |gaps: &[&[u32]], levels: &[&[u16]], keys: &[(u64, u32)], draws| {
        let error = read_targets(gaps, levels, keys, draws).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    let one: (&[&[u32]], &[&[u16]]) = (&[&[1], &[1]], &[&[430], &[430]]);
    let twice = found(one.0, one.1, &[(3, 4), (3, 4)], 0);
    assert!(
        twice.contains("part-00000.parquet sample 3 position 4") && twice.contains("not sorted"),
        "{twice}"
    );
    assert!(found(one.0, one.1, &[(3, 4), (2, 5)], 0).contains("sample 2 position 5"));
    for (gaps, levels) in [(&[1, 0][..], &[1, 2][..]), (&[u32::MAX, 1], &[1, 2])] {
        let text = found(&[gaps], &[levels], &[(0, 0)], 0);
        assert!(text.contains("listed twice, or is no id"), "{text}");
    }
    assert!(found(&[&[1, 2]], &[&[1]], &[(0, 0)], 0).contains("differ in length"));
    assert!(found(&[&[1, 2]], &[&[1, 1]], &[(0, 0)], 7).contains("do not sum to `draws`"));
}

#[test]
fn a_list_with_a_token_twice_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), Provenance::new(Kind::Topk), Existing::Refuse).unwrap();
    let mut rows = DistributionBuilder::topk();
    let row = Distribution {
        pos: 3,
        target_id: 1,
        target_logprob: -1.0,
        tail_logprob: -1.0,
        ids: &[5, 5],
        logprobs: &[-1.0, -2.0],
    };
    rows.push(8, row);
    let mut part = writer.part(PartInfo::ONLY).unwrap();
    let error = part.write(&rows.finish().unwrap()).unwrap_err().to_string();
    assert!(
        error.contains("sample 8 position 3") && error.contains("id 5 is listed twice"),
        "{error}"
    );
}

mod round_trip {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Ids, order, target and missing values survive; probabilities move by half a step.
        #[test]
        fn of_any_list(
            weights in prop::collection::btree_map(0u32..200_000, 1e-6f32..1.0, 0..40),
            target in 0u32..200_000,
            nll in 0f32..60.0,
            listed in 0.01f32..1.0,
        ) {
            let total: f32 = weights.values().sum::<f32>() / listed;
            let mut list: Vec<(u32, f32)> =
                weights.iter().map(|(id, w)| (*id, w / total)).collect();
            list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let ids: Vec<u32> = list.iter().map(|e| e.0).collect();
            let logprobs: Vec<f32> = list.iter().map(|e| e.1.ln()).collect();
            let tail = if ids.is_empty() { 0.0 } else { (1.0 - listed).max(0.0).ln() };
            let dir = tempfile::tempdir().unwrap();
            let provenance = Provenance::new(Kind::Projected);
            let writer = Writer::create(dir.path(), provenance, Existing::Refuse).unwrap();
            let mut rows = DistributionBuilder::projected();
            for (pos, target_id) in [target, *ids.first().unwrap_or(&target)].iter().enumerate() {
                let row = Distribution {
                    pos: pos as u32,
                    target_id: *target_id,
                    target_logprob: -nll,
                    tail_logprob: tail,
                    ids: &ids,
                    logprobs: &logprobs,
                };
                let origin = distribution::Origin {
                    source_nll: (pos == 0).then_some(nll),
                    owed: nll / 2.0,
                    unknown: pos as f32,
                    short: 0.4,
                    named: Some(pos == 0),
                };
                rows.push_projected(0, row, distribution::Projection::SameEnd, origin);
            }
            let mut part = writer.part(info(0, 0, 1, true)).unwrap();
            part.write(&rows.finish().unwrap()).unwrap();
            part.finish().unwrap();
            let artifact = Artifact::open(dir.path(), Kind::Projected).unwrap();
            let batch = artifact.parts()[0].batches().unwrap().next().unwrap().unwrap();
            let found = Distributions::new(&batch).unwrap();
            prop_assert_eq!(found.len(), 2);
            let row = found.row(0);
            prop_assert_eq!(row.target_id, target);
            prop_assert_eq!(found.row(1).target_id, *ids.first().unwrap_or(&target));
            prop_assert!((row.target_logprob + nll).abs() <= 0.5001 / 1024.0);
            let origin = found.origin(0).unwrap();
            prop_assert!((origin.source_nll.unwrap() - nll).abs() <= 0.5001 / 1024.0);
            prop_assert!((origin.owed - nll / 2.0).abs() <= 0.5001 / 1024.0);
            prop_assert_eq!((origin.unknown, origin.short, origin.named), (0.0, 0.4, Some(true)));
            let origin = found.origin(1).unwrap();
            prop_assert_eq!((origin.source_nll, origin.unknown, origin.named), (None, 1.0, Some(false)));
            let root = |x: f32| (x * 0.25).exp() * 432.0;
            prop_assert!((root(row.tail_logprob) - root(tail)).abs() < 1.001);
            prop_assert!(row.logprobs.is_sorted_by(|a, b| a >= b));
            let mut again: Vec<(u32, f32)> =
                row.ids.iter().copied().zip(row.logprobs.iter().copied()).collect();
            again.sort_by_key(|e| e.0);
            list.sort_by_key(|e| e.0);
            prop_assert_eq!(again.len(), list.len());
            for (a, b) in again.iter().zip(&list) {
                prop_assert_eq!(a.0, b.0);
                prop_assert!((root(a.1) - root(b.1.ln())).abs() < 1.001);
            }
        }
    }
}

/// Parts of earlier versions have integers with their bytes apart.
#[test]
fn files_with_their_bytes_apart_are_read() {
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Encoding;
    use parquet::file::properties::WriterProperties;
    use parquet::schema::types::ColumnPath;

    let dir = tempfile::tempdir().unwrap();
    write_topk(dir.path(), Existing::Refuse, 2).unwrap();
    let read = || -> Vec<RecordBatch> {
        let artifact = Artifact::open(dir.path(), Kind::Topk).unwrap();
        let parts = artifact.parts().iter();
        parts
            .flat_map(|part| part.batches().unwrap().map(|batch| batch.unwrap()))
            .collect()
    };
    let expected = read();
    for name in ["part-00000.parquet", "part-00001.parquet"] {
        let path = dir.path().join(name);
        let file = fs::File::open(&path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let mut properties = WriterProperties::builder().set_key_value_metadata(metadata.cloned());
        let lists = ["id_gaps", "levels"].map(|name| vec![name, "list", "element"]);
        let numbers = ["target_place", "target_nll", "tail_level", "base_level"];
        for column in lists.into_iter().chain(numbers.map(|name| vec![name])) {
            let column = ColumnPath::new(column.into_iter().map(str::to_owned).collect());
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::BYTE_STREAM_SPLIT);
        }
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let out = fs::File::create(&path).unwrap();
        let schema = batches[0].schema();
        let mut writer = ArrowWriter::try_new(out, schema, Some(properties.build())).unwrap();
        for batch in &batches {
            writer.write(batch).unwrap();
        }
        let metadata = writer.close().unwrap();
        let mut columns = metadata
            .row_groups()
            .iter()
            .flat_map(|group| group.columns());
        let apart = columns.any(|c| c.encodings().any(|e| e == Encoding::BYTE_STREAM_SPLIT));
        assert!(apart, "{metadata:?}");
        fs::remove_file(dir.path().join(format!("_{}.json", &name[..10]))).unwrap();
    }
    assert_eq!(read(), expected);
}
