//! Where each message stands in a rendering, and how far the assistant's turns reach.
//!
//! Nothing of a template is known beforehand: it may trim a message, move it, wrap it or drop a
//! part of it. So places are derived from what the template does, not searched for in its text:
//!
//! * where it marks the assistant's turns itself (`{% generation %}`), these are the turns;
//! * else a chat of the same roles is rendered once with a mark in place of every content, and what
//!   stands between the marks is matched against the rendering of each sample;
//! * else (contents that the template looks into, reasoning, tool calls) each turn is rendered with
//!   two marks in place of its own content: what stays the same is the template's.
//!
//! What the assistant writes begins where the rendering of the messages before it, with
//! `add_generation_prompt`, ends, and ends with the last special token of what closes the turn. A
//! turn that contradicts this anywhere is not placed, and says why.

mod contents;
mod frame;
mod marks;
mod one_by_one;
mod skeleton;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use super::chat::Chat;
use super::template::ChatTemplate;
pub(super) use contents::REASONING;
pub(super) use frame::{Frame, common_prefix, frame};
pub(super) use marks::Marks;
use one_by_one::one_by_one;
pub(super) use skeleton::Skeleton;

/// Why an assistant's turn is not supervised although it is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unplaced {
    /// The template refuses the chat with another text in the turn's place.
    Refused,
    /// What is around the turn depends on what the turn says.
    Entangled,
    /// What the turn says is not where the template puts contents.
    Absent,
    /// No prompt of the template's stands before it.
    Unprompted,
    /// It overlaps another turn.
    Overlapping,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the template refuses another text in their place",
            Self::Entangled => "the text around them depends on what they say",
            Self::Absent => "the template leaves out or changes what they say",
            Self::Unprompted => "no generation prompt stands before them",
            Self::Overlapping => "the template mixes them with another turn",
        })
    }
}

/// What a message says, or thinks, in a rendering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) message: usize,
    pub(super) bytes: Range<usize>,
    pub(super) thought: bool,
}

/// An assistant's turn in a rendering: from the end of its prompt to the end of what closes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) message: usize,
    pub(super) bytes: Range<usize>,
}

/// Where everything is in a rendering.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// In the order of the text, without overlaps.
    pub(super) contents: Vec<Place>,
    /// In the order of the text, without overlaps.
    pub(super) turns: Vec<Turn>,
    pub(super) unplaced: Vec<(usize, Unplaced)>,
}

/// Finds the messages of `chat` in its rendering `text`.
pub(super) fn places(text: &str, chat: &Chat, template: &ChatTemplate) -> Places {
    let by_skeleton = template
        .skeleton(chat)
        .and_then(|skeleton| skeleton.places(text, chat));
    let mut found = by_skeleton.unwrap_or_else(|| one_by_one(text, chat, template));
    if let Some(marked) = template.generated(chat, text) {
        found = by_marks(found, marked, chat);
    }
    found
}

/// The template's own marks decide how far turns reach; what was derived, whose they are.
fn by_marks(derived: Places, marked: Vec<Range<usize>>, chat: &Chat) -> Places {
    let answers: Vec<usize> = assistants(chat).collect();
    let one_each = answers.len() == marked.len();
    // Where all are learnt alike, it does not matter whose a turn is.
    let mut learned = answers.iter().map(|index| chat.messages[*index].learned);
    let alike = learned
        .next()
        .is_none_or(|first| learned.all(|other| other == first));
    let owner = |at: usize, bytes: &Range<usize>| {
        let shares = |turn: &&Turn| turn.bytes.start < bytes.end && bytes.start < turn.bytes.end;
        let derived = derived.turns.iter().find(shares).map(|turn| turn.message);
        let by_order = answers.get(at).copied().filter(|_| one_each);
        derived
            .or(by_order)
            .or(answers.first().copied().filter(|_| alike))
    };
    let filled = marked
        .into_iter()
        .enumerate()
        .filter(|(_, bytes)| !bytes.is_empty());
    let turns: Vec<Turn> = filled
        .filter_map(|(at, bytes)| {
            Some(Turn {
                message: owner(at, &bytes)?,
                bytes,
            })
        })
        .collect();
    let of_none = derived
        .unplaced
        .into_iter()
        .filter(|(index, _)| !turns.iter().any(|turn| turn.message == *index));
    Places {
        unplaced: of_none.collect(),
        contents: derived.contents,
        turns,
    }
}

fn assistants(chat: &Chat) -> impl Iterator<Item = usize> + '_ {
    let messages = chat.messages.iter().enumerate();
    messages
        .filter(|(_, message)| message.part() == "assistant")
        .map(|(index, _)| index)
}
