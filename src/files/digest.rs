//! Digests of texts and files, computed once.
//!
//! A digest is cached by the file's number (so that all names of a file share it; by path where the
//! system has no numbers) and [`Stamp`] (length, time of the last write and of the last change)
//! under `$FUSELM_CACHE`, `$XDG_CACHE_HOME/fuselm` or `~/.cache/fuselm`, one small file each; where
//! none of these can be written, it is computed again. After [`recompute`] nothing is believed that
//! was not read by this process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Stamp, atomic, digest_of_file, hex};
use crate::error::{Context, Result};

/// Files below this size are not worth a cache entry.
const CACHE_FROM: u64 = 1 << 20;

/// Digests that this process has computed, once it no longer believes those of others.
static COMPUTED: Mutex<Option<HashMap<PathBuf, (Stamp, String)>>> = Mutex::new(None);

/// From now on digests are computed from the bytes, once for each file, whatever the cache says.
pub fn recompute() {
    let mut computed = COMPUTED.lock().unwrap_or_else(PoisonError::into_inner);
    computed.get_or_insert_default();
}

/// Digest of a file's bytes: 32 hexadecimal digits.
pub fn file(path: &Path) -> Result<String> {
    let mut opened = File::open(path).at(path)?;
    let stamp = Stamp::of(&opened.metadata().at(path)?);
    let entry = (stamp.bytes() >= CACHE_FROM)
        .then(|| cache_entry(path, &stamp))
        .flatten();
    if let Some(entry) = &entry
        && let Some(digest) = look_up(entry, &stamp)
    {
        return Ok(digest);
    }
    let digest = digest_of_file(&mut opened, path)?;
    let after = Stamp::of(&opened.metadata().at(path)?);
    // What was written to just now may be written to again without a sign of it.
    if let Some(entry) = entry
        && after == stamp
        && stamp.is_settled()
    {
        remember(&entry, &stamp, &digest);
    }
    Ok(digest)
}

/// Gives a file one more name, as [`fs::hard_link`] does. That changes the file's times under all
/// its names, but not what is known of its digest.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    let before = Stamp::of(&fs::metadata(from)?);
    let entry = cache_entry(from, &before);
    let known = entry.and_then(|entry| Some((look_up(&entry, &before)?, entry)));
    fs::hard_link(from, to)?;
    if let Some((digest, entry)) = known {
        let after = Stamp::of(&fs::metadata(from)?);
        if before.is_same_content(&after) {
            remember(&entry, &after, &digest);
        }
    }
    Ok(())
}

/// The digest of a file with this cache entry, if it is known.
fn look_up(entry: &Path, stamp: &Stamp) -> Option<String> {
    let computed = COMPUTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(computed) = &*computed {
        let (known, digest) = computed.get(entry)?;
        return (known == stamp).then(|| digest.clone());
    }
    let text = fs::read_to_string(entry).ok()?;
    let digest = text.strip_prefix(&format!("{stamp} "))?;
    (digest.len() == 32).then(|| digest.to_owned())
}

fn remember(entry: &Path, stamp: &Stamp, digest: &str) {
    let mut computed = COMPUTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(computed) = &mut *computed {
        computed.insert(entry.to_path_buf(), (stamp.clone(), digest.to_owned()));
    }
    // Without a cache everything still works, only slower.
    let _ = atomic::write(entry, format!("{stamp} {digest}").as_bytes());
}

/// Digest of a text.
pub fn text(text: &str) -> String {
    hex(&blake3::hash(text.as_bytes()))
}

/// Where the digest of the file at `path` is kept.
fn cache_entry(path: &Path, stamp: &Stamp) -> Option<PathBuf> {
    let name = match stamp.file() {
        Some((device, inode)) => format!("{device}-{inode}"),
        None => text(&fs::canonicalize(path).ok()?.to_string_lossy()),
    };
    let root = match std::env::var_os("FUSELM_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) => PathBuf::from(dir).join("fuselm"),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/fuselm"),
        },
    };
    Some(root.join("digests").join(name))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Replaces the bytes of a file, and sets its time of the last write back: `cp -p`.
    fn overwrite(path: &Path, bytes: &[u8], modified: SystemTime) {
        fs::write(path, bytes).unwrap();
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(modified).unwrap();
    }

    #[test]
    fn other_bytes_of_the_same_length_and_time_have_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let size = 2 * CACHE_FROM as usize;
        let contents = [vec![1; size], vec![2; size], vec![3; size]];
        overwrite(&path, &contents[0], hour_ago);
        // Long enough for the digest to be worth remembering.
        std::thread::sleep(Duration::from_millis(100));
        let expected = |bytes: &[u8]| hex(&blake3::hash(bytes));
        assert_eq!(file(&path).unwrap(), expected(&contents[0]));
        overwrite(&path, &contents[1], hour_ago);
        assert_eq!(file(&path).unwrap(), expected(&contents[1]));
        // Another file under the name: `mv`.
        let other = dir.path().join("other");
        overwrite(&other, &contents[2], hour_ago);
        fs::rename(&other, &path).unwrap();
        assert_eq!(file(&path).unwrap(), expected(&contents[2]));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_hashed_again_and_do_not_hide_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let links = ["a", "b", "c"].map(|name| dir.path().join(name));
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        overwrite(&path, &vec![1; CACHE_FROM as usize], hour_ago);
        std::thread::sleep(Duration::from_millis(100));
        let digest = file(&path).unwrap();
        for link_path in &links {
            link(&path, link_path).unwrap();
        }
        let names = || links.iter().chain([&path]);
        for name in names() {
            let stamp = Stamp::of(&fs::metadata(name).unwrap());
            let entry = cache_entry(name, &stamp).unwrap();
            assert_eq!(look_up(&entry, &stamp), Some(digest.clone()), "{name:?}");
        }
        overwrite(&links[1], &vec![2; CACHE_FROM as usize], hour_ago);
        for name in names() {
            assert_ne!(file(name).unwrap(), digest);
        }
    }
}
