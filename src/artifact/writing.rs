//! How an artifact is written: which parts a process makes, and what becomes of those of another result.

use std::env;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// One of `of` shares of the parts of an artifact: parts `index`, `index + of`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// All parts.
    pub const ALL: Shard = Shard { index: 0, of: 1 };

    /// Share `index` of `of`, from 0.
    ///
    /// # Errors
    /// There is no such share.
    pub fn new(index: u32, of: u32) -> Result<Self> {
        match index < of {
            true => Ok(Self { index, of }),
            false => Err(Error::usage(format!(
                "shard {index}/{of}: expected I/N with I from 0 to N - 1"
            ))),
        }
    }

    /// The share of a task of a Slurm job array, by the variables that Slurm sets for it.
    ///
    /// # Errors
    /// This is no such task, or its array leaves out numbers (`--array=1,5`).
    pub fn of_slurm_task() -> Result<Self> {
        Self::of_task(&|name| env::var(format!("SLURM_ARRAY_TASK_{name}")).ok())
    }

    fn of_task(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| {
            let text = variable(name).ok_or_else(|| {
                Error::usage(format!("`SLURM_ARRAY_TASK_{name}` is not set"))
                    .remedy("this is no task of a Slurm job array; name the shard as I/N")
            })?;
            text.parse::<u32>().map_err(|_| {
                Error::usage(format!(
                    "`SLURM_ARRAY_TASK_{name}` is `{text}`, expected a number"
                ))
            })
        };
        let (id, count) = (number("ID")?, number("COUNT")?);
        let (first, last) = (number("MIN")?, number("MAX")?);
        // `--array=0-7:2` has the tasks 0, 2, 4 and 6.
        let step = variable("STEP").and_then(|text| text.parse().ok());
        let step: u32 = step.unwrap_or(1).max(1);
        let at = id.checked_sub(first);
        let tasks = last.checked_sub(first).map(|between| between / step + 1);
        match at {
            Some(at) if at % step == 0 && tasks == Some(count) => Self::new(at / step, count),
            _ => Err(Error::usage(format!(
                "task {id} of an array of {count} tasks from {first} to {last}: it leaves out numbers"
            ))
            .remedy("use an array like `--array=0-7`, or name the shard as I/N")),
        }
    }

    /// Whether it is all parts.
    pub fn is_all(self) -> bool {
        self.of == 1
    }

    /// Whether part `index` belongs to it.
    pub fn has(self, index: u32) -> bool {
        index % self.of == self.index
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// Reads `I/N`; `slurm` is the task of a job array.
    fn from_str(text: &str) -> Result<Self> {
        if text == "slurm" {
            return Self::of_slurm_task();
        }
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, of) = numbers.ok_or_else(|| {
            Error::usage(format!(
                "shard `{text}`: expected I/N, as in `0/4`, or `slurm`"
            ))
        })?;
        Self::new(index, of)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::ALL
    }
}

/// What to do with parts of another identity that are already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail and say how to replace them: for single commands.
    Refuse,
    /// Remove them, saying what differs: for `--force`, and for a run's own stages.
    Replace,
}

/// How an artifact is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    /// What becomes of parts of another result.
    pub existing: Existing,
    /// Which parts are made.
    pub shard: Shard,
}

impl From<Existing> for Writing {
    /// All parts.
    fn from(existing: Existing) -> Self {
        Self {
            existing,
            shard: Shard::ALL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_and_have_their_parts() {
        let shard: Shard = "1/3".parse().unwrap();
        let parts: Vec<u32> = (0..9).filter(|index| shard.has(*index)).collect();
        assert_eq!(parts, [1, 4, 7]);
        assert!(!shard.is_all());
        assert_eq!("0/1".parse::<Shard>().unwrap(), Shard::ALL);
        for wrong in ["3/3", "0/0", "1", "a/2", "-1/2", "1/2/3", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tasks_of_an_array_are_shards() {
        let shard = |values: [&str; 5]| {
            let names = ["ID", "COUNT", "MIN", "MAX", "STEP"];
            Shard::of_task(&|name| {
                let at = names.iter().position(|known| *known == name)?;
                (!values[at].is_empty()).then(|| values[at].to_owned())
            })
        };
        assert_eq!(shard(["0", "4", "0", "3", "1"]).unwrap().to_string(), "0/4");
        assert_eq!(shard(["8", "4", "5", "8", "1"]).unwrap().to_string(), "3/4");
        assert_eq!(shard(["6", "4", "0", "6", "2"]).unwrap().to_string(), "3/4");
        assert_eq!(shard(["6", "4", "0", "7", "2"]).unwrap().to_string(), "3/4");
        // Tasks 1 and 5 only.
        assert!(shard(["5", "2", "1", "5", "1"]).is_err());
        let error = shard(["", "", "", "", ""]).unwrap_err();
        assert!(error.to_string().contains("no task"), "{error}");
    }
}
