//! Working through the parts of per-sample artifacts, several at a time.
//!
//! Any number of processes, on one machine or on several that share a file system, may work on one
//! artifact. Each makes the parts of its [`Shard`](super::Shard), holds a lease on a part while it
//! makes it, and waits for those of its shard that another process makes: when it has ended, its
//! shard is there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

use super::folder::{lease_index, lease_name};
use super::{Part, PartInfo, Writer};
use crate::error::{Context, Result};
use crate::files::{Lease, Seen, Taken, Watch};
use crate::progress::{check_interrupt, note};

/// Parts that are worked on at the same time, at most; each holds its tokens in memory.
const PARTS_AT_ONCE: usize = 8;
/// How often it is looked whether a part that another process makes is there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A part that this process makes, and no other, as long as this lives.
#[derive(Debug)]
pub struct Ours {
    /// The part.
    pub info: PartInfo,
    _lease: Lease,
}

/// The parts of a shard that are to be made.
#[derive(Debug)]
pub struct Todo<'a> {
    /// What is written of each part; the first has the leases.
    writers: Vec<&'a Writer>,
    /// Parts that are not there yet, in order.
    waiting: Vec<PartInfo>,
    watch: Watch,
    /// Whether the folder was made for leases.
    made_folder: bool,
    /// The first part that another process makes, and which, as it was last looked.
    theirs: Option<(u32, String)>,
}

