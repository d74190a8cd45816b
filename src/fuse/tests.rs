use std::path::Path;

use arrow::array::{Float64Array, UInt32Array, UInt64Array};
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;

use super::*;
use crate::artifact::distribution::{Distribution, DistributionBuilder, Origin, Projection};
use crate::artifact::targets::Targets;
use crate::artifact::{Existing, PartInfo, Provenance};
use crate::units::TokenId;

/// A row: position, listed probabilities, negative log-likelihood of the true token (1000 and the
/// position, which no list has), where it is known; an empty list is skipped.
type Row = (u32, Vec<(TokenId, f32)>, Option<f32>);

/// A fused row: position, listed probabilities, tail, winner.
type Fused = (u32, Vec<(TokenId, f64)>, f64, String);

fn run(
    members: &[Member],
    out: &Path,
    options: &FuseOptions,
    existing: Existing,
) -> Result<Summary> {
    let fuse = Fuse {
        members: members.to_vec(),
        out: out.to_path_buf(),
        options: options.clone(),
    };
    fuse.perform(existing)
}

fn row(pos: u32, list: &[(TokenId, f32)], nll: impl Into<Option<f32>>) -> Row {
    (pos, list.to_vec(), nll.into())
}

fn batch(kind: Kind, rows: &[Row]) -> RecordBatch {
    let mut builder = match kind {
        Kind::Topk => DistributionBuilder::topk(),
        _ => DistributionBuilder::projected(),
    };
    for (pos, list, nll) in rows {
        let ids: Vec<TokenId> = list.iter().map(|entry| entry.0).collect();
        let logprobs: Vec<f32> = list.iter().map(|entry| entry.1.ln()).collect();
        let tail = 1.0 - list.iter().map(|entry| entry.1).sum::<f32>();
        let row = Distribution {
            pos: *pos,
            target_id: 1000 + pos,
            target_logprob: -nll.unwrap_or(0.0),
            tail_logprob: tail.max(0.0).ln(),
            ids: &ids,
            logprobs: &logprobs,
        };
        match kind {
            Kind::Topk => builder.push(0, row),
            _ => {
                let origin = Origin {
                    source_nll: *nll,
                    named: nll.map(|_| true),
                    ..Origin::default()
                };
                builder.push_projected(0, row, Projection::SameEnd, origin);
            }
        }
    }
    builder.finish().unwrap()
}

/// Fuses one sample without files. The first of `members` is the pivot if `use_pivot`.
fn fuse(members: &[Vec<Row>], metrics: &[f64], options: &FuseOptions) -> Vec<Option<Fused>> {
    let batches: Vec<RecordBatch> = members
        .iter()
        .map(|rows| batch(Kind::Projected, rows))
        .collect();
    let members: Vec<_> = batches
        .iter()
        .map(|batch| Some(Distributions::new(batch).unwrap()))
        .collect();
    let mut out = Vec::new();
    Fuser::new(options)
        .sample(&members, metrics, &mut |target, winner, _| {
            out.push(target.map(|target| {
                let probs = target.probs.iter().map(|p| f64::from(*p));
                let list = target.ids.iter().copied().zip(probs).collect();
                let name = winner.map_or(MEAN.to_owned(), |at| at.to_string());
                (target.pos, list, f64::from(target.tail), name)
            }));
        })
        .unwrap();
    out
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 5e-3
}

fn check(found: &Option<Fused>, list: &[(TokenId, f64)], tail: f64, winner: &str) {
    let Some((_, ours, our_tail, name)) = found else {
        panic!("no target, expected {list:?}");
    };
    // The true token was in the tail.
    type Entries<'a> = Vec<&'a (TokenId, f64)>;
    let (next, ours): (Entries<'_>, Entries<'_>) = ours.iter().partition(|entry| entry.0 >= 1000);
    let our_tail = our_tail + next.iter().map(|entry| entry.1).sum::<f64>();
    let same = ours.len() == list.len()
        && ours
            .iter()
            .zip(list)
            .all(|(a, b)| a.0 == b.0 && near(a.1, b.1));
    assert!(same && near(our_tail, tail), "{found:?}, expected {list:?}");
    assert_eq!(name, winner);
}

