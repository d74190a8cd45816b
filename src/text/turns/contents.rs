//! What messages say and think, and where a rendering has it.

use std::ops::Range;

use super::Marks;
use crate::text::chat::{Chat, Message};
use crate::text::template::Rendering;

/// A content as a template may write it: whole, or trimmed; each form once.
pub(super) fn forms(content: &str) -> [Option<&str>; 4] {
    let (start, end, both) = (content.trim_start(), content.trim_end(), content.trim());
    let partly = |form: &&str| both.len() < form.len() && form.len() < content.len();
    [
        Some(content),
        Some(both).filter(|form| form.len() < content.len()),
        Some(start).filter(partly),
        Some(end).filter(partly),
    ]
}

/// The fields in which records keep what a model thought, the first that is there being meant.
pub(in crate::text) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What ends a model's thoughts where they stand in its content.
const THOUGHT_END: &str = "</think>";

/// What follows the thoughts in a content.
pub(super) fn spoken(content: &str) -> &str {
    content
        .rsplit_once(THOUGHT_END)
        .map_or(content, |(_, spoken)| spoken)
}

/// The names of the functions that a message calls.
pub(super) fn names(message: &Message) -> impl Iterator<Item = &str> {
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
pub(super) fn content_ends(
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
pub(super) fn said(text: &str, content: &str, first: usize, end: usize) -> Option<Range<usize>> {
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
pub(super) fn thought(text: &str, message: &Message, bytes: Range<usize>) -> Option<Range<usize>> {
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
