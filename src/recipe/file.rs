//! A recipe's file: its sections, and all mistakes in it with their lines.

use std::cell::RefCell;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result, did_you_mean};
use crate::files::{Lines, read_located};

/// Mistakes of one section that are looked for; what is wrong after so many is another file.
const MOST: usize = 20;

/// A recipe while it is read. Mistakes are collected, so that all of them are said at once.
pub(super) struct File<'a> {
    path: &'a Path,
    lines: Lines,
    /// Keys that are set elsewhere, and where.
    set: Vec<(String, String)>,
    mistakes: RefCell<Vec<Error>>,
}

impl<'a> File<'a> {
    /// Reads the text of the file `path`.
    ///
    /// # Errors
    /// Broken YAML, or no keys and values.
    pub fn read(path: &'a Path, text: &str) -> Result<(Self, Map<String, Value>)> {
        let (value, lines) = read_located(text).map_err(|error| error.within(path.display()))?;
        let Value::Object(map) = value else {
            let problem = format!("{}: expected keys and values", path.display());
            return Err(Error::usage(problem));
        };
        let file = Self {
            path,
            lines,
            set: Vec::new(),
            mistakes: RefCell::default(),
        };
        Ok((file, map))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Notes that a key is set elsewhere: at `place`, for people.
    pub fn sets(&mut self, key: &str, place: String) {
        self.set.push((key.to_owned(), place));
    }

    /// Forgets what is set elsewhere, but for the first `keep` keys.
    pub fn forget_sets(&mut self, keep: usize) {
        self.set.truncate(keep);
    }

    /// Where the value with this path is, for people.
    pub fn place(&self, key: &str) -> String {
        let set = self.set.iter().rev().find(|(set, _)| is_within(key, set));
        match (set, self.lines.of(key)) {
            (Some((_, place)), _) => place.clone(),
            (None, Some(line)) => format!("{} line {line}", self.path.display()),
            (None, None) => self.path.display().to_string(),
        }
    }

    /// Notes a mistake.
    pub fn mistake(&self, error: Error) {
        self.mistakes.borrow_mut().push(error);
    }

    /// Notes the mistake that `checked` says, at the first key that it names.
    pub fn check(&self, checked: Result<()>) {
        if let Err(error) = checked {
            let text = error.to_string();
            let named = text.split('`').skip(1).step_by(2);
            let known = |word: &&str| self.lines.of(word).is_some() && word.contains('.');
            let place = named.filter(known).map(|word| self.place(word)).next();
            let place = place.unwrap_or_else(|| self.path.display().to_string());
            self.mistake(error.within(place));
        }
    }

    /// Fails if there were mistakes, with all of them.
    ///
    /// # Errors
    /// A single one as it is, several with a line for each.
    pub fn finish(&self) -> Result<()> {
        let mut mistakes = self.mistakes.take();
        match mistakes.len() {
            0 => Ok(()),
            1 => Err(mistakes.remove(0)),
            count => {
                let lines = mistakes.iter().map(|error| format!("\n  {error}"));
                let problem = format!("{} has {count} mistakes:", self.path.display());
                Err(Error::usage(problem + &lines.collect::<String>()))
            }
        }
    }

    /// A section of the recipe, if it is there; what is wrong with it is noted.
    pub fn section<T: DeserializeOwned>(
        &self,
        map: &mut Map<String, Value>,
        key: &str,
    ) -> Option<T> {
        let mut value = map.remove(key).filter(|value| !value.is_null())?;
        for _ in 0..MOST {
            match serde_path_to_error::deserialize(value.clone()) {
                Ok(section) => return Some(section),
                Err(error) => {
                    let path = error.path().to_string();
                    let (fault, mistake) =
                        self.explain(key, &path, &error.into_inner().to_string());
                    self.mistake(mistake);
                    // The rest of the section is read as if that was not there.
                    if !remove(&mut value, &fault) {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// A section that every recipe has.
    pub fn required<T: DeserializeOwned>(
        &self,
        map: &mut Map<String, Value>,
        key: &str,
    ) -> Option<T> {
        if map.get(key).is_none_or(Value::is_null) {
            let problem = format!("{}: `{key}` is missing", self.path.display());
            self.mistake(Error::usage(problem));
        }
        self.section(map, key)
    }

    /// Notes a key that is not known.
    pub fn unknown_key<'k>(
        &self,
        within: &str,
        key: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Error {
        let known: Vec<&str> = known.collect();
        let (whose, path) = match within {
            "" => (format!("unknown key `{key}`"), key.to_owned()),
            _ => (
                format!("`{within}` has no key `{key}`"),
                format!("{within}.{key}"),
            ),
        };
        let hint = did_you_mean(key, known.iter().copied())
            .unwrap_or_else(|| format!("known are `{}`", known.join("`, `")));
        Error::usage(format!("{}: {whose}", self.place(&path))).remedy(hint)
    }

    /// What serde says about the value at `path` of a section in words of ours, and which value of the
    /// section is at fault.
    fn explain(&self, section: &str, path: &str, problem: &str) -> (String, Error) {
        let whole = match path {
            "." | "" => section.to_owned(),
            path if path.starts_with('[') => format!("{section}{path}"),
            path => format!("{section}.{path}"),
        };
        let fault = path.trim_matches('.').to_owned();
        let quoted: Vec<&str> = problem.split('`').skip(1).step_by(2).collect();
        if problem.starts_with("unknown field") && !quoted.is_empty() {
            // The path ends with the key, or before it.
            let end = format!(".{}", quoted[0]);
            let within = whole.strip_suffix(&end).unwrap_or(&whole);
            let error = self.unknown_key(within, quoted[0], quoted[1..].iter().copied());
            let container = within.strip_prefix(section).unwrap_or_default();
            let fault = format!("{container}{end}");
            return (fault.trim_start_matches('.').to_owned(), error);
        }
        if problem.starts_with("unknown variant") && !quoted.is_empty() {
            let known = quoted[1..].join("`, `");
            let error = Error::usage(format!(
                "{}: `{whole}` has the unknown value `{}`, known are `{known}`",
                self.place(&whole),
                quoted[0]
            ));
            let hint = did_you_mean(quoted[0], quoted[1..].iter().copied());
            return (fault, with_hint(error, hint));
        }
        let place = self.place(&whole);
        let said = match problem.strip_prefix("missing field ") {
            Some(_) => {
                // Nothing that is there is at fault.
                let missing = quoted.first().copied().unwrap_or_default();
                let error = Error::usage(format!("{place}: `{whole}` lacks the key `{missing}`"));
                return (String::new(), error);
            }
            None => in_words(problem).unwrap_or_else(|| problem.to_owned()),
        };
        (fault, Error::usage(format!("{place}: `{whole}`: {said}")))
    }
}

/// Whether a path is another one, or leads into it.
fn is_within(path: &str, outer: &str) -> bool {
    let rest = path.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What serde expected and found, without the names of types.
fn in_words(problem: &str) -> Option<String> {
    let rest = problem
        .strip_prefix("invalid type: ")
        .or_else(|| problem.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let value = found
        .split_once(['`', '"'])
        .and_then(|(_, rest)| rest.rsplit_once(['`', '"']))
        .map(|(value, _)| format!("`{value}`"));
    let found = match (value, found) {
        (Some(value), _) => value,
        (None, "map") => "keys and values".to_owned(),
        (None, "sequence") => "a list".to_owned(),
        (None, "null" | "unit value") => "nothing".to_owned(),
        (None, other) => other.to_owned(),
    };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" | "a nonzero usize" | "a nonzero u64" => {
            "a whole number, not negative"
        }
        "i32" | "i64" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "text",
        "a sequence" => "a list",
        "a map" => "keys and values",
        other if other.starts_with("struct ") => "keys and values",
        other => other,
    };
    Some(format!("found {found}, expected {expected}"))
}

/// Removes the value at a path (`a.b[1].c`) from a section, if it is there; list entries stay.
fn remove(value: &mut Value, path: &str) -> bool {
    let mut words: Vec<&str> = path
        .split(['.', '['])
        .map(|word| word.trim_end_matches(']'))
        .filter(|word| !word.is_empty())
        .collect();
    let Some(last) = words.pop() else {
        return false;
    };
    let mut inner = value;
    for word in words {
        let next = match inner {
            Value::Object(map) => map.get_mut(word),
            Value::Array(list) => word.parse::<usize>().ok().and_then(|at| list.get_mut(at)),
            _ => None,
        };
        match next {
            Some(next) => inner = next,
            None => return false,
        }
    }
    inner
        .as_object_mut()
        .is_some_and(|map| map.remove(last).is_some())
}

fn with_hint(error: Error, hint: Option<String>) -> Error {
    match hint {
        Some(hint) => error.remedy(hint),
        None => error,
    }
}
