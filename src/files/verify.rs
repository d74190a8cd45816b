//! Many files compared with their records.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{FileRecord, Stamp};
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt};

/// What a file should hold.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The file.
    pub path: PathBuf,
    /// What was written to it.
    pub expected: FileRecord,
    /// Reads the file and takes the digest that `expected` is of.
    pub digest: fn(&Path) -> Result<String>,
    /// What to do if it holds something else.
    pub remedy: &'static str,
}

/// Reads files and compares them with what was written to them; returns an error for each that is
/// another, in the order of `claims`. A file with several names is read once.
///
/// # Errors
/// The user's wish to stop.
///
/// # Memory
/// 4 MiB for each thread, and 32 bytes for every 64 KiB of the largest tensor.
pub fn verify(claims: &[Claim]) -> Result<Vec<(PathBuf, Error)>> {
    let mut seen = HashSet::new();
    let once: Vec<&Claim> = claims
        .iter()
        .filter(
            |claim| match fs::metadata(&claim.path).map(|meta| Stamp::of(&meta)) {
                Ok(stamp) if stamp.file().is_some() => {
                    seen.insert((stamp.file(), claim.expected.digest.clone()))
                }
                _ => true,
            },
        )
        .collect();
    let total = once.iter().map(|claim| claim.expected.bytes).sum();
    let bar = Bar::new("verify", total, "bytes");
    let found = once
        .par_iter()
        .with_max_len(1)
        .map(|claim| {
            check_interrupt()?;
            let problem = match compare(claim) {
                Ok(()) => None,
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => Some((claim.path.clone(), error.remedy(claim.remedy))),
            };
            bar.advance(claim.expected.bytes);
            Ok(problem)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn compare(claim: &Claim) -> Result<()> {
    let (path, expected) = (&claim.path, &claim.expected);
    let bytes = fs::metadata(path).at(path)?.len();
    check_length(path, expected.bytes, bytes)?;
    let digest = (claim.digest)(path)?;
    match digest == expected.digest {
        true => Ok(()),
        false => Err(Error::damaged(
            path,
            format!(
                "its bytes are not those that were written: digest {digest}, recorded {}",
                expected.digest
            ),
        )),
    }
}

/// Fails unless a file has the length that was recorded.
pub(crate) fn check_length(path: &Path, expected: u64, found: u64) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::damaged(
            path,
            format!("has {found} bytes, {expected} were written"),
        )),
    }
}
