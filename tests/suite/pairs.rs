//! Two merges that begin within 30 ms and write the same folder: it is one of them, whole, and who
//! did not write it says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Output};
use std::thread::sleep;
use std::time::Duration;

use super::program::{Workshop, data_samples, files, tiny_model};

/// What a merge says that finds another at work, or its result.
const REFUSALS: [&str; 4] = [
    "another process is writing",
    "appeared after the work was planned",
    "changed after the work was planned",
    "is not empty",
];

fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = files(dir).into_iter().map(|path| {
        let name = path.strip_prefix(dir).unwrap().to_string_lossy();
        (name.into_owned(), fs::read(&path).unwrap())
    });
    files.collect()
}

/// Merges in so many pairs, with and without `--force`, of equal and of different configurations.
fn merge_in_pairs(pairs: u64) {
    let workshop = Workshop::new();
    let sample = data_samples().join("models/pivot");
    tiny_model(&sample, 2).save(&workshop.path("models/other"), 8);
    let wholes = [0.5, 0.25].map(|weight| {
        let config = format!(
            "merge_method: linear\nmodels:\n- {{ model: models/pivot, parameters: {{ weight: \
             {weight} }} }}\n- {{ model: models/other, parameters: {{ weight: 0.5 }} }}\n"
        );
        workshop.write(&format!("{weight}.yml"), &config);
        // The model card names the folder.
        let out = format!("alone-{weight}/out");
        workshop
            .fuselm(&format!("merge {weight}.yml {out}"))
            .exits(0);
        content(&workshop.path(&out))
    });
    assert_ne!(wholes[0], wholes[1]);
    let mut refused = 0;
    for pair in 0..pairs {
        let out = format!("pair-{pair}/out");
        let force = ["", " --force"][(pair % 2) as usize];
        if pair % 4 == 1 {
            workshop.fuselm(&format!("merge 0.5.yml {out}")).exits(0);
        }
        let start = |config: &str| -> Child {
            let line = format!("merge {config}.yml {out}{force}");
            workshop.command(&line).spawn().unwrap()
        };
        let first = start("0.5");
        sleep(Duration::from_millis(pair * 7 % 31));
        let second = start(["0.5", "0.25"][(pair / 2 % 2) as usize]);
        let mut written = 0;
        for output in [first, second].map(|child| child.wait_with_output().unwrap()) {
            let Output { status, stderr, .. } = output;
            let stderr = String::from_utf8(stderr).unwrap();
            match status.code() {
                Some(0) => written += 1,
                code => {
                    let said = REFUSALS.iter().any(|words| stderr.contains(words));
                    assert!(code == Some(2) && said, "pair {pair}: {code:?} {stderr}");
                    refused += 1;
                }
            }
        }
        assert!(
            written > 0 && (written == 1 || !force.is_empty()),
            "pair {pair}"
        );
        let found = content(&workshop.path(&out));
        assert!(wholes.contains(&found), "pair {pair}: {:?}", found.keys());
        let beside = fs::read_dir(workshop.path(&format!("pair-{pair}"))).unwrap();
        assert_eq!(beside.count(), 1, "pair {pair}");
    }
    eprintln!("{pairs} pairs, {refused} refusals");
}

#[test]
fn merges_in_pairs_are_whole_or_refused() {
    merge_in_pairs(12);
}

#[test]
#[ignore = "1,200 pairs take some minutes"]
fn many_merges_in_pairs_are_whole_or_refused() {
    merge_in_pairs(1200);
}
