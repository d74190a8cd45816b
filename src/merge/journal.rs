//! What of a merge is done, so that a killed one continues where it stopped.
//!
//! The first line names the plan and the boot of the machine (after a power failure finished
//! tensors may not have reached the disk, so a journal of another boot is not trusted); every
//! further line is a tensor that is written completely, with its digest and its outcome.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::arithmetic::{Outcome, Remark, Share};
use crate::error::{Context, Result};
use crate::progress::warn;

#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
struct Head {
    fingerprint: String,
    boot: String,
}

/// Figures are kept as bit patterns: a resumed merge gives the same rows to the last bit.
#[derive(serde::Serialize, serde::Deserialize)]
struct Line {
    tensor: usize,
    digest: String,
    shares: Vec<[u64; 4]>,
    remarks: Vec<Remark>,
}

impl Line {
    fn new(tensor: usize, done: &Done) -> Self {
        let outcome = &done.outcome;
        let bits = |share: &Share| {
            [
                share.coefficient,
                share.selected_fraction,
                share.kept_fraction,
                share.delta_norm,
            ]
            .map(f64::to_bits)
        };
        Self {
            tensor,
            digest: done.digest.to_hex().to_string(),
            shares: outcome.shares.iter().map(bits).collect(),
            remarks: outcome.remarks.clone(),
        }
    }

    /// `None` if its digest is none.
    fn done(self) -> Option<Done> {
        let share = |bits: &[u64; 4]| {
            let [coefficient, selected_fraction, kept_fraction, delta_norm] =
                bits.map(f64::from_bits);
            Share {
                coefficient,
                selected_fraction,
                kept_fraction,
                delta_norm,
            }
        };
        Some(Done {
            digest: blake3::Hash::from_hex(&self.digest).ok()?,
            outcome: Outcome {
                shares: self.shares.iter().map(share).collect(),
                remarks: self.remarks,
                finite: true,
            },
        })
    }
}

/// A tensor that is written completely.
#[derive(Clone)]
pub(super) struct Done {
    /// The digest of its bytes.
    pub digest: blake3::Hash,
    pub outcome: Outcome,
}

/// The open journal of a merge.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// The name of the journal's file.
pub(super) const JOURNAL: &str = "merge-journal.jsonl";

impl Journal {
    /// Opens the journal in `dir` and returns what is known of finished tensors. What another plan
    /// left in `dir` is removed.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn open(
        dir: &Path,
        fingerprint: &str,
        tensors: usize,
    ) -> Result<(Self, Vec<Option<Done>>)> {
        let path = dir.join(JOURNAL);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .at(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at(&path)?;
        let head = Head {
            fingerprint: fingerprint.to_owned(),
            boot: boot(),
        };
        let mut done: Vec<Option<Done>> = vec![None; tensors];
        let mut good = 0;
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let same = lines.next().is_some_and(|line| {
            good = line.len();
            line.ends_with(b"\n") && serde_json::from_slice::<Head>(line).is_ok_and(|h| h == head)
        });
        if same {
            for line in lines {
                // A line that was cut off, and all after it, are as if not written.
                let parsed = serde_json::from_slice::<Line>(line).ok();
                let parsed = parsed.filter(|l| line.ends_with(b"\n") && l.tensor < tensors);
                let Some((tensor, parsed)) = parsed.and_then(|l| Some((l.tensor, l.done()?)))
                else {
                    break;
                };
                done[tensor] = Some(parsed);
                good += line.len();
            }
            file.set_len(good as u64).at(&path)?;
            file.seek(SeekFrom::End(0)).at(&path)?;
        } else {
            if !bytes.is_empty() {
                let dir = dir.display();
                warn(format!(
                    "an interrupted merge in {dir} had other inputs or settings: starting again"
                ));
            }
            clear(dir)?;
            file.set_len(0).at(&path)?;
            file.rewind().at(&path)?;
            let line = serde_json::to_string(&head).during(|| "writing the journal".into())?;
            file.write_all(format!("{line}\n").as_bytes()).at(&path)?;
        }
        Ok((Self { path, file }, done))
    }

    /// Records that a tensor is written.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub fn done(&mut self, tensor: usize, done: &Done) -> Result<()> {
        let line = serde_json::to_string(&Line::new(tensor, done))
            .during(|| "writing the journal".into())?;
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .at(&self.path)
    }
}

/// Removes everything but the journal: shards of another plan must not be published with ours.
fn clear(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.file_name().is_some_and(|name| name != JOURNAL) {
            match path.is_dir() && !path.is_symlink() {
                true => std::fs::remove_dir_all(&path).at(&path)?,
                false => std::fs::remove_file(&path).at(&path)?,
            }
        }
    }
    Ok(())
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