impl<'a> Todo<'a> {
    /// What `writers` do not have yet of their shard; `parts` are all parts, in order. What is left of
    /// another result with more parts goes.
    ///
    /// # Errors
    /// Files that cannot be removed.
    pub fn new(
        parts: impl ExactSizeIterator<Item = PartInfo>,
        writers: &[&'a Writer],
    ) -> Result<Self> {
        let is_missing = |part: &PartInfo| {
            let mut writers = writers.iter();
            writers.any(|writer| writer.shard().has(part.index) && !writer.is_done(part.index))
        };
        let mut all = writers.iter();
        all.try_for_each(|writer| writer.remove_beyond(parts.len() as u32))?;
        Ok(Self {
            writers: writers.to_vec(),
            waiting: parts.filter(is_missing).collect(),
            watch: Watch::default(),
            made_folder: false,
            theirs: None,
        })
    }

    /// Whether nothing is to be made.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a part is to be made.
    pub fn has(&self, index: u32) -> bool {
        let found = self.waiting.binary_search_by_key(&index, |part| part.index);
        found.is_ok()
    }

    /// Samples in the parts that are to be made.
    pub fn samples(&self) -> u64 {
        self.waiting.iter().map(|part| part.samples).sum()
    }

    /// The next parts that are to be made here, in order, at most `most`; none once all are there.
    /// Waits while other processes make the last ones.
    ///
    /// # Errors
    /// A folder in which nothing may be written; the user's wish to stop.
    pub fn next(&mut self, most: usize) -> Result<Vec<Ours>> {
        let mut said = false;
        loop {
            check_interrupt()?;
            let taken = self.take(most)?;
            if !taken.is_empty() || self.waiting.is_empty() {
                return Ok(taken);
            }
            if let (false, Some((part, who))) = (said, &self.theirs) {
                let more = match self.waiting.len() - 1 {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                note(format!("waiting for part {part}{more}, made by {who}"));
                said = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The next parts that nobody else makes.
    fn take(&mut self, most: usize) -> Result<Vec<Ours>> {
        let mut taken = Vec::new();
        let mut at = 0;
        self.theirs = None;
        while at < self.waiting.len() && taken.len() < most {
            let info = self.waiting[at];
            match self.lease(info.index)? {
                Taken::Theirs(holder) => {
                    let who = holder.map_or("another process".to_owned(), |who| who.to_string());
                    self.theirs.get_or_insert((info.index, who));
                    at += 1;
                    continue;
                }
                // Another process has made it since.
                Taken::Ours(_lease) if self.is_there(info.index)? => {}
                Taken::Ours(lease) => taken.push(Ours {
                    info,
                    _lease: lease,
                }),
            }
            self.waiting.remove(at);
        }
        Ok(taken)
    }

    /// Asks for the right to make a part alone.
    fn lease(&mut self, index: u32) -> Result<Taken> {
        let dir = self.writers[0].dir();
        self.made_folder |= !dir.exists();
        fs::create_dir_all(dir).at(dir)?;
        Lease::take(&dir.join(lease_name(index)), &mut self.watch)
    }

    fn is_there(&self, index: u32) -> Result<bool> {
        for writer in &self.writers {
            if !writer.finds(index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The parts in `dir` that processes are making, and which, by number.
///
/// # Errors
/// A folder or lease that cannot be read.
pub fn makers(dir: &Path, watch: &mut Watch) -> Result<Vec<(u32, Seen)>> {
    let mut makers = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        let Some(index) = lease_index(&path) else {
            continue;
        };
        makers.extend(watch.look(&path)?.map(|seen| (index, seen)));
    }
    makers.sort_by_key(|(index, _)| *index);
    Ok(makers)
}

/// Removes the leases in `dir` that killed processes left behind, as far as that shows at once.
pub fn sweep(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        if lease_index(&entry.path()).is_some() {
            // One that is taken goes when it is dropped.
            drop(Lease::take(&entry.path(), &mut Watch::default()));
        }
    }
}

impl Drop for Todo<'_> {
    fn drop(&mut self) {
        sweep(self.writers[0].dir());
        // Empty, it would look like a result that was lost.
        if self.made_folder {
            let _ = fs::remove_dir(self.writers[0].dir());
        }
    }
}

/// Calls `work` for each part of the shard of `writer` that is not there yet, on several threads, and
/// returns the results in the order of the parts.
///
/// # Errors
/// The first error of any part; parts that are finished by then are kept.
///
/// # Memory
/// That of `work`, times the number of threads (at most 8).
pub fn each_missing<T: Send>(
    parts: &[Part],
    writer: &Writer,
    work: impl Fn(&Part) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let mut todo = Todo::new(parts.iter().map(Part::info), &[writer])?;
    let mut results = Vec::with_capacity(todo.waiting.len());
    loop {
        let group = todo.next(PARTS_AT_ONCE)?;
        if group.is_empty() {
            return Ok(results);
        }
        let part = |ours: &Ours| &parts[ours.info.index as usize];
        let done: Vec<Result<T>> = group.par_iter().map(|ours| work(part(ours))).collect();
        for result in done {
            results.push(result?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::artifact::sequence_metrics::SequenceMetrics;
    use crate::artifact::{Artifact, Existing, Kind, Provenance, Shard, Writing};

    fn infos(parts: u32) -> impl ExactSizeIterator<Item = PartInfo> {
        (0..parts).map(move |index| PartInfo {
            index,
            first_sample: u64::from(index) * 2,
            samples: 2,
            last: index + 1 == parts,
        })
    }

    fn writer(dir: &Path, result: &str, shard: Shard) -> Writer {
        let made = Provenance::new(Kind::SequenceMetrics).input("tokens", result);
        let writing = Writing {
            existing: Existing::Replace,
            shard,
        };
        Writer::create(dir, made, writing).unwrap()
    }

    fn write(writer: &Writer, info: PartInfo, nll: f64) {
        let mut rows = SequenceMetrics::default();
        for sample in info.first_sample..info.first_sample + info.samples {
            rows.push(sample, (nll, 1), 1);
        }
        let mut part = writer.part(info).unwrap();
        part.write(&rows.finish().unwrap()).unwrap();
        part.finish().unwrap();
    }

    fn make(dir: &Path, result: &str, parts: u32, shard: Shard, made: &mut dyn FnMut(u32)) {
        let writer = writer(dir, result, shard);
        let mut todo = Todo::new(infos(parts), &[&writer]).unwrap();
        while let Some(ours) = todo.next(1).unwrap().pop() {
            write(&writer, ours.info, 1.0);
            made(ours.info.index);
        }
    }

    fn hidden(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Each shard twice at the same moment: no part is made twice, and who is done first waits.
    #[test]
    fn shards_side_by_side_make_every_part_once() {
        let dir = tempfile::tempdir().unwrap();
        let made: Mutex<BTreeMap<u32, usize>> = Mutex::default();
        std::thread::scope(|scope| {
            for at in (0..3).chain(0..3) {
                let (dir, made) = (dir.path(), &made);
                scope.spawn(move || {
                    let shard = Shard::new(at, 3).unwrap();
                    let count = &mut |index| *made.lock().unwrap().entry(index).or_default() += 1;
                    make(dir, "a", 10, shard, count);
                    for index in (0..10).filter(|index| shard.has(*index)) {
                        let path = dir.join(format!("part-{index:05}.parquet"));
                        Part::open(&path, Kind::SequenceMetrics).unwrap();
                    }
                });
            }
        });
        assert_eq!(
            Artifact::open(dir.path(), Kind::SequenceMetrics)
                .unwrap()
                .parts()
                .len(),
            10
        );
        assert_eq!(
            made.into_inner().unwrap(),
            (0..10).map(|index| (index, 1)).collect()
        );
        assert!(hidden(dir.path()).is_empty());
    }

    /// Another result with more parts is replaced part by part, whichever shard comes last.
    #[test]
    fn shards_replace_another_result() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "old", 7, Shard::ALL, &mut |_| ());
        let shard = |at| Shard::new(at, 2).unwrap();
        make(dir.path(), "new", 4, shard(1), &mut |_| ());
        let error = Artifact::open(dir.path(), Kind::SequenceMetrics).unwrap_err();
        assert!(error.to_string().contains("another result"), "{error}");
        make(dir.path(), "new", 4, shard(0), &mut |_| ());
        let new = Artifact::open(dir.path(), Kind::SequenceMetrics).unwrap();
        assert_eq!((new.parts().len(), new.rows()), (4, 8));
        // As it is when all parts are made by one process.
        let whole = tempfile::tempdir().unwrap();
        make(whole.path(), "new", 4, Shard::ALL, &mut |_| ());
        for part in new.parts() {
            let name = part.path().file_name().unwrap();
            let bytes = |dir: &Path| fs::read(dir.join(name)).unwrap();
            assert_eq!(bytes(dir.path()), bytes(whole.path()));
        }
    }

    /// What a process leaves behind that was killed while it made a part.
    #[test]
    fn a_part_of_a_dead_process_is_made_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path(), "a", Shard::ALL);
        let lease = dir.path().join(".part-00001.lease");
        let Taken::Ours(held) = Lease::take(&lease, &mut Watch::default()).unwrap() else {
            panic!("nobody else is there");
        };
        let text = fs::read(&lease).unwrap();
        drop(held);
        fs::write(&lease, &text).unwrap();
        let mut todo = Todo::new(infos(3), &[&writer]).unwrap();
        let taken = todo.next(8).unwrap();
        let indices: Vec<u32> = taken.iter().map(|ours| ours.info.index).collect();
        assert_eq!(indices, [0, 1, 2]);
        drop(taken);
        assert!(hidden(dir.path()).is_empty());

        // Of one that was killed after it had made the part.
        make(dir.path(), "a", 3, Shard::ALL, &mut |_| ());
        fs::write(&lease, text).unwrap();
        sweep(dir.path());
        assert!(hidden(dir.path()).is_empty());
    }

    /// Processes that think each other dead, with figures that differ in the last bit, as on other
    /// hardware: some part stays, whole and with its seal.
    #[test]
    fn a_part_that_several_write_at_once_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for turn in 0..20 {
            let info = PartInfo {
                index: turn,
                ..PartInfo::ONLY
            };
            std::thread::scope(|scope| {
                for nll in [1.0, 2.0, 3.0] {
                    let dir = dir.path();
                    let shard = Shard::new(0, 2).unwrap();
                    scope.spawn(move || write(&writer(dir, "a", shard), info, nll));
                }
            });
            let path = dir.path().join(format!("part-{turn:05}.parquet"));
            let part = Part::open(&path, Kind::SequenceMetrics).unwrap();
            let claim = part.claim().unwrap().unwrap();
            assert!(crate::files::verify(&[claim]).unwrap().is_empty());
        }
        assert!(hidden(dir.path()).is_empty());
    }
}
