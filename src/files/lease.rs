//! Leases: what one of several processes works on, on one machine or on many that share a file system.
//!
//! Whoever creates the file has the lease. On the same machine the system's lock on it tells whether
//! its holder is alive; from another machine, whose locks may not be seen, its *beat* does: the
//! holder counts on in the file, and a lease whose count has not moved for a while is given up. How
//! long is measured by the clock of the one who waits, from when it looked first: what hosts think
//! of the time, and what the file system writes beside its files, does not matter.
//!
//! A holder that was thought to be dead and is not (it was stopped, or cut off) goes on beside its
//! heir. So a lease saves work, and keeps no one from writing; what is written must be right twice.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fmt};

use serde::{Deserialize, Serialize};

use super::lock::{is_forbidden, lock_new};
use super::{Stamp, host};
use crate::error::{Context, Error, Result};

/// The variable that says for how many seconds a holder on another machine may be silent.
const SECONDS: &str = "FUSELM_LEASE_SECONDS";
/// The same where it is not set: more than file systems keep what they have read, and more than a
/// busy server takes.
const DEFAULT_SECONDS: u64 = 60;
/// How often a holder is heard in this time.
const BEATS: u32 = 6;
/// Longest file of a lease that is read.
const MOST_BYTES: u64 = 4096;

/// How long a silent holder is waited for.
///
/// # Errors
/// The variable holds no number.
fn patience() -> Result<Duration> {
    static GIVEN: LazyLock<Option<String>> = LazyLock::new(|| env::var(SECONDS).ok());
    let seconds = match &*GIVEN {
        None => DEFAULT_SECONDS,
        Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            let text = text.escape_debug();
            Error::usage(format!(
                "`{SECONDS}` is `{text}`, expected a number of seconds"
            ))
        })?,
    };
    Ok(Duration::from_secs(seconds))
}

/// Who holds a lease, as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its number on its machine.
    pub process: u32,
    /// The machine.
    pub host: String,
    /// The task of a batch system, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The start of the machine.
    boot: String,
    /// This lease, and no other.
    lease: String,
    /// How often it was heard.
    beat: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} on {}",
            self.process,
            self.host.escape_debug()
        )?;
        match &self.job {
            Some(job) => write!(f, " (job {})", job.escape_debug()),
            None => Ok(()),
        }
    }
}

/// A lease; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    who: Holder,
    /// Ends the beats.
    stop: Option<Sender<()>>,
    beats: Option<JoinHandle<()>>,
    /// Locked as long as it is open.
    _file: File,
}

/// What became of the wish for a lease.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lease),
    /// Another process has it; who, where its file says so.
    Theirs(Option<Holder>),
}

/// What one who waits has seen of others' leases.
#[derive(Debug, Default)]
pub struct Watch(HashMap<PathBuf, (Vec<u8>, Instant)>);

/// A lease, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Who has it, where its file says so.
    pub holder: Option<Holder>,
    /// Whether the holder has ended, as far as that shows.
    pub is_dead: bool,
}

impl Watch {
    /// Looks at the lease whose file is `path`; `None` if nobody has it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn look(&mut self, path: &Path) -> Result<Option<Seen>> {
        let Some(text) = read(path)? else {
            return Ok(None);
        };
        let holder: Option<Holder> = serde_json::from_slice(&text).ok();
        let is_dead = matches!(self.state(path, &text, holder.as_ref())?, State::Dead(_));
        Ok(Some(Seen { holder, is_dead }))
    }
}

impl Lease {
    /// Takes the lease whose file is `path`, unless another process has it and is alive, as far as
    /// `watch` has seen.
    ///
    /// # Errors
    /// The file cannot be made or read.
    pub fn take(path: &Path, watch: &mut Watch) -> Result<Taken> {
        loop {
            if let Some(lease) = Self::create(path)? {
                watch.0.remove(path);
                return Ok(Taken::Ours(lease));
            }
            let Some(seen) = read(path)? else {
                continue;
            };
            let holder: Option<Holder> = serde_json::from_slice(&seen).ok();
            match watch.state(path, &seen, holder.as_ref())? {
                State::Alive => return Ok(Taken::Theirs(holder)),
                State::Dead(_locked) => bury(path, &seen)?,
            }
        }
    }

