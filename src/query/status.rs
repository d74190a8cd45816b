//! Where a run stands: which parts are there, which are being made, by whom, and for how long.
//!
//! Everything comes from the run folder, whoever writes it: names, times and leases of parts, locks
//! of checkpoints. Parts are not opened, so that thousands take no time.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::artifact::{Kind, Part, RunDir, is_part, parts};
use crate::error::{Context, Result};
use crate::files::{Seen, Watch, beside, lock_holder};
use crate::units::{Bytes, Elapsed};

/// Parts over whose times the speed is taken, the last ones.
const RECENT: usize = 32;
/// Makers of parts that a line names.
const NAMED: usize = 3;

/// Where a run and its variants stand.
#[derive(Clone, Debug, Serialize)]
pub struct RunStatus {
    /// The run folder.
    pub path: PathBuf,
    /// What the stages write part by part or at once, in the order of a run.
    pub artifacts: Vec<ArtifactStatus>,
    /// Model folders.
    pub checkpoints: Vec<CheckpointStatus>,
}

/// Where an artifact stands.
#[derive(Clone, Debug, Serialize)]
pub struct ArtifactStatus {
    /// Its folder, inside the run folder.
    pub artifact: String,
    /// Parts that are there.
    pub parts: usize,
    /// Parts that it will have, if that is known.
    pub of: Option<usize>,
    /// Their bytes.
    pub bytes: u64,
    /// Parts a minute, of late; only while somebody makes some.
    pub parts_per_minute: Option<f64>,
    /// Seconds until the last part is there, at that speed.
    pub seconds_left: Option<f64>,
    /// Parts that are being made.
    pub making: Vec<Making>,
    /// The process that writes it whole.
    pub written_by: Option<String>,
}

/// A part that is being made.
#[derive(Clone, Debug, Serialize)]
pub struct Making {
    /// Its number.
    pub part: u32,
    /// By whom.
    #[serde(flatten)]
    pub by: Seen,
}

/// Where a model folder stands.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointStatus {
    /// Its folder, inside the run folder.
    pub checkpoint: String,
    /// Whether it is there.
    pub is_there: bool,
    /// Whether a training has left a state to go on from.
    pub has_state: bool,
    /// The process that writes it.
    pub written_by: Option<String>,
}

impl RunStatus {
    /// Looks at the run in `run`; `watch` is what has been seen of it before.
    ///
    /// # Errors
    /// Folders that cannot be listed.
    pub fn of(run: &RunDir, watch: &mut Watch) -> Result<Self> {
        let mut status = Self {
            path: run.root().to_path_buf(),
            artifacts: Vec::new(),
            checkpoints: Vec::new(),
        };
        status.add(run, "", watch)?;
        for name in folders(&run.root().join("variants"))? {
            let variant = RunDir::new(run.root().join("variants").join(&name));
            status.add(&variant, &format!("variants/{name}/"), watch)?;
        }
        Ok(status)
    }

    /// Whether any process is at work.
    pub fn is_at_work(&self) -> bool {
        let is_alive = |making: &Making| !making.by.is_dead;
        let makes = |artifact: &ArtifactStatus| artifact.making.iter().any(is_alive);
        let artifacts = &self.artifacts;
        artifacts.iter().any(|a| makes(a) || a.written_by.is_some())
            || self.checkpoints.iter().any(|c| c.written_by.is_some())
    }

    fn add(&mut self, run: &RunDir, prefix: &str, watch: &mut Watch) -> Result<()> {
        let corpus = parts_of_corpus(run)?;
        for kind in Kind::ALL {
            for values in run.list(kind)? {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                let dir = run.artifact(kind, &values);
                let inside = dir.strip_prefix(run.root()).unwrap_or(&dir);
                let name = format!("{prefix}{}", inside.display());
                let of = match kind {
                    _ if kind.per_sample() => corpus,
                    Kind::EvalItems => last_part(&dir, kind)?,
                    _ => Some(1),
                };
                self.artifacts.push(artifact(name, &dir, of, watch)?);
            }
        }
        self.add_checkpoints(run, prefix)
    }

