//! How the text lies around a content: the prompt before a turn, and what closes it.

use std::ops::Range;

use super::Unplaced;
use crate::text::template::{ChatTemplate, Rendering};

/// How the text lies around a content.
pub(in crate::text) struct Frame {
    /// The prompt before the turn.
    pub(in crate::text) prompt: Range<usize>,
    /// Bytes of what closes it, from the end of the content.
    pub(in crate::text) closer: usize,
}

/// The frame of the turn of message `index`, whose content is `mark` in `rendering`, which is
/// `text`; `calls` says whether it calls functions.
pub(in crate::text) fn frame(
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
pub(super) fn once<'a>(text: &'a str, mark: &str) -> Result<(&'a str, &'a str), Unplaced> {
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
pub(in crate::text) fn common_prefix(a: &str, b: &str) -> usize {
    let bytes = a.bytes().zip(b.bytes());
    let mut common = bytes.take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(common) {
        common -= 1;
    }
    common
}