    /// Creates the file, unless there is one.
    fn create(path: &Path) -> Result<Option<Self>> {
        // What may fail without it comes before the file, which would be left behind.
        let every = patience()? / BEATS;
        let who = Holder {
            process: std::process::id(),
            host: host::name().to_owned(),
            job: host::job(),
            boot: host::boot().to_owned(),
            lease: host::nonce()?,
            beat: 0,
        };
        let mut file = match File::create_new(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(Error::io(path, error)),
        };
        lock_new(&file);
        if let Err(error) = write(&mut file, &who) {
            let _ = fs::remove_file(path);
            return Err(Error::io(path, error));
        }
        let (stop, stopped) = channel();
        let (mut beating, mut again) = (file.try_clone().at(path)?, who.clone());
        let beats = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                again.beat += 1;
                // Other machines see what has reached the file system. One that is not heard is
                // waited for.
                let _ = write(&mut beating, &again).and_then(|()| beating.sync_data());
            }
        };
        let beats = std::thread::Builder::new().spawn(beats).at(path)?;
        Ok(Some(Self {
            path: path.to_path_buf(),
            who,
            stop: Some(stop),
            beats: Some(beats),
            _file: file,
        }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(beats) = self.beats.take() {
            let _ = beats.join();
        }
        // Unless another process thought us dead: then the file is its own.
        let found = read(&self.path).ok().flatten();
        if found.is_some_and(|text| lease_of(&text).as_ref() == Some(&self.who.lease)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Watch {
    /// Whether the holder of the lease at `path`, which holds `seen` now, is alive.
    fn state(&mut self, path: &Path, seen: &[u8], holder: Option<&Holder>) -> Result<State> {
        if holder.is_some_and(|holder| holder.boot == host::boot())
            && let Some(state) = look(path, seen)?
        {
            return Ok(state);
        }
        Ok(match self.silence(path, seen) >= patience()? {
            true => State::Dead(None),
            false => State::Alive,
        })
    }

    /// How long the lease at `path`, which holds `seen` now, has not been heard of.
    fn silence(&mut self, path: &Path, seen: &[u8]) -> Duration {
        let now = Instant::now();
        let first = || (seen.to_vec(), now);
        let (before, since) = self.0.entry(path.to_path_buf()).or_insert_with(first);
        if before != seen {
            (*before, *since) = first();
        }
        since.elapsed()
    }
}

/// Whether the holder of a lease is alive.
enum State {
    Alive,
    /// It is not. Of this machine, its file, which we have locked now: so it has no other heir here.
    Dead(#[allow(dead_code, reason = "it is locked as long as it is open")] Option<File>),
}

/// Looks whether a process of this machine has the lease locked that held `seen`; `None` where the
/// file system has no locks.
fn look(path: &Path, seen: &[u8]) -> Result<Option<State>> {
    // Over NFS only those who may write can lock alone; who may not only looks.
    let opened = File::options().read(true).write(true).open(path);
    let (opened, alone) = match opened {
        Err(error) if is_forbidden(&error) => (File::open(path), false),
        opened => (opened, true),
    };
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(State::Alive)),
        Err(error) => return Err(Error::io(path, error)),
    };
    let locked = match alone {
        true => file.try_lock(),
        false => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Some(State::Alive)),
        Err(TryLockError::Error(_)) => return Ok(None),
    }
    // It may have got an heir before we locked it.
    let ours = Stamp::of(&file.metadata().at(path)?).file();
    let there = fs::metadata(path).ok().and_then(|m| Stamp::of(&m).file());
    let mut text = Vec::new();
    Read::by_ref(&mut file)
        .take(MOST_BYTES)
        .read_to_end(&mut text)
        .at(path)?;
    let same = ours == there && lease_of(&text) == lease_of(seen);
    Ok(Some(match same {
        true => State::Dead(Some(file)),
        false => State::Alive,
    }))
}

/// Removes the file of a dead holder, which held `seen`. Where another heir was faster, its file is
/// put back.
fn bury(path: &Path, seen: &[u8]) -> Result<()> {
    let mut grave = path.as_os_str().to_owned();
    grave.push(format!("-{}", host::nonce()?));
    let grave = PathBuf::from(grave);
    match fs::rename(path, &grave) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        moved => moved.at(path)?,
    }
    let found = read(&grave)?.unwrap_or_default();
    if found != seen && lease_of(&found) != lease_of(seen) {
        let _ = fs::hard_link(&grave, path);
    }
    fs::remove_file(&grave).at(&grave)
}

