//! Artifacts in, artifact out.

use super::*;
use crate::artifact::{Existing, PartInfo};

fn write(dir: &Path, provenance: Provenance, rows: &RecordBatch) {
    let info = PartInfo {
        samples: u64::from(provenance.kind.per_sample()),
        ..PartInfo::ONLY
    };
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer.part(info).unwrap();
    part.write(rows).unwrap();
    part.finish().unwrap();
}

#[test]
fn the_stage_reads_and_writes_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let case = thencat();
    let pair = |kind| {
        Provenance::new(kind)
            .vocabulary("pivot")
            .input("source_vocabulary", "source")
    };
    let tokens_rows = tokens::to_batch(std::slice::from_ref(&case.tokens)).unwrap();
    let tokens_of = Provenance::new(Kind::Tokens).vocabulary("pivot");
    write(&at("tokens"), tokens_of, &tokens_rows);
    let source_rows_ = tokens::to_batch(std::slice::from_ref(&case.source_tokens)).unwrap();
    let tokens_of = Provenance::new(Kind::Tokens).vocabulary("source");
    write(&at("source_tokens"), tokens_of, &source_rows_);
    let transcript = text::SampleTranscript {
        sample_id: 0,
        transcript: text::Transcript {
            bos: false,
            text: case.text.clone(),
            spans: Vec::new(),
        },
    };
    let transcripts = text::transcripts_to_batch(&[transcript]).unwrap();
    write(
        &at("transcripts"),
        Provenance::new(Kind::Transcripts),
        &transcripts,
    );
    write(&at("alignment"), pair(Kind::Alignment), &case.links);
    let map = token_map::to_batch(&case.map).unwrap();
    let width = serde_json::json!({ "width": 2 });
    write(&at("map"), pair(Kind::TokenMap).options(width), &map);
    let topk = || Provenance::new(Kind::Topk).vocabulary("source").model("m");
    write(&at("topk"), topk(), &case.rows);
    let own = source_rows(&[
        (0, TH, vec![(TH, 0.99)]),
        (1, EN, vec![(EN, 0.1)]),
        (2, CAT, vec![(CAT, 0.2)]),
    ]);
    let own_of = Provenance::new(Kind::Topk).vocabulary("pivot");
    write(&at("own"), own_of, &own);

    let names = [
        "topk",
        "alignment",
        "map",
        "tokens",
        "own",
        "source_tokens",
        "transcripts",
    ];
    let go = |out: &str| {
        let [
            topk,
            alignment,
            token_map,
            pivot_tokens,
            pivot_topk,
            source_tokens,
            transcripts,
        ] = names.map(at);
        let project = Project {
            topk,
            alignment,
            token_map,
            pivot_tokens,
            source_tokens,
            transcripts,
            vocabularies: Vocabularies {
                source: &case.source,
                pivot: &case.pivot,
                first_token: Box::new(|bytes| first_of(&case.pivot, bytes, 9)),
            },
            pivot_topk: Some(pivot_topk),
            warped: false,
            out: at(out),
            options: ProjectOptions::default(),
        };
        project.perform(Existing::Refuse)
    };
    let summary = go("out").unwrap();
    assert_eq!(summary.positions, 3);
    assert_eq!(summary.of(Projection::SameEnd).rows, 2);
    assert_eq!(summary.of(Projection::Conditioned).top1, 1);
    let (projected, own) = summary.cross_entropies().unwrap();
    let expected = -(0.5f64 * 0.9).ln() / 3.0;
    assert!(near(projected, expected), "{projected} {expected}");
    assert!(near(own, -(0.99f64 * 0.1 * 0.2).ln() / 3.0));
    let artifact = Artifact::open(&at("out"), Kind::Projected).unwrap();
    artifact.check_vocabulary("pivot").unwrap();
    assert_eq!(artifact.rows(), 3);
    assert_eq!(artifact.provenance().model.as_deref(), Some("m"));

    // A source that knows less than the pivot shows it.
    let poor = source_rows(&[(0, 2, vec![(5, 0.9)]), (1, 3, vec![(1, 0.9)])]);
    write(&at("topk"), topk().input("x", "poor"), &poor);
    let (projected, own) = go("out2").unwrap().cross_entropies().unwrap();
    assert!(projected > own, "{projected} {own}");
    let bad = source_rows(&[(0, 2, vec![(5, 0.9)]), (1, 3, vec![(1, f32::NAN)])]);
    write(&at("topk"), topk().input("x", "bad"), &bad);
    let error = go("out3").unwrap_err().to_string();
    assert!(error.contains("sample 0 position 1"), "{error}");
    assert!(!at("out3").exists());

    write(&at("topk"), topk().vocabulary("other"), &case.rows);
    let error = go("out4").unwrap_err().to_string();
    assert!(error.contains("vocabulary `other`"), "{error}");
}
