//! Whether the output fits on the disk.

use std::path::Path;

use super::Plan;
use crate::error::{Error, Result};
use crate::files::existing_ancestor;
use crate::units::Bytes;

impl Plan {
    /// Free bytes where the output will be, if the system says.
    pub(super) fn free_space(&self) -> Option<u64> {
        free_bytes(&existing_ancestor(self.target.out()))
    }

    /// Checks that the output fits on the disk.
    ///
    /// # Errors
    ///
    /// Too little free space.
    pub(in crate::merge) fn check_space(&self) -> Result<()> {
        let there: u64 = self
            .layout
            .files()
            .filter_map(|file| allocated(&self.workplace().join(file)))
            .sum();
        let needed = self.bytes_written().saturating_sub(there);
        match self.free_space() {
            Some(free) if free < needed => Err(Error::file(
                self.target.out(),
                format!(
                    "the merged model takes {}, {} are free",
                    Bytes(needed),
                    Bytes(free)
                ),
            )
            .remedy("free some space or choose another output folder")),
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
fn allocated(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.blocks() * 512)
}

#[cfg(not(unix))]
fn allocated(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.len())
}

#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}