    fn add_checkpoints(&mut self, run: &RunDir, prefix: &str) -> Result<()> {
        let dir = run.root().join("checkpoints");
        // What is being written is known by its lock before it is there: a merge by that of the folder,
        // a training by that of its `steps`.
        let steps = run.root().join(Kind::Steps.name());
        let locked = |name: &str, of: &str| {
            let name = name.strip_prefix(of)?.strip_suffix(".lock")?;
            Some(name.to_owned())
        };
        let trained = entries(&steps)?;
        let trained = trained.iter().filter_map(|name| locked(name, ".target="));
        let mut names: Vec<String> = trained.collect();
        for name in entries(&dir)? {
            match locked(&name, ".") {
                Some(name) => names.push(name),
                None if name.starts_with('.') => {}
                None => names.push(name.strip_suffix(".state").unwrap_or(&name).to_owned()),
            }
        }
        names.sort();
        names.dedup();
        for name in names {
            let place = dir.join(&name);
            let training = run.artifact(Kind::Steps, &[&name]);
            let mut holders = [&place, &training]
                .into_iter()
                .filter_map(|path| holder(path));
            let status = CheckpointStatus {
                written_by: holders.next(),
                is_there: place.is_dir(),
                has_state: dir.join(format!("{name}.state")).is_dir(),
                checkpoint: format!("{prefix}checkpoints/{name}"),
            };
            // A lock that a killed process left behind is nothing.
            if status.is_there || status.has_state || status.written_by.is_some() {
                self.checkpoints.push(status);
            }
        }
        Ok(())
    }
}

/// Who writes the artifact or model in `path`.
fn holder(path: &Path) -> Option<String> {
    lock_holder(&beside(path, "lock")?)
}

/// Names in a folder; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<String>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let names = entries.at(dir)?.map(|entry| {
                let name = entry.at(dir)?.file_name();
                Ok(name.to_string_lossy().into_owned())
            });
            names.collect()
        }
    }
}

fn folders(dir: &Path) -> Result<Vec<String>> {
    let mut names = entries(dir)?;
    names.retain(|name| !name.starts_with('.') && dir.join(name).is_dir());
    names.sort();
    Ok(names)
}

/// How many parts the artifacts of each sample have, once the corpus is complete.
fn parts_of_corpus(run: &RunDir) -> Result<Option<usize>> {
    let samples = last_part(&run.artifact(Kind::Samples, &[]), Kind::Samples)?;
    // The folder of a variant has only what is its own.
    match (samples, run.list(Kind::Tokens)?.first()) {
        (None, Some(values)) => {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            last_part(&run.artifact(Kind::Tokens, &values), Kind::Tokens)
        }
        (found, _) => Ok(found),
    }
}

/// The number of parts, if the last one is there.
fn last_part(dir: &Path, kind: Kind) -> Result<Option<usize>> {
    let last = entries(dir)?.into_iter().filter(|name| is_part(name)).max();
    let part = last.and_then(|name| Part::open(&dir.join(name), kind).ok());
    let info = part.map(|part| part.info()).filter(|info| info.last);
    Ok(info.map(|info| info.index as usize + 1))
}

