//! Whether a file can have changed since it was last read, without reading it.

use std::fmt;
use std::fs::Metadata;
use std::time::{SystemTime, UNIX_EPOCH};

/// Two writes within this time may leave the same times: clocks of file systems tick every few
/// milliseconds.
const TICK: i128 = 50_000_000;

/// A file's length, its number and device, when it was last written to and when anything about it
/// last changed, which no program can set back. As long as all stay the same, so do its bytes.
/// Written out it has no device: the numbers of devices may be others after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    /// 0 where the system has none.
    device: u64,
    /// 0 where the system has none.
    inode: u64,
    /// Nanoseconds since 1970.
    modified: i128,
    /// The same; that of the last write where the system knows no better.
    changed: i128,
}

impl Stamp {
    /// The stamp of the file that `metadata` is about.
    pub fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().map_or(0, nanoseconds);
        let (device, inode, changed) = identity(metadata).unwrap_or((0, 0, modified));
        Self {
            bytes: metadata.len(),
            device,
            inode,
            modified,
            changed,
        }
    }

    /// The file's length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device and the number of the file: the same for all its names, and no other's. `None`
    /// where the system has none.
    pub fn file(&self) -> Option<(u64, u64)> {
        (self.inode > 0).then_some((self.device, self.inode))
    }

    /// Whether the last change is long enough ago for the next one to show.
    pub fn is_settled(&self) -> bool {
        nanoseconds(SystemTime::now()) - self.changed.max(self.modified) > TICK
    }

    /// Whether `later` is the same file with the same bytes, which may have got another name.
    pub fn is_same_content(&self, later: &Stamp) -> bool {
        let content = |stamp: &Stamp| (stamp.bytes, stamp.device, stamp.inode, stamp.modified);
        content(self) == content(later)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes,
            device: _,
            inode,
            modified,
            changed,
        } = self;
        write!(f, "{bytes} {inode} {modified} {changed}")
    }
}

fn nanoseconds(time: SystemTime) -> i128 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// Device and number of a file, and when anything about it last changed.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)]
fn identity(metadata: &Metadata) -> Option<(u64, u64, i128)> {
    use std::os::unix::fs::MetadataExt;
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some((metadata.dev(), metadata.ino(), changed))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64, i128)> {
    None
}
