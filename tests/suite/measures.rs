//! Measures of a projection come out bad where it is bad.

use std::fs;

use fuselm::artifact::distribution::{DistributionBuilder, Distributions, Projection};
use fuselm::artifact::token_map::{self, MapRow};
use fuselm::artifact::{Artifact, Existing, Kind, Writer};

use super::program::{Workshop, data_samples};

/// Runs a recipe up to the projection.
fn project(workshop: &Workshop, recipe: &str) {
    for stage in ["corpus", "score", "align", "map", "project"] {
        let run = format!("run {recipe} --run-dir run --only {stage}");
        workshop.fuselm(&run).exits(0);
    }
}

/// A run up to the projection, with this map.
fn projected(method: &str) -> Workshop {
    let workshop = Workshop::new();
    let map = format!("map: {{ method: {method} }}");
    workshop.edit("recipe.yml", "map: { method: ms }", &map);
    project(&workshop, "recipe.yml");
    workshop
}

/// Share of the positions of `atlas` (these) at which its own tokens stand for the true one.
fn named(workshop: &Workshop, positions: &str) -> f64 {
    let statement = format!(
        "SELECT AVG(CASE WHEN named THEN 1.0 ELSE 0.0 END) AS share FROM projected \
         WHERE teacher = 'atlas' AND named IS NOT NULL AND {positions}"
    );
    workshop.query("run", &statement)[0]["share"]
        .as_f64()
        .unwrap()
}

/// Sources with longer tokens than the pivot's, and with shorter ones.
#[test]
fn both_directions_carry_what_the_sources_know() {
    let mut spanning = Vec::new();
    for recipe in ["quickstart.yml", "reverse.yml"] {
        let workshop = Workshop::new();
        let path = data_samples().join(recipe);
        project(&workshop, &path.display().to_string());
        workshop.fuselm("check run").exits(0);
        let shares = workshop.query(
            "run",
            "SELECT teacher,
                AVG(CASE WHEN named IS NOT NULL THEN 1.0 ELSE 0.0 END) AS carried,
                AVG(CASE WHEN named THEN 1.0 WHEN NOT named THEN 0.0 END) AS named,
                AVG(CASE WHEN projection = 'followed' THEN 1.0 ELSE 0.0 END) AS spanning
             FROM projected GROUP BY teacher",
        );
        assert_eq!(shares.len(), 3, "{recipe}");
        for share in &shares {
            let of = |name: &str| share[name].as_f64().unwrap();
            assert!(of("carried") >= 0.97, "{recipe}: {share}");
            assert!(of("named") >= 0.95, "{recipe}: {share}");
            spanning.push(of("spanning"));
        }
    }
    let (few, many) = spanning.split_at(3);
    assert!(few.iter().all(|share| *share < 0.15), "{few:?}");
    assert!(many.iter().all(|share| *share > 0.2), "{many:?}");
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
