//! Random draws instead of the most probable tokens, from scoring to training.

use fuselm::artifact::distribution::Distributions;
use fuselm::artifact::targets::Targets;
use fuselm::artifact::{Artifact, Kind};

use super::program::Workshop;

/// Ids and probabilities of each row of a `topk`, and how many draws they come from.
fn rows(workshop: &Workshop, folder: &str) -> Vec<(Vec<u32>, Vec<f32>, u16)> {
    let artifact = Artifact::open(&workshop.path(folder), Kind::Topk).unwrap();
    let mut rows = Vec::new();
    for part in artifact.parts() {
        for batch in part.batches().unwrap() {
            let batch = batch.unwrap();
            let found = Distributions::new(&batch).unwrap();
            rows.extend((0..found.len()).map(|at| {
                let row = found.row(at);
                let probs = row.logprobs.iter().map(|x| x.exp()).collect();
                (row.ids.to_vec(), probs, found.draws(at))
            }));
        }
    }
    rows
}

#[test]
fn draws_reach_the_trainer_as_they_are() {
    let workshop = Workshop::new();
    let score = "score: { mode: sampled, samples: 20 }";
    workshop.edit("recipe.yml", "score: { top_k: 8 }", score);
    // Draws cannot be moved to another vocabulary.
    workshop.fuselm("run recipe.yml").exits(2).says(&[
        "score.mode: sampled",
        "source `market`",
        "mode: top",
    ]);
    assert!(!workshop.path("run").exists());
    for name in ["market", "atlas"] {
        let line = format!("  - {{ name: {name}, model: models/{name} }}\n");
        workshop.edit("recipe.yml", &line, "");
    }
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);

    let found = rows(&workshop, "run/topk/teacher=twin");
    assert!(found.len() > 500);
    for (ids, probs, draws) in &found {
        assert_eq!(*draws, 20);
        assert!(ids.len() <= 20 && probs.is_sorted_by(|a, b| a >= b));
        assert!((probs.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let whole = |p: &f32| ((p * 20.0).round() - p * 20.0).abs() < 1e-4;
        assert!(probs.iter().all(whole), "{probs:?}");
    }
    let targets = workshop.path("run/targets/fusion=twin");
    let targets = Artifact::open(&targets, Kind::Targets).unwrap();
    for part in targets.parts() {
        let batch = part.batches().unwrap().next().unwrap().unwrap();
        let found = Targets::new(&batch).unwrap();
        assert!((0..found.len()).all(|at| found.draws(at) == 20 && found.row(at).tail == 0.0));
    }

    // The same whatever the batches and threads, but where rounding moves a border.
    let score = "score --run run --name twin --model models/twin --mode sampled --samples 20 \
        --batch-tokens 64 --threads 1 --topk again --sequence-metrics metrics";
    workshop.fuselm(score).exits(0);
    let again = rows(&workshop, "again");
    let differ = found.iter().zip(&again).filter(|(a, b)| a != b).count();
    assert!(differ <= found.len() / 500, "{differ} of {}", found.len());
    // Another seed draws others.
    workshop
        .fuselm(&format!("{score} --seed 7 --force"))
        .exits(0);
    assert_ne!(rows(&workshop, "again"), again);

    for (option, words) in [("--rule avgce", "weighted mean"), ("--top-k 3", "cut them")] {
        workshop
            .fuselm(&format!(
                "fuse --run run --member pivot --member twin --name x {option}"
            ))
            .exits(1)
            .says(&["random draws", words]);
        assert!(!workshop.path("run/targets/fusion=x").exists());
    }
}

#[test]
fn lists_are_cut_where_they_reach_top_p() {
    let workshop = Workshop::new();
    workshop.edit("recipe.yml", "top_k: 8", "top_k: 512, top_p: 0.1");
    workshop.fuselm("run recipe.yml").exits(0);
    workshop.fuselm("check run").exits(0);
    let mut lengths = Vec::new();
    for (ids, probs, draws) in rows(&workshop, "run/topk/teacher=atlas") {
        assert_eq!(draws, 0);
        lengths.push(ids.len());
        let mass: f32 = probs.iter().sum();
        let but_last = mass - probs.last().unwrap();
        // Within what storing has rounded.
        assert!(mass > 0.08, "{mass}");
        assert!(but_last < 0.12, "{but_last}");
    }
    let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
    assert!(*least < *most, "{least} to {most}");
    workshop
        .fuselm("sql --run run --name topk_mass_by_k --format csv")
        .exits(0);
}
