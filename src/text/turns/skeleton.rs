//! What a template writes around the contents of all chats of the same roles.

use super::contents::forms;
use super::{Marks, Place, Places, Turn, Unplaced, assistants, frame};
use crate::text::chat::{Chat, Message};
use crate::text::template::ChatTemplate;

/// What a template writes around the contents of chats of the same roles.
#[derive(Debug)]
pub(in crate::text) struct Skeleton {
    /// What stands before each content, whose it is, and how the turn lies around it.
    before: Vec<(String, usize, Option<Around>)>,
    /// What stands after the last.
    after: String,
    unplaced: Vec<(usize, Unplaced)>,
}

/// How an assistant's turn lies around its content: bytes of the text before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Around {
    before: usize,
    after: usize,
}

impl Skeleton {
    /// The skeleton of a plain chat's roles; none if the template cannot be read by it.
    pub(in crate::text) fn new(chat: &Chat, template: &ChatTemplate) -> Option<Self> {
        let marks = Marks::DEFAULT;
        let messages = chat.messages.iter().enumerate();
        let marked = messages.map(|(at, message)| Message::new(&message.role, marks.of(at)));
        let chat = Chat {
            messages: marked.collect(),
            ..chat.clone()
        };
        let rendering = template.rendering(&chat);
        let text = rendering.all().ok()?;
        let mut before = Vec::new();
        let mut unplaced = Vec::new();
        let mut rest = text.as_str();
        let mut last = 0;
        while let Some((literal, message, after)) = marks.next(rest) {
            let at = text.len() - after.len() - marks.of(message).len();
            let mut around = None;
            if chat.messages.get(message)?.part() == "assistant" {
                match frame(&rendering, message, &text, &marks.of(message), false) {
                    Ok(frame) if frame.prompt.end < last => {
                        unplaced.push((message, Unplaced::Overlapping));
                    }
                    Ok(frame) => {
                        around = Some(Around {
                            before: at - frame.prompt.end,
                            after: frame.closer,
                        });
                    }
                    Err(reason) => unplaced.push((message, reason)),
                }
            }
            before.push((literal.to_owned(), message, around));
            last = text.len() - after.len();
            rest = after;
        }
        // Whoever does not appear is silent.
        for index in assistants(&chat) {
            if !before.iter().any(|(_, message, _)| *message == index) {
                unplaced.push((index, Unplaced::Absent));
            }
        }
        Some(Self {
            before,
            after: rest.to_owned(),
            unplaced,
        })
    }

    /// Matches a rendering; none if the contents changed what is around them, or could stand in
    /// more than one place.
    pub(super) fn places(&self, text: &str, chat: &Chat) -> Option<Places> {
        let mut places = Places {
            unplaced: self.unplaced.clone(),
            ..Places::default()
        };
        let mut at = 0;
        for (k, (literal, index, around)) in self.before.iter().enumerate() {
            at += text
                .get(at..)?
                .strip_prefix(literal.as_str())
                .map(|_| literal.len())?;
            let here = text.get(at..)?;
            let (next, is_last) = match self.before.get(k + 1) {
                Some((next, _, _)) => (next, false),
                None => (&self.after, true),
            };
            let content = chat.messages.get(*index)?.content();
            let mut fitting = forms(&content).into_iter().flatten().filter(|form| {
                here.strip_prefix(form).is_some_and(|after| match is_last {
                    true => after == next,
                    false => after.starts_with(next.as_str()),
                })
            });
            let form = fitting.next()?;
            if fitting.next().is_some() {
                return None;
            }
            let bytes = at..at + form.len();
            if let Some(around) = around {
                places.turns.push(Turn {
                    message: *index,
                    bytes: at - around.before..bytes.end + around.after,
                });
            }
            at = bytes.end;
            places.contents.push(Place {
                message: *index,
                bytes,
                thought: false,
            });
        }
        (text.get(at..)? == self.after).then_some(places)
    }
}
