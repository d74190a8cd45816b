//! The one error type of the library.
//!
//! Variants are told apart by *who can fix it*, because that is what the exit code says:
//! the caller ([`Error::Usage`], exit code 2), the owner of a file ([`Error::Input`],
//! [`Error::Io`]), nobody, as it was right when it was written ([`Error::Damaged`], exit code 3),
//! or us ([`Error::Compute`], where a library says why, and [`Error::Internal`]). Messages are lower-case, have names in backticks, say what was
//! expected and found, and end with the remedy where there is one.

use std::fmt;
use std::path::{Path, PathBuf};

/// `std::result::Result` with [`Error`] as its default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wrong argument, recipe or merge configuration.
    #[error("{message}{}", Remedy(remedy))]
    Usage {
        /// What was expected and found.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// A file that was read, and is not what it should be.
    #[error("{subject}: {problem}{}", Remedy(remedy))]
    Input {
        /// The file, with the field, line, tensor or sample in it.
        subject: String,
        /// What was expected and found.
        problem: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// A file that is no longer what was written.
    #[error("{subject}: {problem}{}", Remedy(remedy))]
    Damaged {
        /// The file, with the place in it.
        subject: String,
        /// What was expected and found.
        problem: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// A file that could not be read or written.
    #[error("{}: {source}{}", path.display(), io_remedy(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// A library below us failed while we did `during`.
    #[error("{during}: {source}")]
    Compute {
        /// What we were doing.
        during: String,
        /// Its word.
        source: Source,
    },
    /// Something that cannot happen has happened: a fault of this program.
    #[error(
        "{0}; this is a fault of fuselm itself: please report it, with the command that shows it"
    )]
    Internal(String),
    /// The user interrupted; everything complete so far is kept.
    #[error("interrupted; what is complete is kept, the same command continues from there")]
    Interrupted,
}

struct Remedy<'a>(&'a Option<String>);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

fn io_remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            "; free some space and run the same command again, what is complete is kept"
        }
        std::io::ErrorKind::FileTooLarge => {
            "; raise the limit for files (`ulimit -f unlimited`) and run the same command again, what is complete is kept"
        }
        std::io::ErrorKind::QuotaExceeded => {
            "; your quota is used up: free some space and run the same command again, what is complete is kept"
        }
        _ if is_too_many_files(source) => "; raise the limit for open files (`ulimit -n 4096`)",
        _ => "",
    }
}

/// The error of the system in what a library says, as `(os error 24)`; libraries wrap it in texts.
pub(crate) fn system_error(said: &str) -> Option<std::io::Error> {
    let (_, rest) = said.rsplit_once("(os error ")?;
    let (number, _) = rest.split_once(')')?;
    number.parse().ok().map(std::io::Error::from_raw_os_error)
}

