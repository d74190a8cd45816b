//! How much main memory is left, and how the allocator keeps what it has.

use std::ffi::{c_int, c_long};
use std::fs;
use std::path::Path;
use std::time::Duration;

// Links it, whether or not it is the allocator of the program.
use mimalloc as _;

/// mimalloc's number of its option `purge_delay`: milliseconds after which memory that was freed goes
/// back to the system, 1000 at first.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
    fn mi_option_get(option: c_int) -> c_long;
}

/// While it lives, mimalloc keeps freed memory for longer.
#[must_use]
pub struct Kept {
    before: c_long,
}

/// Lets mimalloc keep freed memory for so long, unless `MIMALLOC_PURGE_DELAY` says otherwise.
///
/// Activations and gradients are freed and asked for again with each batch. Memory that went back in
/// between comes anew, and the system fills it with zeros first, on the thread that waits for it.
pub fn keep_freed(time: Duration) -> Kept {
    let millis = c_long::try_from(time.as_millis()).unwrap_or(c_long::MAX);
    // SAFETY: reads a number.
    let before = unsafe { mi_option_get(PURGE_DELAY) };
    set_delay(millis);
    Kept { before }
}

impl Drop for Kept {
    fn drop(&mut self) {
        set_delay(self.before);
    }
}

fn set_delay(millis: c_long) {
    // SAFETY: sets a number; mimalloc reads it atomically.
    unsafe { mi_option_set_default(PURGE_DELAY, millis) }
}

/// Bytes that can still be allocated without swapping; none if the system does not say.
///
/// The lower of what Linux calls available and what the control groups of this process leave of
/// their limits, file caches not counted.
pub fn free_memory() -> Option<u64> {
    let machine = available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = left_by_groups(Path::new("/sys/fs/cgroup"), &groups);
    Some(left.map_or(machine, |left| left.min(machine)))
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the tightest of the memory control groups named in /proc/self/cgroup leaves.
fn left_by_groups(root: &Path, groups: &str) -> Option<u64> {
    let left = |dir: &Path, limit: &str, used: &str, cache: &str| -> Option<u64> {
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(dir.join(file)).ok()?;
            text.trim().parse().ok()
        };
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == cache).then(|| value.parse::<u64>().ok())?
        });
        let used = number(used)?.saturating_sub(cached.unwrap_or(0));
        // "max" is no number: no limit.
        Some(number(limit)?.saturating_sub(used))
    };
    let of_line = |line: &str| -> Option<u64> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.trim_start_matches('/');
        let second = controllers.is_empty();
        if !second && !controllers.split(',').any(|name| name == "memory") {
            return None;
        }
        let top = if second {
            root.to_path_buf()
        } else {
            root.join("memory")
        };
        let full = top.join(path);
        let dirs = full.ancestors().take_while(|dir| dir.starts_with(&top));
        dirs.filter_map(|dir| match second {
            true => left(dir, "memory.max", "memory.current", "inactive_file"),
            false => left(
                dir,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
        })
        .min()
    };
    groups.lines().filter_map(of_line).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts() {
        let text = "MemTotal:  24 kB\nMemAvailable:      12 kB\n";
        assert_eq!(available(text), Some(12 * 1024));
        assert_eq!(available("MemTotal: 24 kB\n"), None);

        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 5\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "600\n");
        assert_eq!(left_by_groups(dir.path(), "0::/a/b\n"), Some(400));
        assert_eq!(left_by_groups(dir.path(), "0::/\n"), None);
        write("memory/c/memory.limit_in_bytes", "50\n");
        write("memory/c/memory.usage_in_bytes", "20\n");
        let groups = "3:cpu:/c\n2:memory:/c\n0::/a\n";
        assert_eq!(left_by_groups(dir.path(), groups), Some(30));
    }

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads a number.
        let delay = unsafe { mi_option_get(PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            // The default, or that of a training in another test.
            assert!(delay == 1000 || delay == 30_000, "{delay}");
        }
    }

    #[test]
    fn a_machine_has_memory() {
        if cfg!(target_os = "linux") {
            assert!(free_memory().unwrap() > 1 << 20);
        }
    }
}
