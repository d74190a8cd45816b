//! Which sample of the corpus each sample of a file is.
//!
//! Samples are known by their tokens, not by their order: capturing programs shuffle, and write
//! what is ready first. A file may lack the BOS that a sample begins with, and may have one end
//! token (EOS, padding, the end of a turn) more or less: DistillKit's program appends a padding
//! token, FuseLLM's leaves out BOS and appends EOS. Samples of the same tokens are taken in their
//! order. Every sample of the corpus must be there, and no other.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;

use super::found::{Found, FoundRow, Samples};
use super::spool::{Kept, Spool};
use crate::artifact::Artifact;
use crate::artifact::tokens::{SampleTokens, read_part};
use crate::error::{Error, Result};
use crate::progress::check_interrupt;
use crate::units::TokenId;
use crate::vocab::{Role, Vocabulary};

/// A sample of the file that is one of the corpus.
#[derive(Debug)]
pub(super) struct Arrival {
    /// File and row, for messages.
    pub(super) place: String,
    pub(super) rows: Vec<FoundRow>,
    /// Mean negative log-likelihood of its tokens, where it is stored instead of theirs.
    pub(super) ce: Option<f64>,
    /// How many tokens the file lacks at the beginning: none, or BOS.
    pub(super) shift: usize,
    pub(super) end: End,
}

/// What the file has at the end of a sample, beside the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Same,
    /// One end token more.
    More,
    /// One end token less.
    Less,
}

/// The tokens of a sample: what is between those that may come or go at its ends, and these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    /// Digest of what is between.
    core: [u8; 16],
    /// Beginning tokens (BOS).
    begins: usize,
    /// End tokens.
    ends: Vec<TokenId>,
}

/// Tokens that may come or go.
struct Ends {
    first: Option<TokenId>,
    last: Vec<TokenId>,
}

impl Ends {
    fn of(vocabulary: &Vocabulary) -> Self {
        let id = |role| vocabulary.id_with_role(role);
        let last = [Role::Eos, Role::Pad, Role::TurnEnd];
        Self {
            first: id(Role::Bos).or_else(|| id(Role::Eos)),
            last: last.into_iter().filter_map(id).collect(),
        }
    }

    fn shape(&self, ids: &[TokenId]) -> Shape {
        let begins = ids.iter().take_while(|id| Some(**id) == self.first).count();
        let rest = &ids[begins..];
        let ends = rest.iter().rev().take_while(|id| self.last.contains(id));
        let (core, ends) = rest.split_at(rest.len() - ends.count());
        let bytes: &[u8] = bytemuck::cast_slice(core);
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Shape {
            core: hash,
            begins,
            ends: ends.to_vec(),
        }
    }

    /// What a sample of the corpus may be for a file to have `theirs`, and how they differ.
    fn fits(&self, theirs: &Shape) -> Vec<(Shape, usize, End)> {
        let mut fits = Vec::new();
        for shift in [0, 1] {
            let mut add = |ends: Vec<TokenId>, end: End| {
                let shape = Shape {
                    core: theirs.core,
                    begins: theirs.begins + shift,
                    ends,
                };
                fits.push((shape, shift, end));
            };
            add(theirs.ends.clone(), End::Same);
            if let Some((_, rest)) = theirs.ends.split_last() {
                add(rest.to_vec(), End::More);
            }
            for id in &self.last {
                add([theirs.ends.as_slice(), &[*id]].concat(), End::Less);
            }
        }
        fits
    }
}

/// The samples of a file, asked for in the order of the corpus.
///
/// # Memory
/// About 150 bytes for each sample of the corpus, and 200 for each that came before its turn; its
/// rows are on disk.
pub(super) struct Lookup<'a> {
    from: PathBuf,
    tokens: &'a Artifact,
    vocabulary: &'a Vocabulary,
    ends: Ends,
    /// The samples that have not been found, in their order, by their tokens.
    missing: HashMap<Shape, VecDeque<usize>>,
    /// Which samples have been found.
    found: Vec<bool>,
    /// Which samples will be asked for.
    wanted: Vec<bool>,
    file: Samples,
    /// Samples read from the file.
    read: u64,
    spool: Spool,
    waiting: HashMap<usize, (Arrival, Kept)>,
}

impl<'a> Lookup<'a> {
    /// Reads the tokens of the corpus; `spool` is for what comes before its turn.
    pub(super) fn new(
        from: PathBuf,
        tokens: &'a Artifact,
        vocabulary: &'a Vocabulary,
        file: Samples,
        spool: Spool,
    ) -> Result<Self> {
        let ends = Ends::of(vocabulary);
        let mut missing: HashMap<Shape, VecDeque<usize>> = HashMap::new();
        let mut count = 0;
        for part in tokens.parts() {
            check_interrupt()?;
            for sample in read_part(part)? {
                let same = missing.entry(ends.shape(&sample.ids)).or_default();
                same.push_back(count);
                count += 1;
            }
        }
        Ok(Self {
            from,
            tokens,
            vocabulary,
            ends,
            missing,
            found: vec![false; count],
            wanted: vec![true; count],
            file,
            read: 0,
            spool,
            waiting: HashMap::new(),
        })
    }

    /// Leaves out samples that nobody will ask for.
    pub(super) fn leave_out(&mut self, samples: Range<usize>) {
        self.wanted[samples].fill(false);
    }

