//! The canonical text of a sample, with the part that each byte plays.
//!
//! A template may trim a message, move it, wrap it or leave it out, so the places of the
//! contents are not assumed: the messages are rendered once more with a mark in place of each
//! content, and what stands between the marks is matched against the real rendering.

use super::formats::Message;
use super::template::{ChatTemplate, TURN_STARTS};
use crate::error::{Error, Result};

/// A half-open range of bytes of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// `system`, `user`, `assistant`, `tool`, `text`: content; `template`: what the chat template
    /// adds; `turn_end`: the token that closes a supervised assistant's turn.
    pub role: String,
    /// The first byte.
    pub byte_start: u32,
    /// The byte after the last.
    pub byte_end: u32,
    /// Whether a model learns to write it.
    pub supervised: bool,
}

/// The text of one sample; its spans cover it without gaps, in order, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The text, without the BOS token with which a template may begin.
    pub text: String,
    /// What each byte of it is.
    pub spans: Vec<Span>,
}

impl Transcript {
    /// A plain text: one supervised span of the role `text`.
    ///
    /// # Errors
    /// 4 GiB or more.
    pub fn plain(text: &str) -> Result<Self> {
        Self::assemble(text.to_owned(), &[(0, text.len(), "text", true)])
    }

    /// Whether any byte is supervised.
    pub fn is_supervised(&self) -> bool {
        self.spans.iter().any(|span| span.supervised)
    }

    /// The stretches of supervised bytes that are content, not scaffolding, in order.
    pub(crate) fn content(&self) -> Vec<(u32, u32)> {
        let content = |span: &&Span| span.supervised && span.role != "turn_end";
        let spans = self.spans.iter().filter(content);
        spans.map(|span| (span.byte_start, span.byte_end)).collect()
    }

    /// The number of supervised bytes that are content.
    pub fn content_bytes(&self) -> u64 {
        let lengths = self.content().into_iter();
        lengths.map(|(start, end)| u64::from(end - start)).sum()
    }

    /// For tokens that end at these bytes, whether each covers a byte of the content, or stands
    /// among them without one of its own (an added prefix): these tokens and no others are what
    /// [`Transcript::content_bytes`] of the text cost. A special token that the content itself
    /// spells out (`<s>` in HTML) is one of them. The first token begins the sequence and costs
    /// nothing.
    pub fn content_tokens(&self, byte_end: &[u32]) -> Vec<bool> {
        let content = self.content();
        let mut content = Overlap::of(&content);
        let mut start = 0;
        let covers = |(at, end): (usize, &u32)| {
            let from = std::mem::replace(&mut start, *end);
            content.with(from, *end) && at > 0
        };
        byte_end.iter().enumerate().map(covers).collect()
    }

    /// The part of a transcript between two bytes (on borders of characters), with its spans.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let to = to.min(self.text.len());
        let from = from.min(to);
        let (first, last) = (from as u32, to as u32);
        let spans = self.spans.iter().filter_map(|span| {
            let start = span.byte_start.clamp(first, last);
            let end = span.byte_end.clamp(first, last);
            (start < end).then(|| Span {
                byte_start: start - first,
                byte_end: end - first,
                ..span.clone()
            })
        });
        Self {
            text: self.text.get(from..to).unwrap_or_default().to_owned(),
            spans: spans.collect(),
        }
    }

    /// The messages that the content spans of this transcript hold, as they read in it.
    pub fn messages(&self) -> Vec<Message> {
        let content = |span: &&Span| span.role != "template" && span.role != "turn_end";
        let spans = self.spans.iter().filter(content);
        spans
            .map(|span| Message {
                role: span.role.clone(),
                content: self
                    .text
                    .get(span.byte_start as usize..span.byte_end as usize)
                    .unwrap_or_default()
                    .to_owned(),
            })
            .collect()
    }

    /// The bytes at which a user's turn begins: where a long chat is best split. None is 0.
    pub fn turn_borders(&self) -> Vec<usize> {
        let mut borders = Vec::new();
        for (i, span) in self.spans.iter().enumerate() {
            if span.role != "user" || i == 0 {
                continue;
            }
            let mut start = span.byte_start as usize;
            let before = i.checked_sub(1).and_then(|i| self.spans.get(i));
            if let Some(before) = before.filter(|span| span.role == "template") {
                let scaffold = before.byte_start as usize..start;
                let text = self.text.get(scaffold.clone()).unwrap_or_default();
                let opener = TURN_STARTS
                    .iter()
                    .filter_map(|token| text.rfind(token))
                    .max();
                start = scaffold.start + opener.unwrap_or(0);
            }
            if start > 0 {
                borders.push(start);
            }
        }
        borders
    }

    /// Spans from located pieces `(start, end, role, supervised)` in order; the rest is `template`.
    fn assemble(text: String, pieces: &[(usize, usize, &str, bool)]) -> Result<Self> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::input("sample", "4 GiB or more of text")
                .remedy("split it into several samples"));
        }
        let mut spans: Vec<Span> = Vec::with_capacity(pieces.len() * 2 + 1);
        let mut push = |start: usize, end: usize, role: &str, supervised: bool| {
            if start < end {
                spans.push(Span {
                    role: role.to_owned(),
                    byte_start: start as u32,
                    byte_end: end as u32,
                    supervised,
                });
            }
        };
        let mut at = 0;
        for (start, end, role, supervised) in pieces {
            push(at, *start, "template", false);
            push(*start, *end, role, *supervised);
            at = *end;
        }
        push(at, text.len(), "template", false);
        Ok(Self { text, spans })
    }
}

