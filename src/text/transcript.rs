//! The canonical text of a sample, with the part that each byte plays.

use super::chat::{Chat, Message};
use super::template::{ChatTemplate, TURN_STARTS};
use super::turns::{Places, Unplaced, places};
use crate::error::{Error, Result};

/// A half-open range of bytes of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// `system`, `user`, `assistant`, `tool`, `other`, `text`: content; `reasoning`: what an
    /// assistant thinks; `turn`: what the template adds in a supervised turn of the assistant's,
    /// `turn_end`: the token that closes it; `template`: what it adds elsewhere.
    pub role: String,
    /// The first byte.
    pub byte_start: u32,
    /// The byte after the last.
    pub byte_end: u32,
    /// Whether a model learns to write it.
    pub supervised: bool,
}

impl Span {
    /// Whether it is what someone says or thinks, not what a template adds.
    pub fn is_content(&self) -> bool {
        !matches!(self.role.as_str(), "template" | "turn" | "turn_end")
    }
}

/// The text of one sample; its spans cover it without gaps, in order, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The text, without the BOS token with which a template may begin.
    pub text: String,
    /// Whether the template writes BOS before it.
    pub bos: bool,
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

    /// A transcript of these pieces: role, text, and whether it is supervised.
    #[cfg(test)]
    pub(crate) fn of_parts(parts: &[(&str, &str, bool)]) -> Self {
        let mut transcript = Self::default();
        for (role, text, supervised) in parts {
            let start = transcript.text.len() as u32;
            transcript.text.push_str(text);
            transcript.spans.push(Span {
                role: (*role).to_owned(),
                byte_start: start,
                byte_end: transcript.text.len() as u32,
                supervised: *supervised,
            });
        }
        transcript
    }

    /// Whether any byte is supervised.
    pub fn is_supervised(&self) -> bool {
        self.spans.iter().any(|span| span.supervised)
    }

    /// The stretches of supervised bytes that are content, not scaffolding, in order.
    pub(crate) fn content(&self) -> Vec<(u32, u32)> {
        let content = |span: &&Span| span.supervised && span.is_content();
        let spans = self.spans.iter().filter(content);
        spans.map(|span| (span.byte_start, span.byte_end)).collect()
    }

    /// The bytes of all contents, supervised or not, in order.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let spans = self.spans.iter().filter(|span| span.is_content());
        spans.map(|span| (span.byte_start, span.byte_end))
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
            bos: self.bos && from == 0,
            spans: spans.collect(),
        }
    }

    /// The messages that the content spans of this transcript hold, as they read in it.
    pub fn messages(&self) -> Vec<Message> {
        let spans = self.spans.iter().filter(|span| span.is_content());
        spans
            .map(|span| {
                let bytes = span.byte_start as usize..span.byte_end as usize;
                Message::new(&span.role, self.text.get(bytes).unwrap_or_default())
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
        Ok(Self {
            text,
            bos: false,
            spans,
        })
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

/// A transcript, and what of its chat is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcribed {
    /// The transcript.
    pub transcript: Transcript,
    /// Where each message of the chat begins in it, if it was found.
    pub begins: Vec<Option<usize>>,
    /// The assistant's turns that should be supervised and are not, and why.
    pub unplaced: Vec<Unplaced>,
}

/// The transcript of a chat. A plain text needs no template.
///
/// Supervised are the assistant's turns, from the end of the prompt to the token that ends the
/// turn, and plain text; a turn whose extent cannot be derived from the template is not, and
/// neither is one with the weight 0. The BOS token that a template may write at the start is left
/// out: every token sequence begins with its own.
///
/// # Errors
/// Messages without a template, what the template refuses, 4 GiB or more of text.
pub fn transcript(chat: &Chat, template: Option<&ChatTemplate>) -> Result<Transcribed> {
    if let [message] = chat.messages.as_slice()
        && message.role == "text"
    {
        let mut transcript = Transcript::plain(&message.content())?;
        for span in &mut transcript.spans {
            span.supervised = message.learned;
        }
        return Ok(Transcribed {
            transcript,
            begins: vec![Some(0)],
            unplaced: Vec::new(),
        });
    }
    let Some(template) = template else {
        return Err(Error::input(
            "chat sample",
            "the model's tokenizer has no chat template",
        )
        .remedy("add a `chat_template.jinja` to its folder (a chat model of the same family has one), or give plain `text`"));
    };
    let template = template.for_chat(chat);
    let rendered = template.render(chat, false)?;
    let found = places(&rendered, chat, template);
    let bos = template.bos().and_then(|bos| rendered.strip_prefix(bos));
    let cut = rendered.len() - bos.unwrap_or(&rendered).len();

    let mut begins: Vec<Option<usize>> = vec![None; chat.messages.len()];
    let starts = found
        .contents
        .iter()
        .map(|place| (place.message, place.bytes.start));
    let starts = starts.chain(
        found
            .turns
            .iter()
            .map(|turn| (turn.message, turn.bytes.start)),
    );
    for (message, start) in starts {
        let start = start.saturating_sub(cut);
        let begin = &mut begins[message];
        *begin = Some(begin.map_or(start, |begin| begin.min(start)));
    }
    let mut transcript = Transcript::assemble(
        rendered[cut..].to_owned(),
        &pieces(&rendered, cut, chat, &found, template),
    )?;
    transcript.bos = cut > 0;
    let meant = found
        .unplaced
        .iter()
        .filter(|(message, _)| chat.messages[*message].learned);
    Ok(Transcribed {
        unplaced: meant.map(|(_, reason)| *reason).collect(),
        transcript,
        begins,
    })
}

/// The pieces `(start, end, role, supervised)` of a rendering without its first `cut` bytes.
fn pieces<'a>(
    rendered: &str,
    cut: usize,
    chat: &'a Chat,
    found: &Places,
    template: &ChatTemplate,
) -> Vec<(usize, usize, &'a str, bool)> {
    let mut pieces = Vec::new();
    let mut contents = found.contents.iter().peekable();
    let mut push = |start: usize, end: usize, role: &'a str, supervised: bool| {
        let (start, end) = (start.max(cut), end.max(cut));
        if start < end {
            pieces.push((start - cut, end - cut, role, supervised));
        }
    };
    // Contents up to a byte; in a turn that is learnt, what is between them belongs to it.
    let mut take =
        |until: usize, turn: Option<usize>, push: &mut dyn FnMut(usize, usize, &'a str, bool)| {
            let mut at = turn;
            while let Some(place) = contents.next_if(|place| place.bytes.start < until) {
                let message = &chat.messages[place.message];
                let role = if place.thought {
                    "reasoning"
                } else {
                    message.part()
                };
                if let Some(at) = &mut at {
                    push(*at, place.bytes.start, "turn", true);
                    *at = place.bytes.end;
                }
                push(place.bytes.start, place.bytes.end, role, turn.is_some());
            }
            at
        };
    for turn in &found.turns {
        take(turn.bytes.start, None, &mut push);
        if !chat.messages[turn.message].learned {
            take(turn.bytes.end, None, &mut push);
            continue;
        }
        let at = take(turn.bytes.end, Some(turn.bytes.start), &mut push);
        let at = at.unwrap_or(turn.bytes.end).min(turn.bytes.end);
        let rest = &rendered[at..turn.bytes.end];
        let closer = template
            .last_special(rest)
            .filter(|closer| closer.end == rest.len());
        let closer = closer.map_or(turn.bytes.end, |closer| at + closer.start);
        push(at, closer, "turn", true);
        push(closer, turn.bytes.end, "turn_end", true);
    }
    take(rendered.len() + 1, None, &mut push);
    pieces
}