    /// Whether any sample came before its turn.
    pub(super) fn reordered(&self) -> bool {
        self.spool.is_used()
    }

    /// Number `sample` of the corpus.
    pub(super) fn take(&mut self, sample: usize, tokens: &SampleTokens) -> Result<Arrival> {
        if let Some((arrival, kept)) = self.waiting.remove(&sample) {
            let rows = self.spool.get(kept)?;
            return Ok(Arrival { rows, ..arrival });
        }
        while let Some((place, arrival)) = self.next()? {
            if place == sample {
                return Ok(arrival);
            }
            self.keep(place, arrival)?;
        }
        Err(Error::file(
            &self.from,
            format!(
                "has {} samples, `{}` has {}: none has the tokens of sample {}",
                self.read,
                self.tokens.dir().display(),
                self.tokens.samples(),
                tokens.sample_id
            ),
        )
        .remedy("import what was made from the same corpus"))
    }

    /// Keeps a sample until its turn comes.
    fn keep(&mut self, place: usize, arrival: Arrival) -> Result<()> {
        if self.wanted[place] {
            let kept = self.spool.put(&arrival.rows)?;
            let arrival = Arrival {
                rows: Vec::new(),
                ..arrival
            };
            self.waiting.insert(place, (arrival, kept));
        }
        Ok(())
    }

    /// Reads the file to its end.
    ///
    /// # Errors
    /// A sample that is left.
    pub(super) fn finish(&mut self) -> Result<()> {
        while let Some((place, arrival)) = self.next()? {
            self.keep(place, arrival)?;
        }
        Ok(())
    }

    /// The next sample of the file, and which one of the corpus it is.
    fn next(&mut self) -> Result<Option<(usize, Arrival)>> {
        loop {
            check_interrupt()?;
            let Some(found) = self.file.next().transpose()? else {
                return Ok(None);
            };
            self.read += 1;
            match self.find(&found.ids) {
                Ok((sample, shift, end)) => {
                    let arrival = Arrival {
                        place: found.place,
                        rows: found.rows,
                        ce: found.ce,
                        shift,
                        end,
                    };
                    return Ok(Some((sample, arrival)));
                }
                // The same prompt once more.
                Err(before) if before && found.repeated => self.read -= 1,
                Err(before) => return Err(self.superfluous(&found, before)?),
            }
        }
    }

    /// Takes the first sample of these tokens that has not been found: one of the same end, else
    /// one that differs as it may. Otherwise says whether there was one before.
    fn find(&mut self, ids: &[TokenId]) -> std::result::Result<(usize, usize, End), bool> {
        let mut best: Option<((bool, usize), Shape, usize, End)> = None;
        let mut before = false;
        for (shape, shift, end) in self.ends.fits(&self.ends.shape(ids)) {
            let Some(samples) = self.missing.get(&shape) else {
                continue;
            };
            let Some(sample) = samples.front() else {
                before = true;
                continue;
            };
            let rank = (end != End::Same, *sample);
            if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, shape, shift, end));
            }
        }
        let ((_, sample), shape, shift, end) = best.ok_or(before)?;
        if let Some(samples) = self.missing.get_mut(&shape) {
            samples.pop_front();
        }
        self.found[sample] = true;
        Ok((sample, shift, end))
    }

    /// The error for a sample of the file that is none of the corpus, or one that was there
    /// `before`.
    fn superfluous(&self, found: &Found, before: bool) -> Result<Error> {
        let problem = match before {
            true => "its tokens are those of a sample that the file has before, more often than the corpus has it".to_owned(),
            false => match self.nearest(&found.ids)? {
                Some(differs) => format!("its tokens are those of no sample; the nearest is {differs}"),
                None => format!("is more than the {} samples of the corpus", self.found.len()),
            },
        };
        let error = Error::input(&found.place, problem);
        Ok(error.remedy("it was made with another tokenizer, chat template or corpus"))
    }

    /// The sample with the most tokens in common among those that have not been found, and the
    /// first difference.
    fn nearest(&self, ids: &[TokenId]) -> Result<Option<String>> {
        let mut best: Option<(usize, String)> = None;
        let mut missing = self.found.iter();
        for part in self.tokens.parts() {
            for sample in read_part(part)? {
                if missing.next() != Some(&false) {
                    continue;
                }
                let without = sample.ids.first() != ids.first();
                let shift = usize::from(without && sample.ids.first().copied() == self.ends.first);
                let ours = &sample.ids[shift..];
                let same = ours.iter().zip(ids).take_while(|(a, b)| a == b).count();
                if best.as_ref().is_none_or(|(most, _)| *most < same) {
                    let differs = format!(
                        "sample {}: token {same} is {}, expected {}",
                        sample.sample_id,
                        self.show(ids.get(same)),
                        self.show(ours.get(same)),
                    );
                    best = Some((same, differs));
                }
            }
        }
        Ok(best.map(|(_, differs)| differs))
    }

    fn show(&self, id: Option<&TokenId>) -> String {
        match id {
            None => "nothing more".to_owned(),
            Some(id) => match self.vocabulary.token(*id) {
                Some(token) => format!("{id} (`{}`)", token.display),
                None => format!("{id}, which the vocabulary lacks"),
            },
        }
    }
}