/// The pivot has every position; the source skips 2 and leaves 3 to the pivot.
fn two() -> [Vec<Row>; 2] {
    let pivot = vec![
        row(1, &[(5, 0.6), (6, 0.3)], 5.5),
        row(2, &[(7, 0.9)], 5.1),
        row(3, &[(8, 0.8)], 5.2),
        row(4, &[(9, 0.5)], 5.7),
    ];
    let source = vec![
        row(1, &[(6, 0.5), (4, 0.4)], 5.4),
        row(2, &[], None),
        row(4, &[(9, 1.0)], None),
    ];
    [pivot, source]
}

fn options(rule: Rule, level: Level) -> FuseOptions {
    FuseOptions {
        rule,
        level,
        ..FuseOptions::default()
    }
}

#[test]
fn mince_takes_the_whole_sequence_of_the_lowest() {
    let mince = options(Rule::Mince, Level::Sequence);
    let source_wins = fuse(&two(), &[1.0, 0.9], &mince);
    check(&source_wins[0], &[(6, 0.5), (4, 0.4)], 0.1, "1");
    assert_eq!(source_wins[1], None);
    check(&source_wins[2], &[(8, 0.8)], 0.2, "0");
    check(&source_wins[3], &[(9, 1.0)], 0.0, "1");
    // Ties go to the pivot.
    let tie = fuse(&two(), &[0.9, 0.9], &mince);
    check(&tie[1], &[(7, 0.9)], 0.1, "0");
    assert_eq!(tie.len(), 4);
    // A sample without a metric never wins, whatever the order.
    let none = fuse(&two(), &[f64::INFINITY, 0.9], &mince);
    assert_eq!(none, source_wins);
}

#[test]
fn mince_by_token_takes_the_lowest_where_both_are_known() {
    let found = fuse(&two(), &[0.0, 9.0], &options(Rule::Mince, Level::Token));
    check(&found[0], &[(6, 0.5), (4, 0.4)], 0.1, "1");
    check(&found[1], &[(7, 0.9)], 0.1, "0");
    check(&found[2], &[(8, 0.8)], 0.2, "0");
    // The source's own figure is unknown here, so the pivot's stands.
    check(&found[3], &[(9, 0.5)], 0.5, "0");
}

#[test]
fn avgce_averages_lists_and_tails() {
    let avgce = options(Rule::Avgce, Level::Sequence);
    let found = fuse(&two(), &[1.0, 1.0], &avgce);
    // 6: (0.3 + 0.5) / 2, 5: 0.6 / 2, 4: 0.4 / 2; cut to the two best.
    check(&found[0], &[(6, 0.4), (5, 0.3)], 0.1 + 0.2, "mean");
    // The source skips; the pivot stands alone.
    check(&found[1], &[(7, 0.9)], 0.1, "mean");
    check(&found[2], &[(8, 0.8)], 0.2, "mean");
    check(&found[3], &[(9, 0.75)], 0.25, "mean");
    let wide = FuseOptions {
        top_k: Some(9),
        ..avgce.clone()
    };
    let all = [(6, 0.4), (5, 0.3), (4, 0.2)];
    check(&fuse(&two(), &[1.0, 1.0], &wide)[0], &all, 0.1, "mean");
    // Weights e^0 : e^-1.
    let share = 1.0 / (1.0 + (-1.0f64).exp());
    let found = fuse(&two(), &[0.5, 1.5], &avgce);
    check(
        &found[3],
        &[(9, 0.5 * share + 1.0 - share)],
        0.5 * share,
        "mean",
    );

    // By token: weights from each position's own figures.
    let found = fuse(&two(), &[0.0, 9.0], &options(Rule::Avgce, Level::Token));
    let share = 1.0 / (1.0 + (0.1f64).exp());
    let six = 0.3 * share + 0.5 * (1.0 - share);
    let Some((_, list, ..)) = &found[0] else {
        panic!()
    };
    assert!(list[0].0 == 6 && near(list[0].1, six), "{list:?} {six}");
    check(&found[3], &[(9, 0.5)], 0.5, "mean");
}

