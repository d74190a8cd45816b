//! What an artifact was made from and who can use it, in its own run and in those beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact::{Artifact, Kind, Provenance, RunDir};

/// Where an artifact stands among the runs of a folder. Paths are relative to that folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Inputs that lie in the same run, by name.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Artifacts that were made from this one.
    pub used_by: Vec<PathBuf>,
    /// Artifacts with the same rows, in other runs.
    pub copies: Vec<PathBuf>,
    /// Runs that have everything that this one was made from but not itself, so that they could
    /// use it as it is.
    pub usable_by: Vec<PathBuf>,
}

/// What is looked at of an artifact.
struct Seen {
    /// Index of its run.
    run: usize,
    path: PathBuf,
    provenance: Provenance,
    /// What it holds, and what it was made from: inputs are known by one of them.
    names: [String; 2],
}

/// Finds an artifact (its folder or one of its parts) among the runs beside its own; nothing if
/// it lies in no run. Reads the footers of every artifact.
pub(super) fn of(path: &Path, provenance: &Provenance) -> Origin {
    let mut origin = Origin::default();
    let Some(path) = fs::canonicalize(path).ok() else {
        return origin;
    };
    let Some(own) = path.ancestors().find(|dir| is_run(dir)) else {
        return origin;
    };
    let runs = neighbours(own);
    // Of a run and its variants, the folder that holds the outermost.
    let outermost = runs.iter().map(PathBuf::as_path);
    let outermost = outermost.min_by_key(|run| run.components().count());
    let base = outermost.and_then(Path::parent).unwrap_or(own);
    let relative = |path: &Path| path.strip_prefix(base).unwrap_or(path).to_path_buf();
    let seen: Vec<Seen> = runs
        .iter()
        .enumerate()
        .flat_map(|(at, run)| look(at, run))
        .collect();
    let is_own = |other: &&Seen| path == other.path || path.starts_with(&other.path);
    let Some(names) = seen.iter().find(is_own).map(|own| &own.names) else {
        return origin;
    };
    for other in &seen {
        if other
            .provenance
            .inputs
            .values()
            .any(|input| names.contains(input))
        {
            origin.used_by.push(relative(&other.path));
        }
        if other.names[0] == names[0] && !is_own(&other) {
            origin.copies.push(relative(&other.path));
        }
    }
    let here = seen.iter().filter(|other| runs[other.run] == own);
    for (name, digest) in &provenance.inputs {
        if let Some(input) = here.clone().find(|other| other.names.contains(digest)) {
            origin.inputs.insert(name.clone(), relative(&input.path));
        }
    }
    if origin.inputs.is_empty() {
        return origin;
    }
    for (at, run) in runs.iter().enumerate() {
        let theirs = || seen.iter().filter(|other| other.run == at);
        if theirs().any(|other| other.names[0] == names[0]) {
            continue;
        }
        let needed = origin.inputs.keys().map(|name| &provenance.inputs[name]);
        let mut needed = needed.map(|digest| theirs().any(|other| other.names.contains(digest)));
        if run != own && needed.all(|found| found) {
            origin.usable_by.push(relative(run));
        }
    }
    origin
}

fn is_run(dir: &Path) -> bool {
    dir.join("stages").join("run.json").is_file()
}

/// The run itself, those in the same folder, and the variants of all of them; sorted.
fn neighbours(own: &Path) -> Vec<PathBuf> {
    // A variant lies in `RUN/variants/`.
    let mut root = own;
    while let Some(parent) = root.parent().filter(|dir| dir.ends_with("variants")) {
        match parent.parent().filter(|dir| is_run(dir)) {
            Some(outer) => root = outer,
            None => break,
        }
    }
    let mut runs = vec![root.to_path_buf()];
    runs.extend(runs_in(root.parent()));
    runs.sort();
    runs.dedup();
    let variants: Vec<PathBuf> = runs
        .iter()
        .flat_map(|run| runs_in(Some(&run.join("variants"))))
        .collect();
    runs.extend(variants);
    runs.sort();
    runs
}

fn runs_in(dir: Option<&Path>) -> Vec<PathBuf> {
    let entries = dir.and_then(|dir| fs::read_dir(dir).ok());
    let paths = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    paths.filter(|path| is_run(path)).collect()
}

/// The artifacts of a run that can be read.
fn look(run: usize, dir: &Path) -> Vec<Seen> {
    let folder = RunDir::new(dir);
    let mut seen = Vec::new();
    for kind in Kind::ALL {
        for values in folder.list(kind).unwrap_or_default() {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let path = folder.artifact(kind, &values);
            if let Ok(artifact) = Artifact::open(&path, kind) {
                seen.push(Seen {
                    run,
                    path,
                    provenance: artifact.provenance().clone(),
                    names: [artifact.content(), artifact.identity().to_owned()],
                });
            }
        }
    }
    seen
}
