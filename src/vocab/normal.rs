//! Which stretch of a text a normaliser turned into which stretch of its normal form.
//!
//! Nothing is asked of the normaliser but to be run again: a border is where both sides,
//! normalised by themselves, are together what the whole is. The text is passed through character
//! by character; where a character alone is not what the normal form goes on with (a letter and
//! its accent became one, blanks were squeezed into one), a window around it is widened until it
//! is, and cut again into the smallest stretches afterwards. Every stretch that comes out has been
//! compared with its normal form.
//!
//! Windows double, and what is short is normalised once, so that the time is that of normalising
//! the text, times a factor that grows with its logarithm.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::progress::check_interrupt;

/// How many following characters are tried before a window grows on both sides: a letter and its
/// marks, the parts of a syllable.
const AHEAD: usize = 6;

/// Stretches of as many characters are cut wherever they can be, longer ones near the middle.
const SHORT: usize = 32;

/// Parts of as many bytes are normalised once for the whole text.
const REMEMBERED: usize = 32;

/// How many of them are kept.
const MOST_REMEMBERED: usize = 1 << 16;

/// The most characters that are added before a text.
const PREFIX: usize = 16;

/// Steps between two looks at the user's wish to stop.
const STEPS: usize = 1 << 12;

/// A stretch of a text and its normal form, by their ends; both begin where those of the stretch
/// before it end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) text_end: usize,
    pub(super) normal_end: usize,
    /// Both are the same bytes, and correspond byte by byte.
    pub(super) same: bool,
}

/// Adds a stretch; neighbours that nothing changed become one.
pub(super) fn push(stretches: &mut Vec<Stretch>, next: Stretch) {
    match stretches.last_mut() {
        Some(last) if last.same && next.same => *last = next,
        _ => stretches.push(next),
    }
}

/// The smallest stretches of a text that is normalised by itself, with their normal forms.
///
/// `normalize` is the normaliser without what it adds before a text or strips off its ends;
/// `normal` is the text's normal form with all of it, and `blank` tells the characters that are
/// stripped. None where `normal` has more to it than that.
///
/// # Errors
/// The user's wish to stop.
pub(super) fn fragment(
    text: &str,
    normal: &str,
    normalize: &dyn Fn(&str) -> String,
    blank: &dyn Fn(char) -> bool,
) -> Result<Option<Vec<Stretch>>> {
    let bare = normalize(text);
    if bare == normal {
        return stretches(text, &bare, normalize).map(Some);
    }
    // What is stripped first can change what the other steps see at the ends.
    let start = text.len() - text.trim_start().len();
    let end = text.trim_end().len().max(start);
    for inner in [0..text.len(), start..text.len(), 0..end, start..end] {
        let part = text.get(inner.clone()).unwrap_or_default();
        let bare = normalize(part);
        let Some(core) = core(&bare, normal, blank) else {
            continue;
        };
        let mut found = stripped(&stretches(part, &bare, normalize)?, &core);
        for stretch in &mut found {
            stretch.text_end += inner.start;
        }
        // The stretches are about what is inside; the ends were dropped.
        found.insert(
            0,
            Stretch {
                text_end: inner.start,
                normal_end: 0,
                same: false,
            },
        );
        push(
            &mut found,
            Stretch {
                text_end: text.len(),
                normal_end: normal.len(),
                same: false,
            },
        );
        return Ok(Some(found));
    }
    Ok(None)
}

/// What a normal form has of one that nothing was added to or stripped off.
struct Core {
    /// The length of what was added before it.
    prefix: usize,
    /// The part that is left.
    kept: Range<usize>,
}

