use super::fixture::*;
use crate::artifact::Kind;
use crate::query::transform_token_map;

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
