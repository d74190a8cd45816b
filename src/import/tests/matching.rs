//! Which sample of the corpus each sample of a file is, in every format.

use super::*;

const FORMATS: [Format; 3] = [Format::Distillkit, Format::Fuseai, Format::Vllm];

/// Writes `samples` in a format, and imports them.
fn import(place: &Place, format: Format, samples: &[&[u32]]) -> Result<ImportSummary> {
    let from = place.at("from");
    let _ = fs::remove_dir_all(&from);
    let _ = fs::remove_file(&from);
    match format {
        Format::Distillkit => {
            distillkit::save_samples(&from, samples, &distillkit::token(), 0);
        }
        Format::Fuseai => {
            let samples: Vec<_> = samples
                .iter()
                .map(|ids| fuseai::stored(ids, true))
                .collect();
            fuseai::save(&from, &samples);
        }
        Format::Vllm => {
            let lines = samples
                .iter()
                .map(|ids| vllm_line(ids, &[(2, 0.5), (3, 0.25)]));
            fs::write(&from, lines.collect::<Vec<_>>().join("\n")).unwrap();
        }
    }
    place.import(format, "from")
}

/// Imports `samples` for a corpus in every format: the rows are those of every token but the
/// first that `lacking` does not have.
fn imports(corpus: &[&[u32]], samples: &[&[u32]], lacking: &[(u64, u32)], ends: (u64, u64)) {
    for format in FORMATS {
        let place = Place::of(corpus);
        let summary = import(&place, format, samples).unwrap();
        assert_eq!((summary.end_more, summary.end_less), ends, "{format:?}");
        let mut expected = Vec::new();
        for (sample, ids) in (0u64..).zip(corpus) {
            let rows = (0u32..).zip(&ids[1..]);
            let rows = rows.filter(|(pos, _)| !lacking.contains(&(sample, *pos)));
            expected.extend(rows.map(|(pos, id)| (sample, pos, *id)));
        }
        let rows: Vec<_> = place.rows().iter().map(|r| (r.0, r.1, r.2)).collect();
        assert_eq!(rows, expected, "{format:?}");
        assert_eq!(summary.rows, rows.len() as u64);
        assert_eq!(place.nll().len(), corpus.len());
    }
}

/// Every format refuses `samples` for a corpus, and says so.
fn refuses(corpus: &[&[u32]], samples: &[&[u32]], words: &[&str]) {
    for format in FORMATS {
        let place = Place::of(corpus);
        let error = import(&place, format, samples).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{format:?}: no `{word}` in {error}");
        }
        assert!(error.contains("from"), "{error}");
    }
}

#[test]
fn samples_in_any_order() {
    let corpus: [&[u32]; 4] = [&[0, 1, 2], &[0, 2, 1], &[0, 3], &[0, 4, 5, 5]];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 2, 1, 3]] {
        let samples = order.map(|at: usize| corpus[at]);
        imports(&corpus, &samples, &[], (0, 0));
        for format in FORMATS {
            let summary = import(&Place::of(&corpus), format, &samples).unwrap();
            assert_eq!(summary.reordered, order != [0, 1, 2, 3]);
        }
    }
}

#[test]
fn samples_that_are_the_same() {
    let corpus: [&[u32]; 3] = [&[0, 1, 2], &[0, 3, 4], &[0, 1, 2]];
    imports(&corpus, &[&[0, 1, 2], &[0, 1, 2], &[0, 3, 4]], &[], (0, 0));
    imports(
        &corpus,
        &[&[0, 1, 2, EOS], &[0, 3, 4], &[0, 1, 2]],
        &[],
        (1, 0),
    );
    refuses(
        &corpus,
        &[&[0, 1, 2], &[0, 3, 4]],
        &["has 2 samples", "has 3: none has the tokens of sample 2"],
    );
    refuses(
        &corpus,
        &[&[0, 1, 2], &[0, 3, 4], &[0, 1, 2], &[0, 1, 2]],
        &["more often than the corpus has it"],
    );
    // The same distribution whichever it is.
    let place = Place::of(&corpus);
    import(&place, Format::Vllm, &[&[0, 1, 2], &[0, 1, 2], &[0, 3, 4]]).unwrap();
    let rows = place.rows();
    let of = |sample: u64| rows.iter().filter(move |row| row.0 == sample);
    assert!(
        of(0)
            .zip(of(2))
            .all(|(a, b)| (a.1, a.2, a.3, &a.5) == (b.1, b.2, b.3, &b.5))
    );
}