/// Finds `normal` in `bare`, but for an added prefix and stripped blanks.
fn core(bare: &str, normal: &str, blank: &dyn Fn(char) -> bool) -> Option<Core> {
    let leading = bare.len() - bare.trim_start_matches(blank).len();
    let at = |prefix: usize| {
        let rest = normal.get(prefix..)?;
        let start = [0, leading].into_iter().find(|start| {
            let after = bare.get(*start..).and_then(|bare| bare.strip_prefix(rest));
            after.is_some_and(|after| after.chars().all(blank))
        })?;
        let kept = start..start + rest.len();
        Some(Core { prefix, kept })
    };
    let borders = normal.char_indices().map(|(at, _)| at);
    { borders.chain([normal.len()]).take(PREFIX + 1) }.find_map(at)
}

/// The stretches of a text whose normal form has a prefix, and is a part only of what `whole`
/// says.
fn stripped(whole: &[Stretch], core: &Core) -> Vec<Stretch> {
    let Core { prefix, kept } = core;
    let mut out = Vec::with_capacity(whole.len() + 2);
    let mut add = |text_end: usize, normal_end: usize, same: bool| {
        let normal_end = normal_end.clamp(kept.start, kept.end) - kept.start + prefix;
        let next = Stretch {
            text_end,
            normal_end,
            same,
        };
        push(&mut out, next);
    };
    add(0, kept.start, false);
    let (mut text_at, mut normal_at) = (0, 0);
    for stretch in whole {
        // What is the same can be stripped in part.
        for border in [kept.start, kept.end] {
            if stretch.same && normal_at < border && border < stretch.normal_end {
                text_at += border - normal_at;
                add(text_at, border, normal_at >= kept.start);
                normal_at = border;
            }
        }
        let inside = kept.start <= normal_at && stretch.normal_end <= kept.end;
        add(stretch.text_end, stretch.normal_end, stretch.same && inside);
        (text_at, normal_at) = (stretch.text_end, stretch.normal_end);
    }
    out
}

/// The smallest stretches of `text` with their normal forms, which together are `normal`, all
/// that `normalize` makes of the text.
///
/// # Errors
/// The user's wish to stop.
pub(super) fn stretches(
    text: &str,
    normal: &str,
    normalize: &dyn Fn(&str) -> String,
) -> Result<Vec<Stretch>> {
    let mut matcher = Matcher {
        text,
        normal,
        normalizer: Remembering {
            normalize,
            known: HashMap::new(),
            steps: 0,
        },
        found: Vec::new(),
    };
    while matcher.at().0 < text.len() {
        matcher.step()?;
    }
    matcher.refined()
}

/// A normaliser that remembers what it made of short parts.
struct Remembering<'a> {
    normalize: &'a dyn Fn(&str) -> String,
    known: HashMap<String, String>,
    steps: usize,
}

impl Remembering<'_> {
    /// The length of the part's normal form, if `rest` begins with it.
    fn begins(&mut self, part: &str, rest: &str) -> Result<Option<usize>> {
        self.steps += 1 + part.len() / REMEMBERED;
        if self.steps >= STEPS {
            self.steps = 0;
            check_interrupt()?;
        }
        let begins = |normal: &str| rest.starts_with(normal).then_some(normal.len());
        if part.len() > REMEMBERED {
            return Ok(begins(&(self.normalize)(part)));
        }
        if let Some(normal) = self.known.get(part) {
            return Ok(begins(normal));
        }
        let normal = (self.normalize)(part);
        let length = begins(&normal);
        if self.known.len() < MOST_REMEMBERED {
            self.known.insert(part.to_owned(), normal);
        }
        Ok(length)
    }

    /// Whether two parts, normalised by themselves, are `normal` together: the length of the
    /// first one's normal form.
    fn parts(&mut self, left: &str, right: &str, normal: &str) -> Result<Option<usize>> {
        let Some(length) = self.begins(left, normal)? else {
            return Ok(None);
        };
        let rest = normal.get(length..).unwrap_or_default();
        let whole = self.begins(right, rest)? == Some(rest.len());
        Ok(whole.then_some(length))
    }
}

struct Matcher<'a> {
    text: &'a str,
    normal: &'a str,
    normalizer: Remembering<'a>,
    found: Vec<Stretch>,
}

