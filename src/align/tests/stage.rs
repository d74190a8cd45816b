//! Artifacts in, artifact out.

use super::super::*;
use crate::artifact::alignment::Links;
use crate::artifact::{Existing, PartInfo, Provenance};

fn write_tokens(dir: &Path, vocabulary: &str, samples: &[Vec<SampleTokens>]) {
    let provenance = Provenance::new(Kind::Tokens).vocabulary(vocabulary);
    let writer = Writer::create(dir, provenance, Existing::Refuse).unwrap();
    for (index, part) in samples.iter().enumerate() {
        let info = PartInfo {
            index: index as u32,
            first_sample: part[0].sample_id,
            samples: part.len() as u64,
            last: index + 1 == samples.len(),
        };
        let mut out = writer.part(info).unwrap();
        out.write(&tokens::to_batch(part).unwrap()).unwrap();
        out.finish().unwrap();
    }
}

fn sample(sample_id: u64, ids: &[u32], byte_end: &[u32]) -> SampleTokens {
    SampleTokens {
        sample_id,
        ids: ids.to_vec(),
        byte_end: byte_end.to_vec(),
        supervised: vec![true; ids.len()],
    }
}

#[test]
fn two_token_artifacts_become_an_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let pivot = [
        vec![sample(0, &[1, 10, 11], &[0, 2, 4])],
        vec![sample(1, &[1, 12], &[0, 3])],
    ];
    let source = [
        vec![sample(0, &[2, 7, 20], &[0, 0, 4])],
        vec![sample(1, &[2, 7, 21, 22], &[0, 0, 1, 3])],
    ];
    write_tokens(&at("p"), "pv", &pivot);
    write_tokens(&at("s"), "sv", &source);
    let align = |source: &str, out: &str| {
        let align = Align {
            pivot_tokens: at("p"),
            source_tokens: at(source),
            vocabs: None,
            transcripts: None,
            out: at(out),
            options: AlignOptions::default(),
        };
        align.perform(Existing::Refuse)
    };
    let summary = align("s", "out").unwrap();
    assert_eq!((summary.samples, summary.pivot_tokens), (2, 5));
    assert_eq!(summary.of_kind(LinkKind::ManyToOne), 2);
    assert_eq!(summary.of_kind(LinkKind::OneToMany), 1);
    let artifact = Artifact::open(&at("out"), Kind::Alignment).unwrap();
    artifact.check_vocabulary("pv").unwrap();
    let batches: Vec<_> = artifact.parts()[1]
        .batches()
        .unwrap()
        .map(|batch| batch.unwrap())
        .collect();
    let links = Links::new(&batches[0]).unwrap();
    assert_eq!(links.pivot_ids(), [1, 12]);
    assert_eq!(links.source_ids(0), [2]);
    assert_eq!(links.source_ids(1), [21, 22]);
    // Nothing is left to do the second time; what is missing is made again, and nothing else.
    assert_eq!(align("s", "out").unwrap().samples, 0);
    let part = at("out").join("part-00001.parquet");
    let whole = std::fs::read(&part).unwrap();
    std::fs::remove_file(&part).unwrap();
    assert_eq!(align("s", "out").unwrap().samples, 1);
    assert!(std::fs::read(&part).unwrap() == whole);

    let other = [vec![sample(0, &[2, 20], &[0, 5])], source[1].clone()];
    write_tokens(&at("t"), "sv", &other);
    let error = align("t", "out2").unwrap_err();
    assert!(error.to_string().contains("sample 0"), "{error}");
    assert!(error.to_string().contains("cover 5 bytes"), "{error}");
    let leftovers = std::fs::read_dir(at("out2")).into_iter().flatten();
    assert!(
        leftovers
            .flatten()
            .all(|f| !f.file_name().to_string_lossy().contains("00000"))
    );
}