fn artifact(
    name: String,
    dir: &Path,
    of: Option<usize>,
    watch: &mut Watch,
) -> Result<ArtifactStatus> {
    let (mut bytes, mut times) = (0, Vec::new());
    for name in entries(dir)?.iter().filter(|name| is_part(name)) {
        // One that is replaced at this moment is there again in the next.
        if let Ok(metadata) = fs::metadata(dir.join(name)) {
            bytes += metadata.len();
            times.push(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }
    let parts = times.len();
    let making: Vec<Making> = parts::makers(dir, watch)?
        .into_iter()
        .map(|(part, by)| Making { part, by })
        .collect();
    let is_made = making.iter().any(|making| !making.by.is_dead);
    let speed = is_made.then(|| parts_per_minute(times)).flatten();
    let missing = of.map(|of| of.saturating_sub(parts));
    Ok(ArtifactStatus {
        artifact: name,
        parts,
        of,
        bytes,
        parts_per_minute: speed,
        seconds_left: speed
            .zip(missing)
            .map(|(speed, missing)| missing as f64 * 60.0 / speed),
        written_by: if is_made { None } else { holder(dir) },
        making,
    })
}

/// How fast parts came of late, by the times at which the file system got them.
fn parts_per_minute(mut times: Vec<SystemTime>) -> Option<f64> {
    times.sort_unstable();
    let recent = &times[times.len().saturating_sub(RECENT)..];
    let (first, last) = (recent.first()?, recent.last()?);
    let took = last.duration_since(*first).ok()?.as_secs_f64();
    (took > 0.0).then(|| (recent.len() - 1) as f64 * 60.0 / took)
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run  {}", self.path.display())?;
        let names = self.artifacts.iter().map(|a| &a.artifact);
        let names = names.chain(self.checkpoints.iter().map(|c| &c.checkpoint));
        let width = names.map(String::len).max().unwrap_or(0);
        if !self.artifacts.is_empty() {
            let (name, parts, size) = ("artifact", "parts", "size");
            writeln!(f, "{name:width$}  {parts:>12}  {size:>10}")?;
        }
        for artifact in &self.artifacts {
            let parts = match artifact.of {
                Some(of) => format!("{} of {of}", artifact.parts),
                None => artifact.parts.to_string(),
            };
            let size = Bytes(artifact.bytes).to_string();
            write!(f, "{:width$}  {parts:>12}  {size:>10}", artifact.artifact)?;
            if let Some(speed) = artifact.parts_per_minute {
                write!(f, "  {speed:.1} parts/min")?;
            }
            if let Some(left) = artifact.seconds_left {
                write!(f, ", {} left", Elapsed(Duration::from_secs_f64(left)))?;
            }
            let makers: Vec<String> = artifact.making.iter().take(NAMED).map(describe).collect();
            if !makers.is_empty() {
                write!(f, "  {}", makers.join("; "))?;
            }
            if artifact.making.len() > NAMED {
                write!(f, "; and {} more", artifact.making.len() - NAMED)?;
            }
            if let Some(who) = &artifact.written_by {
                write!(f, "  written by {who}")?;
            }
            writeln!(f)?;
        }
        for checkpoint in &self.checkpoints {
            let words = match checkpoint {
                CheckpointStatus {
                    written_by: Some(who),
                    ..
                } => format!("written by {who}"),
                CheckpointStatus {
                    has_state: true, ..
                } => "in training; a state is saved, and nobody goes on from it".to_owned(),
                _ => "complete".to_owned(),
            };
            writeln!(f, "{:width$}  {words}", checkpoint.checkpoint)?;
        }
        Ok(())
    }
}

fn describe(making: &Making) -> String {
    let who = making.by.holder.as_ref().map(ToString::to_string);
    let who = who.unwrap_or_else(|| "another process".to_owned());
    match making.by.is_dead {
        true => format!("part {}: {who}, which has ended", making.part),
        false => format!("part {}: {who}", making.part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_that_of_the_last_parts() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(parts_per_minute(vec![]), None);
        assert_eq!(parts_per_minute(vec![at(5)]), None);
        assert_eq!(parts_per_minute(vec![at(5), at(5)]), None);
        assert_eq!(parts_per_minute(vec![at(90), at(30), at(60)]), Some(2.0));
        // Of long ago, before a pause, and then one every ten seconds.
        let late = (0..RECENT as u64).map(|n| at(100_000 + 10 * n));
        let times = [at(0), at(1)].into_iter().chain(late).collect();
        assert_eq!(parts_per_minute(times), Some(6.0));
    }
}
