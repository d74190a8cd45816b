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

use std::fmt;
use std::ops::Range;

use super::chat::{Chat, Message};
use super::template::{ChatTemplate, Rendering};

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

/// What a template writes around the contents of chats of the same roles.
#[derive(Debug)]
pub(super) struct Skeleton {
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
    pub(super) fn new(chat: &Chat, template: &ChatTemplate) -> Option<Self> {
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
    fn places(&self, text: &str, chat: &Chat) -> Option<Places> {
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

/// A content as a template may write it: whole, or trimmed; each form once.
fn forms(content: &str) -> [Option<&str>; 4] {
    let (start, end, both) = (content.trim_start(), content.trim_end(), content.trim());
    let partly = |form: &&str| both.len() < form.len() && form.len() < content.len();
    [
        Some(content),
        Some(both).filter(|form| form.len() < content.len()),
        Some(start).filter(partly),
        Some(end).filter(partly),
    ]
}

/// How the text lies around a content.
pub(super) struct Frame {
    /// The prompt before the turn.
    pub(super) prompt: Range<usize>,
    /// Bytes of what closes it, from the end of the content.
    pub(super) closer: usize,
}

/// The frame of the turn of message `index`, whose content is `mark` in `rendering`, which is
/// `text`; `calls` says whether it calls functions.
pub(super) fn frame(
    rendering: &Rendering<'_>,
    index: usize,
    text: &str,
    mark: &str,
    calls: bool,
) -> Result<Frame, Unplaced> {
    let (before, after) = once(text, mark)?;
    let prompt = prompt(rendering, index, before).ok_or(Unplaced::Unprompted)?;
    let alone = match index + 1 == rendering.len() {
        true => None,
        false => Some(
            rendering
                .first(index + 1, false)
                .map_err(|_| Unplaced::Refused)?,
        ),
    };
    let ended = match &alone {
        None => after,
        Some(alone) => once(alone, mark)?.1,
    };
    let mut closer = closer(rendering.template(), after, ended);
    if closer == 0 && calls {
        // Calls that follow the content belong to the turn where no token closes it, too.
        closer = after[..common_prefix(after, ended)].trim_end().len();
    }
    Ok(Frame { prompt, closer })
}

/// What stands before and after the only place of `mark`.
fn once<'a>(text: &'a str, mark: &str) -> Result<(&'a str, &'a str), Unplaced> {
    let (before, after) = text.split_once(mark).ok_or(Unplaced::Absent)?;
    match after.contains(mark) {
        true => Err(Unplaced::Entangled),
        false => Ok((before, after)),
    }
}

/// The prompt before a turn. It ends as far as the messages before the turn are rendered alike when
/// the assistant is asked to speak (a prompt may open its thoughts, too). Where the template shows
/// them differently then, or has no prompt there, it is the last one like those of a plain chat.
fn prompt(rendering: &Rendering<'_>, index: usize, before: &str) -> Option<Range<usize>> {
    let template = rendering.template();
    let blank = |text: &str| text.trim().is_empty();
    if index == 0 {
        // No template is made for a chat without a message.
        let own = template.bos().and_then(|bos| before.strip_prefix(bos));
        let header = template.last_header(before);
        let end = before.len();
        return header.or_else(|| blank(own.unwrap_or(before)).then_some(end..end));
    }
    if let Ok(asked) = rendering.first(index, true) {
        let shared = common_prefix(before, &asked);
        let history = match rendering.first(index, false) {
            // What only ends a chat is no part of what comes before the next turn.
            Ok(_) if template.is_special(asked[shared..].trim()) => shared,
            Ok(history) => common_prefix(&history, &asked),
            Err(_) => asked.len(),
        };
        if shared >= history {
            let own = &before[shared..];
            let header = match template.never_prompts() && blank(own) {
                true => own.len(),
                false => template.last_header(own).map_or(0, |header| header.end),
            };
            return Some(history.min(shared)..shared + header);
        }
    }
    template.last_header(before)
}

/// The bytes of `after` that close a turn: up to the last special token of what follows the
/// turn whether or not (`ended`) the chat goes on. Where both go on with a token of their own
/// (one for a turn's end, one for the chat's), that token.
fn closer(template: &ChatTemplate, after: &str, ended: &str) -> usize {
    let shared = &after[..common_prefix(after, ended)];
    if let Some(last) = template.last_special(shared) {
        return last.end;
    }
    let first = |text: &str| {
        let blank = text.len() - text.trim_start().len();
        template
            .special_at(&text[blank..])
            .map(|token| blank + token.len())
    };
    first(ended).and_then(|_| first(after)).unwrap_or(0)
}

/// Bytes that two texts begin with in common, whole characters.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    let bytes = a.bytes().zip(b.bytes());
    let mut common = bytes.take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(common) {
        common -= 1;
    }
    common
}

/// Derives each turn by itself.
fn one_by_one(text: &str, chat: &Chat, template: &ChatTemplate) -> Places {
    let mut places = Places::default();
    let Some(marks) = Marks::not_in(text) else {
        let all = assistants(chat).map(|index| (index, Unplaced::Entangled));
        places.unplaced = all.collect();
        return places;
    };
    let rendering = template.rendering(chat);
    let ends = content_ends(text, chat, &rendering, &marks);
    let mut turns: Vec<Turn> = Vec::new();
    for index in assistants(chat) {
        let end = ends.get(index).copied().flatten();
        match turn(text, chat, &rendering, index, end, &marks) {
            Ok(bytes) if encloses_others(&bytes, index, &ends) => {
                places.unplaced.push((index, Unplaced::Overlapping));
            }
            Ok(bytes) => turns.push(Turn {
                message: index,
                bytes,
            }),
            Err(reason) => places.unplaced.push((index, reason)),
        }
    }
    // Turns rise; of two that overlap, neither is right for certain.
    let clash = |a: &Turn, b: &Turn| a.bytes.end > b.bytes.start;
    let overlapping: Vec<bool> = (0..turns.len())
        .map(|at| {
            let earlier = turns[..at].iter().any(|turn| clash(turn, &turns[at]));
            earlier || turns[at + 1..].iter().any(|turn| clash(&turns[at], turn))
        })
        .collect();
    for (turn, overlaps) in turns.into_iter().zip(overlapping) {
        match overlaps {
            true => places.unplaced.push((turn.message, Unplaced::Overlapping)),
            false => places.turns.push(turn),
        }
    }
    let mut contents = Vec::new();
    for (index, message) in chat.messages.iter().enumerate() {
        let own = places.turns.iter().find(|turn| turn.message == index);
        let first = own.map_or(0, |turn| turn.bytes.start);
        let said = ends[index].and_then(|end| said(text, &message.content(), first, end));
        let until = said.as_ref().map(|said| said.start);
        let until = until.or(own.map(|turn| turn.bytes.end));
        if let (Some(own), Some(until)) = (own, until)
            && let Some(bytes) = thought(text, message, own.bytes.start..until)
        {
            contents.push(Place {
                message: index,
                bytes,
                thought: true,
            });
        }
        contents.extend(said.map(|bytes| Place {
            message: index,
            bytes,
            thought: false,
        }));
    }
    contents.sort_by_key(|place| place.bytes.start);
    let mut at = 0;
    contents.retain(|place| {
        let rises = place.bytes.start >= at;
        at = at.max(place.bytes.end);
        rises
    });
    places.contents = contents;
    places
}

/// Whether the content of another message ends inside a turn.
fn encloses_others(turn: &Range<usize>, index: usize, ends: &[Option<usize>]) -> bool {
    let others = ends.iter().enumerate().filter(|(other, _)| *other != index);
    others
        .filter_map(|(_, end)| *end)
        .any(|end| turn.start < end && end <= turn.end)
}

/// The extent of an assistant's turn that calls functions, by a mark in place of the name of one;
/// none if the template does not write it.
fn turn_by_call(
    text: &str,
    message: &Message,
    rendering: &Rendering<'_>,
    (index, call): (usize, usize),
    marks: &Marks,
) -> Option<Range<usize>> {
    let mut message = message.clone();
    let call = message.fields.get_mut("tool_calls")?.get_mut(call)?;
    let call = match call.get("function") {
        Some(_) => call.get_mut("function")?,
        None => call,
    };
    let name = call.get("name")?.as_str()?.to_owned();
    let mark = marks.of(index);
    *call.get_mut("name")? = mark.as_str().into();
    let mut rendering = rendering.clone();
    rendering.replace(index, &message);
    let marked = rendering.all().ok()?;
    let (before, after) = marked.split_once(&mark)?;
    // Results may name the function once more; nothing but the name may differ.
    let after = after.replace(&mark, &name);
    let rest = text.strip_prefix(before)?.strip_prefix(name.as_str())?;
    let marked = format!("{before}{mark}{after}");
    let frame = frame(&rendering, index, &marked, &mark, true).ok()?;
    (rest == after).then(|| frame.prompt.end..text.len() - after.len() + frame.closer)
}

/// The extent of one assistant's turn in `text`; `end` is where its content ends there.
fn turn(
    text: &str,
    chat: &Chat,
    rendering: &Rendering<'_>,
    index: usize,
    end: Option<usize>,
    marks: &Marks,
) -> Result<Range<usize>, Unplaced> {
    let message = &chat.messages[index];
    let calls = message
        .fields
        .get("tool_calls")
        .and_then(|calls| calls.as_array());
    let calls = calls.map_or(0, Vec::len);
    // Some templates write the first call only.
    let by_call = |call| turn_by_call(text, message, rendering, (index, call), marks);
    if let Some(bytes) = [calls.saturating_sub(1), 0].into_iter().find_map(by_call) {
        return Ok(bytes);
    }
    let marked = |mark: &str| {
        let mut marked = message.clone();
        marked.fields.insert("content".to_owned(), mark.into());
        for field in REASONING {
            marked.fields.shift_remove(field);
        }
        let mut rendering = rendering.clone();
        rendering.replace(index, &marked);
        let text = rendering.all().map_err(|_| Unplaced::Refused)?;
        Ok((rendering, text))
    };
    let (short, long) = (marks.of(index), marks.long(index));
    let (marked_once, with_short) = marked(&short)?;
    let (before, after) = once(&with_short, &short)?;
    let (_, with_long) = marked(&long)?;
    if once(&with_long, &long)? != (before, after) {
        return Err(Unplaced::Entangled);
    }
    let frame = frame(&marked_once, index, &with_short, &short, calls > 0)?;
    // What the turn says may begin as the prompt would go on: its thoughts, not opened for nothing.
    let start = common_prefix(text, before).min(frame.prompt.end);
    if start < frame.prompt.start {
        return Err(Unplaced::Entangled);
    }
    let content = message.content();
    if !spoken(&content).trim().is_empty() {
        let close = text
            .len()
            .checked_sub(after.len())
            .filter(|_| text.ends_with(after));
        let close = close
            .filter(|close| start <= *close)
            .ok_or(Unplaced::Entangled)?;
        let end = end.filter(|end| (start..=close).contains(end));
        let end = end.ok_or(Unplaced::Absent)?;
        said(text, &content, start, end).ok_or(Unplaced::Absent)?;
        return Ok(start..close + frame.closer);
    }
    // Nothing is said, but perhaps thought, which a template may write otherwise than something: the turn ends alike.
    let (closer, rest) = after.split_at(frame.closer);
    let close = text
        .len()
        .checked_sub(rest.len())
        .filter(|_| text.ends_with(rest));
    let close = close
        .filter(|close| start <= *close)
        .ok_or(Unplaced::Entangled)?;
    let last = rendering.template().last_special(closer);
    let last = last.and_then(|last| closer.get(last)).unwrap_or_default();
    let written = &text[start..close];
    // The functions that it calls are there, or none of them is.
    let mut called = names(message).map(|name| written.contains(name));
    let whole = called
        .next()
        .is_none_or(|first| called.all(|other| other == first));
    if !written.ends_with(last) || !whole {
        return Err(Unplaced::Absent);
    }
    Ok(start..close)
}

/// The fields in which records keep what a model thought, the first that is there being meant.
pub(super) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What ends a model's thoughts where they stand in its content.
const THOUGHT_END: &str = "</think>";

/// What follows the thoughts in a content.
fn spoken(content: &str) -> &str {
    content
        .rsplit_once(THOUGHT_END)
        .map_or(content, |(_, spoken)| spoken)
}

/// The names of the functions that a message calls.
fn names(message: &Message) -> impl Iterator<Item = &str> {
    let calls = message
        .fields
        .get("tool_calls")
        .and_then(|calls| calls.as_array());
    calls.into_iter().flatten().filter_map(|call| {
        let function = call.get("function").unwrap_or(call);
        function.get("name")?.as_str()
    })
}

/// Where the content of each message ends in `text`: where a mark at its end appears, and nothing
/// else changes.
fn content_ends(
    text: &str,
    chat: &Chat,
    rendering: &Rendering<'_>,
    marks: &Marks,
) -> Vec<Option<usize>> {
    let count = chat.messages.len();
    let says: Vec<usize> = (0..count)
        .filter(|index| !chat.messages[*index].content().trim().is_empty())
        .collect();
    let with = |indices: &[usize], cut: fn(&str) -> &str| {
        let mut changed = rendering.clone();
        for index in indices {
            let message = chat.messages[*index].ending_in(&marks.of(*index), cut);
            changed.replace(*index, &message);
        }
        let marked = changed.all().ok()?;
        let mut ends = vec![None; count];
        let (mut plain, mut rest) = (String::with_capacity(text.len()), marked.as_str());
        let mut repeated = vec![false; count];
        while let Some((literal, index, after)) = marks.next(rest) {
            plain.push_str(literal);
            let end = ends.get_mut(index)?;
            repeated[index] |= end.is_some();
            *end = Some(plain.len());
            rest = after;
        }
        plain.push_str(rest);
        for (end, repeated) in ends.iter_mut().zip(repeated) {
            *end = end.filter(|_| !repeated);
        }
        (plain == text).then_some(ends)
    };
    let cuts: [fn(&str) -> &str; 3] = [
        |text| text,
        str::trim_end,
        |text| text.trim_end_matches('\n'),
    ];
    if let Some(ends) = cuts.iter().find_map(|cut| with(&says, *cut)) {
        return ends;
    }
    let mut ends = vec![None; count];
    for index in says {
        ends[index] = cuts.iter().find_map(|cut| with(&[index], *cut)?[index]);
    }
    ends
}

/// The bytes of `text` up to `end` that are the content: whole, trimmed, or what follows the
/// thoughts in it.
fn said(text: &str, content: &str, first: usize, end: usize) -> Option<Range<usize>> {
    let written = text.get(first..end)?;
    let suffix = |part: &str| {
        let form = forms(part)
            .into_iter()
            .flatten()
            .find(|form| written.ends_with(form))?;
        Some(end - form.len()..end)
    };
    suffix(content).or_else(|| {
        let spoken = spoken(content);
        suffix(spoken).filter(|_| spoken.len() < content.len())
    })
}

/// The bytes of what an assistant's message thinks, in its own field or in its content, if the
/// template writes it in these bytes.
fn thought(text: &str, message: &Message, bytes: Range<usize>) -> Option<Range<usize>> {
    let content = message.content();
    let field = REASONING
        .iter()
        .find_map(|field| message.fields.get(*field)?.as_str());
    let inline = || {
        let (thought, _) = content.rsplit_once(THOUGHT_END)?;
        Some(
            thought
                .split_once("<think>")
                .map_or(thought, |(_, thought)| thought),
        )
    };
    let thought = field.or_else(inline)?.trim();
    let written = text.get(bytes.clone())?;
    let at = written.rfind(thought).filter(|_| !thought.is_empty())?;
    let start = bytes.start + at;
    Some(start..start + thought.len())
}

/// Marks that stand for contents: private characters, which no template trims or splits.
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    pub(super) const DEFAULT: Self = Self {
        open: '\u{E0F0}',
        close: '\u{E0F1}',
    };

    /// Marks that a text does not have itself.
    fn not_in(text: &str) -> Option<Self> {
        let others = ('\u{F0000}'..'\u{F0100}').map(|open| Self {
            open,
            close: char::from_u32(open as u32 + 0x100).unwrap_or(open),
        });
        let absent = |marks: &Self| !text.contains([marks.open, marks.close]);
        std::iter::once(Self::DEFAULT).chain(others).find(absent)
    }

    /// The mark of message `index`.
    pub(super) fn of(&self, index: usize) -> String {
        format!("{}{index}{}", self.open, self.close)
    }

    /// A longer one.
    fn long(&self, index: usize) -> String {
        format!(
            "{}{}{}",
            self.open,
            format!("{index} ").repeat(30),
            self.close
        )
    }

    /// What stands before the first mark of a text, whose it is, and what stands after it.
    fn next<'a>(&self, text: &'a str) -> Option<(&'a str, usize, &'a str)> {
        let (before, rest) = text.split_once(self.open)?;
        let (index, after) = rest.split_once(self.close)?;
        Some((before, index.parse().ok()?, after))
    }
}