/// Tells whether ranges that only move on overlap any of some ordered ranges. An empty range, of
/// a token that stands for no byte of its own, goes with the byte after it.
pub(crate) struct Overlap<'a> {
    ranges: &'a [(u32, u32)],
}

impl<'a> Overlap<'a> {
    pub(crate) fn of(ranges: &'a [(u32, u32)]) -> Self {
        Self { ranges }
    }

    pub(crate) fn with(&mut self, from: u32, to: u32) -> bool {
        while let Some(((_, end), rest)) = self.ranges.split_first()
            && *end <= from
        {
            self.ranges = rest;
        }
        let to = to.max(from.saturating_add(1));
        self.ranges.first().is_some_and(|(start, _)| *start < to)
    }
}

/// The transcript of a record's messages. A plain text needs no template.
///
/// Supervised are the contents of the assistant's messages, with the special token that ends
/// the turn, and plain text. The BOS token that a template may write at the start is left out:
/// every token sequence begins with its own.
///
/// # Errors
/// Messages without a template, what the template refuses, 4 GiB or more of text.
pub fn transcript(messages: &[Message], template: Option<&ChatTemplate>) -> Result<Transcript> {
    if let [message] = messages
        && message.role == "text"
    {
        return Transcript::plain(&message.content);
    }
    let Some(template) = template else {
        return Err(Error::input(
            "chat sample",
            "the model's tokenizer has no chat template",
        )
        .remedy("add a `chat_template.jinja` to its folder (a chat model of the same family has one), or give plain `text`"));
    };
    let mut text = template.render(messages, false)?;
    if let Some(rest) = template.bos().and_then(|bos| text.strip_prefix(bos)) {
        text = rest.to_owned();
    }
    let mut pieces: Vec<(usize, usize, &str, bool)> = Vec::new();
    for (index, start, end) in locate(&text, messages, template) {
        let Some(message) = messages.get(index) else {
            continue;
        };
        let supervised = message.role == "assistant" && start < end;
        pieces.push((start, end, &message.role, supervised));
        if supervised {
            let after = text.get(end..).unwrap_or_default();
            let blank = after.len() - after.trim_start().len();
            if let Some(closer) = template.closer(after.trim_start()) {
                pieces.push((end + blank, end + blank + closer.len(), "turn_end", true));
            }
        }
    }
    Transcript::assemble(text, &pieces)
}

/// The mark that stands for the content of message `index`: private characters, which no
/// template trims or splits.
fn mark(index: usize) -> String {
    format!("\u{E0F0}{index}\u{E0F1}")
}

/// Where the contents are in `text`: `(message, start, end)`, in the order of the text.
fn locate(text: &str, messages: &[Message], template: &ChatTemplate) -> Vec<(usize, usize, usize)> {
    let marked: Vec<Message> = messages
        .iter()
        .enumerate()
        .map(|(index, message)| Message {
            role: message.role.clone(),
            content: mark(index),
        })
        .collect();
    template
        .render(&marked, false)
        .ok()
        .and_then(|skeleton| match_skeleton(text, messages, &skeleton, template.bos()))
        .unwrap_or_else(|| search(text, messages))
}

/// Matches what stands between the marks; none if the contents changed the scaffolding.
fn match_skeleton(
    text: &str,
    messages: &[Message],
    skeleton: &str,
    bos: Option<&str>,
) -> Option<Vec<(usize, usize, usize)>> {
    let mut rest = bos
        .and_then(|bos| skeleton.strip_prefix(bos))
        .unwrap_or(skeleton);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = rest.find('\u{E0F0}') {
        let (before, marked) = rest.split_at(begin);
        let close = marked.find('\u{E0F1}')?;
        let index: usize = marked.get('\u{E0F0}'.len_utf8()..close)?.parse().ok()?;
        rest = marked.get(close + '\u{E0F1}'.len_utf8()..)?;
        at += text.get(at..)?.strip_prefix(before).map(|_| before.len())?;
        // The whole content, or what is left of it after trimming.
        let scaffold = rest.split('\u{E0F0}').next()?;
        let content = &messages.get(index)?.content;
        let here = text.get(at..)?;
        let forms = [
            content.as_str(),
            content.trim(),
            content.trim_start(),
            content.trim_end(),
        ];
        let form = forms.into_iter().find(|form| {
            here.strip_prefix(form).is_some_and(|after| {
                after.starts_with(scaffold) && (scaffold.len() < rest.len() || after == rest)
            })
        })?;
        found.push((index, at, at + form.len()));
        at += form.len();
    }
    (text.get(at..)? == rest).then_some(found)
}

/// Looks for the contents one after the other: whole, trimmed, or what follows a model's
/// thoughts (which templates drop from earlier turns). What is not found is not supervised.
fn search(text: &str, messages: &[Message]) -> Vec<(usize, usize, usize)> {
    let mut at = 0;
    let mut found = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let content = message.content.as_str();
        let spoken = content.rsplit("</think>").next().unwrap_or(content);
        let place = [content, content.trim(), spoken.trim()]
            .into_iter()
            .filter(|form| !form.is_empty())
            .find_map(|form| Some((text.get(at..)?.find(form)? + at, form.len())));
        if let Some((start, length)) = place {
            found.push((index, start, start + length));
            at = start + length;
        }
    }
    found
}
