//! Each turn by itself, where contents change what is around them.

use std::ops::Range;

use super::contents::{REASONING, content_ends, names, said, spoken, thought};
use super::frame::{common_prefix, frame, once};
use super::{Marks, Place, Places, Turn, Unplaced, assistants};
use crate::text::chat::{Chat, Message};
use crate::text::template::{ChatTemplate, Rendering};

/// Derives each turn by itself.
pub(super) fn one_by_one(text: &str, chat: &Chat, template: &ChatTemplate) -> Places {
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