impl Matcher<'_> {
    /// How far the text and its normal form are accounted for.
    fn at(&self) -> (usize, usize) {
        self.found
            .last()
            .map_or((0, 0), |last| (last.text_end, last.normal_end))
    }

    /// Accounts for the next character, or for a window around it.
    fn step(&mut self) -> Result<()> {
        let (start, _) = self.at();
        for ahead in 0..=AHEAD {
            if self.accepts(ceil_chars(self.text, start, ahead + 1))? {
                return Ok(());
            }
        }
        let mut reach = 1;
        loop {
            self.take_back(start.saturating_sub(reach));
            let (from, _) = self.at();
            let end = after_marks(self.text, start + reach.max(start - from));
            let everything = from == 0 && end == self.text.len();
            if self.accepts(end)? || everything && self.accept_all() {
                return Ok(());
            }
            reach = reach.saturating_mul(2);
        }
    }

    /// Accepts the text up to `end` as one stretch, if it is what the normal form goes on with.
    fn accepts(&mut self, end: usize) -> Result<bool> {
        let (start, normal_start) = self.at();
        let part = self.text.get(start..end).unwrap_or_default();
        let rest = self.normal.get(normal_start..).unwrap_or_default();
        let Some(length) = self.normalizer.begins(part, rest)? else {
            return Ok(false);
        };
        if end == self.text.len() && length != rest.len() {
            return Ok(false);
        }
        let next = Stretch {
            text_end: end,
            normal_end: normal_start + length,
            same: rest.get(..length) == Some(part),
        };
        push(&mut self.found, next);
        Ok(true)
    }

    /// All of the text is one stretch.
    fn accept_all(&mut self) -> bool {
        self.found = vec![Stretch {
            text_end: self.text.len(),
            normal_end: self.normal.len(),
            same: false,
        }];
        true
    }

    /// Forgets what was accounted for beyond `from`.
    fn take_back(&mut self, from: usize) {
        let from = floor(self.text, from);
        while let Some(last) = self.found.pop() {
            if last.text_end <= from {
                self.found.push(last);
                return;
            }
            // Of what is the same on both sides, a part can be kept.
            let (start, normal_start) = self.at();
            if last.same && from > start {
                self.found.push(Stretch {
                    text_end: from,
                    normal_end: normal_start + (from - start),
                    same: true,
                });
                return;
            }
        }
    }

    /// The stretches, each cut into the smallest ones.
    fn refined(mut self) -> Result<Vec<Stretch>> {
        let found = std::mem::take(&mut self.found);
        let mut refined = Vec::with_capacity(found.len());
        let mut at = (0, 0);
        for stretch in found {
            let end = (stretch.text_end, stretch.normal_end);
            if stretch.same || ceil_chars(self.text, at.0, 1) >= end.0 {
                push(&mut refined, stretch);
            } else {
                self.refine(at, end, &mut refined)?;
            }
            at = end;
        }
        Ok(refined)
    }

    /// Cuts the stretch between two positions (in the text and in the normal form).
    fn refine(
        &mut self,
        from: (usize, usize),
        to: (usize, usize),
        out: &mut Vec<Stretch>,
    ) -> Result<()> {
        let (text, normal) = (self.text, self.normal);
        let mut at = from;
        let mut ends = vec![to];
        while let Some(end) = ends.last().copied() {
            let part = text.get(at.0..end.0).unwrap_or_default();
            let made = normal.get(at.1..end.1).unwrap_or_default();
            let cut = match part == made {
                true => None,
                false => self.cut(part, made)?,
            };
            if let Some((text_cut, normal_cut)) = cut {
                ends.push((at.0 + text_cut, at.1 + normal_cut));
                continue;
            }
            ends.pop();
            leaf(at, part, made, out);
            at = end;
        }
        Ok(())
    }

    /// A border inside `part`, whose normal form is `normal`.
    fn cut(&mut self, part: &str, normal: &str) -> Result<Option<(usize, usize)>> {
        for at in cuts(part) {
            let (left, right) = part.split_at(at);
            if let Some(length) = self.normalizer.parts(left, right, normal)? {
                return Ok(Some((at, length)));
            }
        }
        Ok(None)
    }
}

