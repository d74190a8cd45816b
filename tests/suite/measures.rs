//! Measures of a projection come out bad where it is bad.

use std::fs;

use fuselm::artifact::distribution::{DistributionBuilder, Distributions, Projection};
use fuselm::artifact::token_map::{self, MapRow};
use fuselm::artifact::{Artifact, Existing, Kind, Writer};
use serde_json::Value;

use super::program::Workshop;

/// A run up to the projection, with this map.
fn projected(method: &str) -> Workshop {
    let workshop = Workshop::new();
    let map = format!("map: {{ method: {method} }}");
    workshop.edit("recipe.yml", "map: { method: ms }", &map);
    for stage in ["corpus", "score", "align", "map", "project"] {
        workshop
            .fuselm(&format!("run recipe.yml --only {stage}"))
            .exits(0);
    }
    workshop
}

/// Share of the positions of `atlas` (these) at which its own tokens stand for the true one.
fn named(workshop: &Workshop, positions: &str) -> f64 {
    let statement = format!(
        "SELECT AVG(CASE WHEN named THEN 1.0 ELSE 0.0 END) AS share FROM projected \
         WHERE teacher = 'atlas' AND named IS NOT NULL AND {positions}"
    );
    let mut command = workshop.command("sql --run run --format json");
    let output = command.arg(statement).output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["share"].as_f64().unwrap()
}

#[test]
fn named_is_high_by_prefix_and_low_by_exact_match_and_by_a_shuffled_map() {
    let by_prefix = projected("prefix");
    let share = named(&by_prefix, "true");
    assert!(share >= 0.95, "{share}");
    let checked = by_prefix.fuselm("check run").exits(0);
    assert!(!checked.stdout.contains("projection_names"), "{checked:?}");

    let by_match = projected("em");
    let share = named(&by_match, "true");
    assert!(share < 0.95, "{share}");
    let checked = by_match.fuselm("check run").exits(0);
    assert!(checked.stdout.contains("projection_names"), "{checked:?}");

    // Every source token stands for what another one stood for.
    let dir = by_match.path("run/token_map/teacher=atlas");
    let artifact = Artifact::open(&dir, Kind::TokenMap).unwrap();
    let rows = token_map::read(&artifact).unwrap();
    let next = rows.iter().cycle().skip(rows.len() / 2);
    let shuffled: Vec<MapRow> = rows
        .iter()
        .zip(next)
        .map(|(row, other)| MapRow {
            pivot_id: other.pivot_id,
            ..*row
        })
        .collect();
    let writer = Writer::create(&dir, artifact.provenance().clone(), Existing::Replace);
    fs::remove_dir_all(&dir).unwrap();
    let batch = token_map::to_batch(&shuffled).unwrap();
    writer.unwrap().write_only(&batch).unwrap();
    // By what it says of itself, the map is the same.
    fs::remove_dir_all(by_match.path("run/projected/teacher=atlas")).unwrap();
    by_match
        .fuselm("project --run run --teacher atlas --model models/atlas --pivot-model models/pivot")
        .exits(0);
    let checked = by_match.fuselm("check run").exits(0);
    assert!(checked.stdout.contains("projection_names"), "{checked:?}");
    // Within a source token, the map has no say.
    let share = named(&by_match, "projection = 'same_end'");
    assert!(share < 0.1, "{share}");
}

#[test]
fn a_projection_that_credits_the_tail_does_not_keep_the_likelihood() {
    let workshop = projected("prefix");
    workshop.fuselm("check run").exits(0);

    // As rows taken alone do: where the next token spans several of the source's, no row lists it.
    let dir = workshop.path("run/projected/teacher=atlas");
    let artifact = Artifact::open(&dir, Kind::Projected).unwrap();
    let parts: Vec<_> = artifact
        .parts()
        .iter()
        .map(|part| {
            let mut out = DistributionBuilder::projected();
            for batch in part.batches().unwrap() {
                let batch = batch.unwrap();
                let rows = Distributions::new(&batch).unwrap();
                for row in 0..rows.len() {
                    let mut distribution = rows.row(row);
                    if rows.projection(row) == Projection::Followed {
                        distribution.target_logprob = distribution.tail_logprob;
                    }
                    let origin = rows.origin(row).unwrap();
                    out.push_projected(
                        rows.sample_id(row),
                        distribution,
                        rows.projection(row),
                        origin,
                    );
                }
            }
            (part.info(), out.finish().unwrap())
        })
        .collect();
    let provenance = artifact.provenance().clone();
    fs::remove_dir_all(&dir).unwrap();
    let writer = Writer::create(&dir, provenance, Existing::Replace).unwrap();
    for (info, rows) in parts {
        let mut part = writer.part(info).unwrap();
        part.write(&rows).unwrap();
        part.finish().unwrap();
    }
    let checked = workshop.fuselm("check run").exits(3);
    assert!(checked.stdout.contains("projection_keeps"), "{checked:?}");
}