#[test]
fn without_the_pivot_positions_left_to_it_have_no_target() {
    let [_, source] = two();
    let alone = FuseOptions {
        use_pivot: false,
        ..options(Rule::Mince, Level::Sequence)
    };
    let found = fuse(&[source], &[1.0], &alone);
    assert_eq!(found.len(), 3);
    check(&found[0], &[(6, 0.5), (4, 0.4)], 0.1, "0");
    assert_eq!(found[1], None);
    check(&found[2], &[(9, 1.0)], 0.0, "0");
}

#[test]
fn the_true_token_is_always_listed() {
    let listed = |rows: &[Vec<Row>], options: &FuseOptions| -> Vec<(TokenId, f64)> {
        let (_, mut list, tail, _) = fuse(rows, &[1.0, 0.9], options)[0].clone().unwrap();
        list.push((0, tail));
        list
    };
    let [pivot, source] = two();
    let prob = |nll: f64| (-nll).exp();
    let one = FuseOptions {
        top_k: Some(1),
        ..options(Rule::Mince, Level::Sequence)
    };
    let expected = [(6, 0.5), (1001, prob(5.4)), (0, 0.5 - prob(5.4))];
    let found = listed(&two(), &one);
    assert!(
        found
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.0 == b.0 && near(a.1, b.1)),
        "{found:?}"
    );
    assert_eq!(found.len(), 3);
    // Averaged, beside the k best.
    let found = listed(&two(), &options(Rule::Avgce, Level::Sequence));
    let ids: Vec<TokenId> = found.iter().map(|entry| entry.0).collect();
    assert_eq!(ids, [6, 5, 1001, 0]);
    let sum: f64 = found.iter().map(|entry| entry.1).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{found:?}");
    // More than the tail has: the tail is empty, not negative.
    let sure = vec![row(1, &[(5, 0.6), (6, 0.3)], 1.0)];
    let found = listed(&[pivot, sure], &options(Rule::Mince, Level::Sequence));
    assert_eq!(found.last().unwrap().1, 0.0);
    // Where it is not known, nothing is listed in its place.
    let unknown = vec![row(1, &[(5, 0.6), (6, 0.3)], None)];
    let found = listed(&[source, unknown], &options(Rule::Mince, Level::Sequence));
    assert_eq!(found.len(), 3);
}

#[test]
fn weights_are_those_of_the_papers() {
    // The example of the published code: CE 1.5 and 2.5 give 0.535 and 0.465.
    let mut weights = [1.5, 2.5];
    rules::softmax(&mut weights, Weights::Published);
    assert!(
        near(weights[0], 0.535) && near(weights[1], 0.465),
        "{weights:?}"
    );
    let mut weights = [f64::INFINITY, 0.3];
    rules::softmax(&mut weights, Weights::Softmax);
    assert_eq!(weights, [0.0, 1.0]);
    let mut weights = [f64::INFINITY; 2];
    rules::softmax(&mut weights, Weights::Published);
    assert_eq!(weights, [0.5, 0.5]);
}

/// Members with the same positions, random lists.
fn random_members() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let list = proptest::collection::btree_map(0u32..30, 0.01f32..1.0, 1..6);
    let rows = proptest::collection::vec((list, 2.0f32..7.0), 5);
    proptest::collection::vec(rows, 2..5).prop_map(|members| {
        let rows = |rows: Vec<(std::collections::BTreeMap<u32, f32>, f32)>| {
            (0u32..)
                .zip(rows)
                .map(|(pos, (list, nll))| {
                    let total: f32 = list.values().sum::<f32>() * 1.2;
                    let mut list: Vec<_> = list.into_iter().map(|(i, p)| (i, p / total)).collect();
                    list.sort_by(|a, b| b.1.total_cmp(&a.1));
                    (pos, list, Some(nll))
                })
                .collect()
        };
        members.into_iter().map(rows).collect()
    })
}