/// Adds a stretch without borders. Of a long one that is mostly unchanged (a pattern that matches
/// at the start of a line only) the unchanged ends are stretches of their own.
fn leaf(at: (usize, usize), part: &str, made: &str, out: &mut Vec<Stretch>) {
    let mut add = |text: usize, normal: usize, same: bool| {
        let next = Stretch {
            text_end: at.0 + text,
            normal_end: at.1 + normal,
            same,
        };
        push(out, next);
    };
    if part == made {
        return add(part.len(), made.len(), true);
    }
    if part.len() > SHORT {
        let common = |(x, y): &(char, char)| x == y;
        let length = |(char, _): (char, char)| char.len_utf8();
        let pairs = part.chars().zip(made.chars());
        let head: usize = pairs.take_while(common).map(length).sum();
        let (text, normal) = (&part[head..], &made[head..]);
        let pairs = text.chars().rev().zip(normal.chars().rev());
        let tail: usize = pairs.take_while(common).map(length).sum();
        if (head + tail) * 2 > part.len().max(made.len()) {
            if head > 0 {
                add(head, head, true);
            }
            add(part.len() - tail, made.len() - tail, false);
            if tail > 0 {
                add(part.len(), made.len(), true);
            }
            return;
        }
    }
    add(part.len(), made.len(), false);
}

/// Where a stretch is tried to be cut, in this order.
fn cuts(part: &str) -> Vec<usize> {
    let inner = |(at, _): &(usize, char)| *at > 0;
    let all: Vec<usize> = part
        .char_indices()
        .filter(inner)
        .take(SHORT)
        .map(|(at, _)| at)
        .collect();
    if all.len() < SHORT {
        return all;
    }
    let middle = floor(part, part.len() / 2);
    let (before, after) = part.split_at(middle);
    // What comes before a position, nearest first, and what comes after it.
    let mut edges = Vec::new();
    let mut near = Vec::new();
    let mut last = after.chars().next();
    for (at, char) in before.char_indices().rev() {
        if edges.len() == 4 {
            break;
        }
        let position = at + char.len_utf8();
        if last.is_some_and(|next| edge(char, next)) {
            edges.push(position);
        } else if near.len() < 4 {
            near.push(position);
        }
        last = Some(char);
    }
    let mut last = before.chars().next_back();
    let (mut later_edges, mut later) = (0, 0);
    for (at, char) in after.char_indices() {
        if later_edges == 4 {
            break;
        }
        if last.is_some_and(|previous| edge(previous, char)) {
            later_edges += 1;
            edges.push(middle + at);
        } else if later < 4 {
            later += 1;
            near.push(middle + at);
        }
        last = Some(char);
    }
    edges.sort_by_key(|at| at.abs_diff(middle));
    edges.extend(near);
    edges.retain(|at| *at > 0 && *at < part.len());
    edges.dedup();
    edges
}

/// Whether normalisers are likely to act on two neighbours by themselves.
fn edge(left: char, right: char) -> bool {
    let kind = |char: char| match char {
        _ if char.is_whitespace() => 0,
        _ if char.is_alphanumeric() => 1,
        _ => 2,
    };
    kind(left) != kind(right) && kind(right) != 2
}

/// The byte after `count` characters from `start`.
fn ceil_chars(text: &str, start: usize, count: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let next = rest.char_indices().nth(count);
    next.map_or(text.len(), |(at, _)| start + at)
}

/// The first border of characters at or after `at`, marks and joiners passed over.
fn after_marks(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    let rest = text.get(at..).unwrap_or_default();
    let joined = |char: char| !char.is_ascii() && !char.is_alphanumeric();
    let more = rest.chars().take(SHORT).take_while(|char| joined(*char));
    at + more.map(char::len_utf8).sum::<usize>()
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