#[test]
fn one_end_token_more_or_less() {
    let (bare, eos, pad): (&[u32], &[u32], &[u32]) = (&[0, 1, 2], &[0, 1, 2, EOS], &[0, 1, 2, PAD]);
    let both: &[u32] = &[0, 1, 2, EOS, PAD];
    imports(&[bare], &[eos], &[], (1, 0));
    imports(&[bare], &[pad], &[], (1, 0));
    imports(&[eos], &[both], &[], (1, 0));
    imports(&[eos], &[bare], &[(0, 2)], (0, 1));
    imports(&[both], &[eos], &[(0, 3)], (0, 1));
    // One that has the very tokens comes before one that has one more.
    imports(&[bare, eos], &[eos, bare], &[], (0, 0));
    imports(&[eos, bare], &[eos, bare], &[], (0, 0));
    imports(&[bare, eos], &[eos, eos], &[], (1, 0));
    imports(&[bare, eos], &[bare, bare], &[(1, 2)], (0, 1));
    // Two of them, another one in its place, any other token: no.
    refuses(
        &[bare],
        &[both],
        &["sample 0: token 3 is 6 (`t6`), expected nothing more"],
    );
    refuses(
        &[both],
        &[bare],
        &["sample 0: token 3 is nothing more, expected 6 (`t6`)"],
    );
    refuses(
        &[eos],
        &[pad],
        &["sample 0: token 3 is 7 (`t7`), expected 6 (`t6`)"],
    );
    refuses(
        &[bare],
        &[&[0, 1, 2, 5]],
        &["sample 0: token 3 is 5 (`t5`), expected nothing more"],
    );
    refuses(
        &[&[0, 1, 2, 5]],
        &[bare],
        &["sample 0: token 3 is nothing more, expected 5 (`t5`)"],
    );
}

#[test]
fn no_bos_and_an_end_token() {
    let corpus: [&[u32]; 2] = [&[0, 1, 2, 3], &[0, 4, 5, EOS]];
    imports(
        &corpus,
        &[&[1, 2, 3], &[4, 5, EOS]],
        &[(0, 0), (1, 0)],
        (0, 0),
    );
    imports(
        &corpus,
        &[&[4, 5], &[1, 2, 3, EOS]],
        &[(0, 0), (1, 0), (1, 2)],
        (1, 1),
    );
    imports(
        &corpus,
        &[&[4, 5, EOS, PAD], &[0, 1, 2, 3]],
        &[(1, 0)],
        (1, 0),
    );
    // A second BOS is another text.
    refuses(
        &corpus,
        &[&[0, 0, 1, 2, 3], &[0, 4, 5, EOS]],
        &["sample 0: token 1 is 0 (`t0`), expected 1 (`t1`)"],
    );
}

#[test]
fn the_nearest_sample_is_named() {
    let corpus: [&[u32]; 3] = [&[0, 1, 2, 3, 4], &[0, 5, 1, 1, 2], &[0, 5, 1, 2, 2]];
    refuses(
        &corpus,
        &[&[0, 1, 2, 3, 4], &[0, 5, 1, 2, 1]],
        &["of no sample; the nearest is sample 2: token 4 is 1 (`t1`), expected 2 (`t2`)"],
    );
    // Without BOS tokens are counted from the first one that is there.
    refuses(
        &corpus,
        &[&[5, 1, 2, 1], &[1, 2, 3, 4]],
        &["the nearest is sample 2: token 3 is 1 (`t1`), expected 2 (`t2`)"],
    );
}

/// They are taken in their order.
#[test]
fn many_samples_that_are_the_same() {
    let same: &[u32] = &[0, 1];
    let corpus = vec![same; 300];
    let place = Place::of(&corpus);
    let more: &[u32] = &[0, 1, EOS];
    let summary = import(&place, Format::Vllm, &vec![more; 300]).unwrap();
    assert_eq!((summary.samples, summary.end_more), (300, 300));
    assert!(!summary.reordered);
}