/// Which lease a file is of.
fn lease_of(text: &[u8]) -> Option<String> {
    let holder: Holder = serde_json::from_slice(text).ok()?;
    Some(holder.lease)
}

/// What a lease's file holds; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    // A link may lead anywhere, a pipe would have us wait.
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(
            Error::file(path, "a lease is wanted here, this is no file").remedy("remove it")
        );
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).at(path)?;
    Ok(Some(text))
}

/// Writes who holds a lease into its file; the text never gets shorter.
fn write(file: &mut File, who: &Holder) -> std::io::Result<()> {
    let text = serde_json::to_string(who)? + "\n";
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn take(path: &Path) -> Taken {
        Lease::take(path, &mut Watch::default()).unwrap()
    }

    #[test]
    fn one_holds_it_others_are_told_who_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let Taken::Ours(first) = take(&path) else {
            panic!("nobody else is there");
        };
        let Taken::Theirs(Some(holder)) = take(&path) else {
            panic!("two hold it");
        };
        let who = format!("process {} on ", std::process::id());
        assert!(holder.to_string().starts_with(&who), "{holder}");
        drop(first);
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    /// What a killed process of this machine leaves behind has nobody who locks it.
    #[test]
    fn a_dead_holder_of_this_machine_has_an_heir_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let Taken::Ours(lease) = take(&path) else {
            panic!("nobody else is there");
        };
        let text = fs::read(&path).unwrap();
        drop(lease);
        fs::write(&path, text).unwrap();
        assert!(matches!(take(&path), Taken::Ours(_)));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    /// On another machine only the beats tell.
    #[test]
    fn one_who_is_heard_on_another_machine_is_alive_and_a_silent_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let mut holder = Holder {
            process: 1,
            host: "other".into(),
            job: None,
            boot: "of another machine".into(),
            lease: "1".into(),
            beat: 0,
        };
        let (mut watch, patience) = (Watch::default(), patience().unwrap());
        let mut seen = |holder: &Holder, ago: Duration| {
            let text = serde_json::to_vec(holder).unwrap();
            fs::write(&path, &text).unwrap();
            let dead = watch.silence(&path, &text) >= patience;
            // As if it had been looked at earlier.
            let (_, since) = watch.0.get_mut(&path).unwrap();
            *since -= ago;
            dead
        };
        assert!(!seen(&holder, patience));
        holder.beat = 1;
        assert!(!seen(&holder, patience / 2));
        assert!(!seen(&holder, patience / 2));
        assert!(seen(&holder, Duration::ZERO));
        // The heir.
        let taken = Lease::take(&path, &mut watch).unwrap();
        assert!(matches!(taken, Taken::Ours(_)));
    }

    /// Two heirs of one dead holder: the slower one had seen the file of the dead.
    #[test]
    fn an_heir_that_was_faster_keeps_its_lease() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let dead = br#"{"process": 1}"#;
        let Taken::Ours(faster) = take(&path) else {
            panic!("nobody else is there");
        };
        bury(&path, dead).unwrap();
        assert_eq!(
            lease_of(&fs::read(&path).unwrap()).as_ref(),
            Some(&faster.who.lease)
        );
        assert!(matches!(take(&path), Taken::Theirs(_)));
        drop(faster);
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    /// A file that says nothing may be one that is being written.
    #[test]
    fn what_is_no_lease_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        for text in ["", "{", "[]", "\u{0}\u{0}"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(take(&path), Taken::Theirs(None)), "{text:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let refused = || {
            let error = Lease::take(&path, &mut Watch::default()).unwrap_err();
            assert!(error.to_string().contains("this is no file"), "{error}");
            fs::remove_file(&path).unwrap();
        };
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        refused();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        refused();
    }

    #[test]
    fn of_many_at_once_only_one_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.lease");
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let Taken::Ours(lease) = take(&path) else {
                            continue;
                        };
                        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0);
                        held.fetch_sub(1, Ordering::SeqCst);
                        drop(lease);
                    }
                });
            }
        });
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