proptest! {
    #[test]
    fn targets_sum_to_one_and_the_order_of_sources_changes_nothing(
        members in random_members(),
        seed in 1u32..1000,
    ) {
        let metrics: Vec<f64> = (0..members.len())
            .map(|at| f64::from(seed.wrapping_mul(2_654_435_761).rotate_left(at as u32 * 7) % 1000) + at as f64 / 10.0)
            .map(|metric| metric / 500.0)
            .collect();
        let mut turned = members.clone();
        turned[1..].reverse();
        let mut turned_metrics = metrics.clone();
        turned_metrics[1..].reverse();
        for rule in [Rule::Mince, Rule::Avgce] {
            for level in [Level::Sequence, Level::Token] {
                let options = options(rule, level);
                let found = fuse(&members, &metrics, &options);
                let other = fuse(&turned, &turned_metrics, &options);
                prop_assert_eq!(found.len(), 5);
                for (a, b) in found.iter().zip(&other) {
                    let (Some(a), Some(b)) = (a, b) else { panic!("no target") };
                    let sum = a.1.iter().map(|entry| entry.1).sum::<f64>() + a.2;
                    prop_assert!((sum - 1.0).abs() < 1e-5);
                    let same = a.1.len() == b.1.len()
                        && a.1.iter().zip(&b.1).all(|(x, y)| (x.1 - y.1).abs() < 1e-6);
                    prop_assert!(same, "{:?} {:?}", a, b);
                }
            }
        }
    }

    #[test]
    fn identical_models_fuse_to_any_of_them(members in random_members()) {
        let same = vec![members[0].clone(); 3];
        let alone = FuseOptions { use_pivot: false, ..options(Rule::Mince, Level::Sequence) };
        let expected = fuse(&members[..1], &[1.0], &alone);
        for rule in [Rule::Mince, Rule::Avgce] {
            for (a, b) in fuse(&same, &[1.0; 3], &options(rule, Level::Sequence)).iter().zip(&expected) {
                let (Some(a), Some(b)) = (a, b) else { panic!("no target") };
                let close = a.1.iter().zip(&b.1).all(|(x, y)| (x.1 - y.1).abs() < 1e-6);
                prop_assert!(close && a.1.len() == b.1.len(), "{:?} {:?}", a, b);
            }
        }
    }

    #[test]
    fn weights_sum_to_one(mut metrics in proptest::collection::vec(0.0f64..50.0, 1..6)) {
        let best = rules::lowest(metrics.iter().copied());
        rules::softmax(&mut metrics, Weights::Softmax);
        prop_assert!((metrics.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assert!(metrics.iter().all(|weight| *weight <= metrics[best]));
    }
}

fn write(dir: &Path, provenance: Provenance, rows: &RecordBatch) {
    let info = PartInfo {
        samples: 1,
        ..PartInfo::ONLY
    };
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer.part(info).unwrap();
    part.write(rows).unwrap();
    part.finish().unwrap();
}

/// A member in files.
fn member(dir: &Path, name: &str, kind: Kind, rows: &[Row], nll: f64, tokens: u32) -> Member {
    let of = |kind| Provenance::new(kind).vocabulary("pivot").input("who", name);
    let member = Member {
        name: name.to_owned(),
        distributions: dir.join(format!("{name}/{kind}")),
        kind,
        metrics: dir.join(format!("{name}/metrics")),
    };
    write(&member.distributions, of(kind), &batch(kind, rows));
    let metrics = RecordBatch::try_new(
        Kind::SequenceMetrics.schema(),
        vec![
            std::sync::Arc::new(UInt64Array::from(vec![0])),
            std::sync::Arc::new(Float64Array::from(vec![nll])),
            std::sync::Arc::new(UInt32Array::from(vec![tokens])),
            std::sync::Arc::new(UInt32Array::from(vec![10])),
        ],
    );
    write(
        &member.metrics,
        of(Kind::SequenceMetrics),
        &metrics.unwrap(),
    );
    member
}

#[test]
fn the_stage_reads_and_writes_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let [pivot, source] = two();
    // The source is better per byte, worse per token.
    let pivot = member(dir.path(), "pivot", Kind::Topk, &pivot, 10.0, 10);
    let source = member(dir.path(), "math", Kind::Projected, &source, 8.0, 5);
    let members = [pivot, source];
    let out = dir.path().join("out");
    let options = FuseOptions::default();
    let summary = run(&members, &out, &options, Existing::Refuse).unwrap();
    assert_eq!((summary.rows, summary.without), (3, 1));
    assert_eq!(summary.metrics_disagree, 1);
    assert_eq!((summary.wins[1].sequences, summary.wins[1].rows), (1, 2));
    assert_eq!((summary.wins[0].sequences, summary.wins[0].rows), (0, 1));
    let artifact = Artifact::open(&out, Kind::Targets).unwrap();
    let rows = artifact.parts()[0]
        .batches()
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let targets = Targets::new(&rows).unwrap();
    assert_eq!(targets.len(), 3);
    assert_eq!(
        (targets.row(1).pos, targets.row(1).ids),
        (3, &[8, 1003][..])
    );
    let by_token = FuseOptions {
        metric: Metric::Ce,
        ..options.clone()
    };
    assert_eq!(
        run(&members, &out, &by_token, Existing::Refuse)
            .unwrap_err()
            .exit_code(),
        2
    );
    let summary = run(&members, &out, &by_token, Existing::Replace).unwrap();
    assert_eq!((summary.rows, summary.wins[0].rows), (4, 4));

    let again = [members[0].clone(), members[1].clone(), members[1].clone()];
    let refused = |members: &[Member], mode| {
        let options = FuseOptions {
            mode,
            ..FuseOptions::default()
        };
        let out = dir.path().join("no");
        run(members, &out, &options, Existing::Refuse).unwrap_err()
    };
    assert!(
        refused(&again, Mode::Pairwise)
            .to_string()
            .contains("exactly one source")
    );
    assert!(
        refused(&again, Mode::Joint)
            .to_string()
            .contains("two models are called `math`")
    );
    assert!(
        refused(&again[..1], Mode::Joint)
            .to_string()
            .contains("at least one source")
    );
    let nan = [row(1, &[(5, f32::NAN)], 0.5)];
    let nan = member(dir.path(), "nan", Kind::Topk, &nan, 1.0, 5);
    let error = refused(&[members[0].clone(), nan], Mode::Pairwise).to_string();
    assert!(error.contains("sample 0 position 1"), "{error}");
    let bad = member(dir.path(), "bad", Kind::Topk, &[], f64::NAN, 5);
    let error = refused(&[members[0].clone(), bad], Mode::Pairwise).to_string();
    assert!(error.contains("`nll` is NaN"), "{error}");
}

/// The first batch of a part as it is stored.
fn stored(dir: &Path) -> RecordBatch {
    let file = std::fs::File::open(dir.join("part-00000.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024);
    reader.unwrap().next().unwrap().unwrap()
}

#[test]
fn what_the_winner_said_is_stored_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // Rounded, these lists do not sum to one.
    let rows: Vec<Row> = (0..200)
        .map(|pos| {
            let masses = (1..10u32).map(|at| 0.9 / (at as f32 + pos as f32 / 7.0));
            let total: f32 = masses.clone().sum::<f32>() * 1.1;
            let list: Vec<(TokenId, f32)> = (40..).zip(masses.map(|mass| mass / total)).collect();
            row(pos, &list, None)
        })
        .collect();
    let pivot = member(dir.path(), "pivot", Kind::Topk, &rows[..1], 10.0, 10);
    let math = member(dir.path(), "math", Kind::Projected, &rows, 8.0, 5);
    let out = dir.path().join("out");
    let members = [pivot, math];
    run(&members, &out, &FuseOptions::default(), Existing::Refuse).unwrap();
    let (given, found) = (stored(&members[1].distributions), stored(&out));
    for column in ["pos", "id_gaps", "base_level", "levels", "tail_level"] {
        assert_eq!(
            given.column_by_name(column),
            found.column_by_name(column),
            "{column}"
        );
    }
    // Cut, the rest is in the tail.
    let cut = FuseOptions {
        top_k: Some(2),
        ..FuseOptions::default()
    };
    let found = fuse(&[rows[..1].to_vec(), rows[..1].to_vec()], &[1.0, 0.5], &cut);
    let list = &rows[0].1;
    let tail = 1.0 - f64::from(list[0].1 + list[1].1);
    check(
        &found[0],
        &[(40, list[0].1.into()), (41, list[1].1.into())],
        tail,
        "1",
    );
}
