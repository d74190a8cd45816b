//! What is noticed about records that are read all the same: fields that nothing reads, and roles
//! that only a template may know.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::SerializeStruct;

use super::formats::Format;
use crate::units::Count;

/// Different fields that are told apart; keys made at random must not fill the memory.
const MOST_FIELDS: usize = 1000;

/// Fields of which each has a line of its own for people.
const MOST_LINES: usize = 30;

/// What to do about a field that is not read, where that is an error.
pub const UNREAD_REMEDY: &str = "name it in `corpus.fields` (there, `ignore` lists what need not be read), or leave out `strict`";

/// Whose field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A record.
    Record,
    /// A message.
    Message,
}

/// What is noticed about one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Fields that are not read, each with the number of records or messages that have it.
    unread: Vec<(Owner, String, u64)>,
    /// Roles that are no known ones, each with the number of messages.
    roles: Vec<(String, u64)>,
}

impl Notes {
    pub(super) fn unread(&mut self, owner: Owner, field: String) {
        let mut known = self.unread.iter_mut();
        match known.find(|known| (known.0, &known.1) == (owner, &field)) {
            Some((.., count)) => *count += 1,
            None => self.unread.push((owner, field, 1)),
        }
    }

    pub(super) fn role(&mut self, role: &str) {
        match self.roles.iter_mut().find(|(known, _)| known == role) {
            Some((_, count)) => *count += 1,
            None => self.roles.push((role.to_owned(), 1)),
        }
    }

    /// What is wrong with the record if nothing may be left unread; with the remedy.
    pub fn complaint(&self, format: Format) -> Option<(String, &'static str)> {
        let shape = format.name();
        if let Some((owner, field, _)) = self.unread.first() {
            let whose = match owner {
                Owner::Record => "a field",
                Owner::Message => "a message with",
            };
            let problem = format!("{whose} \"{field}\", which shape \"{shape}\" does not read");
            return Some((problem, UNREAD_REMEDY));
        }
        let (role, _) = self.roles.first()?;
        Some((
            format!("a message of the role `{role}`, which is no known one"),
            "expected `system`, `developer`, `user`, `assistant` or `tool`; or leave out `strict`",
        ))
    }
}

/// A field that is not read, with the number of records or messages that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Its name.
    pub field: String,
    /// Whose field it is.
    pub owner: Owner,
    /// The shape of the records.
    pub format: Format,
    /// How many have it, with a value that is not empty.
    pub count: u64,
}

/// What was noticed about many records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    unread: BTreeMap<(Owner, String, Format), u64>,
    /// Messages that have more fields than are told apart.
    others: u64,
    roles: BTreeMap<String, u64>,
}

impl Serialize for Tally {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Tally", 2)?;
        fields.serialize_field("unread", &self.unread())?;
        fields.serialize_field("roles", &self.roles)?;
        fields.end()
    }
}

impl Tally {
    /// Adds what is noticed about a record.
    pub fn add(&mut self, format: Format, notes: Notes) {
        for (owner, field, count) in notes.unread {
            self.count(owner, field, format, count);
        }
        for (role, count) in notes.roles {
            if self.roles.len() < MOST_FIELDS || self.roles.contains_key(&role) {
                *self.roles.entry(role).or_default() += count;
            }
        }
    }

    /// Adds a field that so many records or messages have.
    pub fn count(&mut self, owner: Owner, field: String, format: Format, count: u64) {
        let key = (owner, field, format);
        if self.unread.len() < MOST_FIELDS || self.unread.contains_key(&key) {
            *self.unread.entry(key).or_default() += count;
        } else {
            self.others += count;
        }
    }

    /// The fields that were not read; those that most have come first.
    pub fn unread(&self) -> Vec<Unread> {
        let fields = self
            .unread
            .iter()
            .map(|((owner, field, format), count)| Unread {
                field: field.clone(),
                owner: *owner,
                format: *format,
                count: *count,
            });
        let mut fields: Vec<Unread> = fields.collect();
        fields.sort_by_key(|field| std::cmp::Reverse(field.count));
        fields
    }

    /// The roles that are no known ones, with the number of their messages.
    pub fn roles(&self) -> &BTreeMap<String, u64> {
        &self.roles
    }

    /// What to say about it, a line each.
    pub fn lines(&self) -> Vec<String> {
        let unread = self.unread();
        let mut lines: Vec<String> = unread.iter().take(MOST_LINES).map(line).collect();
        if unread.len() > MOST_LINES {
            let more = unread.len() - MOST_LINES;
            let which = if self.others > 0 { "at least " } else { "" };
            lines.push(format!("{which}{more} more fields are not read"));
        }
        for (role, count) in self.roles.iter().take(MOST_LINES) {
            let (count, have) = (
                Count(*count),
                if *count == 1 {
                    "message has"
                } else {
                    "messages have"
                },
            );
            lines.push(format!(
                "{count} {have} the role `{role}`, which only a template can know"
            ));
        }
        lines
    }
}

fn line(field: &Unread) -> String {
    let (have, whose) = match (field.count, field.owner) {
        (1, Owner::Record) => ("has", "record"),
        (_, Owner::Record) => ("have", "records"),
        (1, Owner::Message) => ("has", "message"),
        (_, Owner::Message) => ("have", "messages"),
    };
    format!(
        "{} {whose} {have} \"{}\", which shape \"{}\" does not read",
        Count(field.count),
        field.field,
        field.format.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_and_random_ones_do_not_fill_the_memory() {
        let mut tally = Tally::default();
        for at in 0..15_011 {
            let mut notes = Notes::default();
            notes.unread(Owner::Record, "context".to_owned());
            notes.unread(Owner::Message, format!("key {at}"));
            notes.unread(Owner::Message, format!("key {at}"));
            notes.role("pope");
            tally.add(Format::Instruction, notes);
        }
        let lines = tally.lines();
        assert_eq!(
            lines[0],
            "15,011 records have \"context\", which shape \"instruction\" does not read"
        );
        assert!(lines[1].starts_with("2 messages have \"key "));
        assert_eq!(tally.unread().len(), MOST_FIELDS);
        assert!(
            lines[MOST_LINES].starts_with("at least 970 more"),
            "{}",
            lines[MOST_LINES]
        );
        assert_eq!(tally.roles()["pope"], 15_011);
    }
}