/// Whether the process, or the system, has as many files open as it may.
fn is_too_many_files(error: &std::io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

impl Error {
    /// A wrong argument, recipe or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            remedy: None,
        }
    }

    /// A file (and the place in it) that is not what it should be.
    pub fn input(subject: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::Input {
            subject: subject.to_string(),
            problem: problem.into(),
            remedy: None,
        }
    }

    /// [`Error::input`] with a path as the subject.
    pub fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::input(path.display(), problem)
    }

    /// A file that is no longer what was written.
    pub fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::damaged_at(path.display(), problem)
    }

    /// [`Error::damaged`] with a place in the file.
    pub fn damaged_at(subject: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::Damaged {
            subject: subject.to_string(),
            problem: problem.into(),
            remedy: None,
        }
    }

    /// A file that could not be read or written.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    /// Whether the system did not let us look, for a reason of its own, at a file that is there: which
    /// says nothing about the file.
    pub fn is_of_the_system(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if source.raw_os_error().is_some() && source.kind() != std::io::ErrorKind::NotFound)
    }

    /// The error for a file that a library could not read: damaged, as `damaged` says, unless it was
    /// the system that did not let it, which says nothing about the file.
    pub fn unread(path: &Path, said: &impl fmt::Display, damaged: impl FnOnce() -> Self) -> Self {
        match system_error(&said.to_string()) {
            Some(error) => Self::io(path, error),
            None => damaged(),
        }
    }

    /// A fault of this program.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal(what.into())
    }

    /// Names what the error is found in (a recipe, a variant, a model) before its own place; has no
    /// effect on errors that name a file of the operating system's.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        match &mut self {
            Self::Usage { message, .. } => *message = format!("{place}: {message}"),
            Self::Input { subject, .. } | Self::Damaged { subject, .. } => {
                *subject = format!("{place}, {subject}");
            }
            _ => {}
        }
        self
    }

    /// Adds what to do about it; has no effect on errors whose remedy is implied.
    #[must_use]
    pub fn remedy(mut self, what: impl Into<String>) -> Self {
        if let Self::Usage { remedy, .. }
        | Self::Input { remedy, .. }
        | Self::Damaged { remedy, .. } = &mut self
        {
            *remedy = Some(what.into());
        }
        self
    }

    /// The program's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Damaged { .. } => 3,
            Self::Interrupted => 130,
            Self::Input { .. } | Self::Io { .. } | Self::Compute { .. } | Self::Internal(_) => 1,
        }
    }
}

/// Turns foreign errors into [`Error`] where they occur, with the place added.
pub trait Context<T> {
    /// Names the file that the failed operation was about.
    fn at(self, path: &Path) -> Result<T>
    where
        Self: Sized;

    /// Names what was being done.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized;
}

impl<T, E: Into<Source>> Context<T> for std::result::Result<T, E> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|error| match error.into().downcast::<std::io::Error>() {
            Ok(source) => Error::io(path, *source),
            Err(source) => Error::file(path, source.to_string()),
        })
    }

    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| match error.into().downcast::<Error>() {
            Ok(ours) => *ours,
            Err(source) => Error::Compute {
                during: what(),
                source,
            },
        })
    }
}

/// The candidate nearest to a misspelt `word`, as a remedy, if one is near enough.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_place_and_remedy() {
        let error = Error::input("a.jsonl line 3", "expected an object, found `[`")
            .remedy("write one JSON object on each line");
        assert_eq!(
            error.to_string(),
            "a.jsonl line 3: expected an object, found `[`; write one JSON object on each line"
        );
        assert_eq!(error.exit_code(), 1);
        assert_eq!(Error::usage("x").exit_code(), 2);
        let damaged = Error::damaged(Path::new("a"), "b").remedy("c");
        assert_eq!(
            (damaged.to_string().as_str(), damaged.exit_code()),
            ("a: b; c", 3)
        );
    }

    #[test]
    fn places_come_before_those_of_the_error() {
        let error = Error::usage("no key `x`").remedy("leave it out");
        let error = error.within("r.yml").within("variant `a`");
        let said = "variant `a`: r.yml: no key `x`; leave it out";
        assert_eq!((error.to_string().as_str(), error.exit_code()), (said, 2));
        let error = Error::damaged(Path::new("w"), "too short").within("model `m`");
        assert_eq!(error.to_string(), "model `m`, w: too short");
        assert_eq!(error.exit_code(), 3);
        let fault = Error::internal("no row");
        assert_eq!(fault.exit_code(), 1);
        assert!(fault.to_string().contains("please report"));
    }

    #[test]
    fn io_errors_keep_their_kind_and_gain_a_path() {
        let missing: std::result::Result<(), _> =
            Err(std::io::Error::from(std::io::ErrorKind::NotFound));
        let error = missing.at(Path::new("models/x")).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("models/x")));
        assert!(error.to_string().starts_with("models/x: "));
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        assert_eq!(
            did_you_mean("epochss", ["epochs", "lr"]).as_deref(),
            Some("did you mean `epochs`?")
        );
        assert_eq!(did_you_mean("zzz", ["epochs", "lr"]), None);
    }
}
