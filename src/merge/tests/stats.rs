//! `merge_stats` as an artifact.

use super::fixtures::{config_of, zoo};
use crate::artifact::{Artifact, Existing, Kind, Provenance, Writer};
use crate::merge::methods::METHODS;
use crate::merge::write_stats;
use crate::tensors::Dtype;

#[test]
fn stats_become_an_artifact_sorted_by_tensor_and_model() {
    let zoo = zoo(Dtype::F32, 8);
    let (_, summary) = zoo.merge(config_of(&METHODS[0], &["c", "a", "b"]), "out");
    assert_eq!(summary.stats.len(), 7 * 3);
    let dir = zoo.out("merge_stats");
    for _ in 0..2 {
        let provenance = Provenance::new(Kind::MergeStats);
        let writer = Writer::create(&dir, provenance, Existing::Refuse).unwrap();
        write_stats(&summary.stats, writer).unwrap();
    }
    assert!(Artifact::open(&dir, Kind::MergeStats).is_ok());
    let weights = summary
        .stats
        .iter()
        .filter(|row| row.tensor == "model.norm.weight");
    assert!((weights.map(|row| row.coefficient).sum::<f64>() - 1.0).abs() < 1e-12);
}
