use super::fixture::*;
use super::*;
use crate::artifact::Kind;

#[test]
fn aligned_pairs_are_counted_once_per_distinct_source_id() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("odd *[name]% é");
    write_at(
        &dir,
        Kind::Alignment,
        2,
        vec![
            u64s(&[0, 0, 0, 1, 1]),
            u32s(&[0, 1, 2, 0, 1]),
            u32s(&[1, 5, 6, 1, 5]),
            u32s(&[0, 1, 3, 0, 1]),
            u32s(&[1, 3, 6, 0, 2]),
            lists_u32(&[&[9], &[7, 8], &[7, 7, 8], &[], &[7]]),
            u32s_or_null(&[Some(0), Some(2), None, None, Some(1)]),
            texts(&["1-1", "1-n", "n-m", "none", "n-1"]),
        ],
    );
    // A part that is being written must not be read.
    std::fs::write(dir.join(".part-00001.parquet.tmp-1"), "x").unwrap();
    for threads in [1, 2] {
        let pairs = transform_token_map(&dir, 64 << 20, threads).unwrap();
        assert_eq!(
            pairs,
            [(7, 5, 2), (7, 6, 1), (8, 5, 1), (8, 6, 1), (9, 1, 1)]
        );
    }
}

#[test]
fn a_join_that_does_not_fit_is_sorted_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let small = SessionOptions {
        memory_limit: 24 << 20,
        ..options()
    };
    let session = Session::open(&RunDir::new(dir.path()), &small).unwrap();
    let sql = "SELECT COUNT(*) AS n, MIN(a.x) AS least FROM generate_series(1, 1200000) AS a(x) \
               JOIN generate_series(1, 1200000) AS b(x) ON a.x = b.x";
    let found = rows(session.stream(sql, &Params::new()).unwrap());
    assert_eq!(found, ["1200000 1"]);
}
