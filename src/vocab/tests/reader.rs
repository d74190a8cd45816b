//! What must hold of the spans of any tokenizer, told from its file beside the code under test.

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use crate::vocab::{Encoded, Tokenizer};

/// The parts of a normaliser, a pre-tokenizer or a decoder.
fn parts<'a>(part: &'a Value, found: &mut Vec<&'a Value>) {
    for key in ["normalizers", "pretokenizers"] {
        for inner in part[key].as_array().into_iter().flatten() {
            parts(inner, found);
        }
    }
    if part["type"].is_string() && part["type"] != "Sequence" {
        found.push(part);
    }
}

/// What the property needs of a tokenizer, read from its file beside the code under test.
pub(super) struct Reader<'a> {
    name: &'a str,
    tokenizer: &'a Tokenizer,
    normalizers: Vec<NormalizerWrapper>,
    /// Some step drops blanks.
    drops_blanks: bool,
    /// Other text can be dropped: the model has no token for what it does not know.
    drops_more: bool,
    /// What a space is spelled as, by the normaliser.
    space: bool,
    /// Bytes are spelled by the normaliser.
    spelled: bool,
    unknown: Option<u32>,
    added: Vec<u32>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(name: &'a str, tokenizer: &'a Tokenizer, spec: &Value) -> Self {
        let (mut norms, mut pres) = (Vec::new(), Vec::new());
        parts(&spec["normalizer"], &mut norms);
        parts(&spec["pre_tokenizer"], &mut pres);
        let kind = |part: &&Value, kinds: &[&str]| {
            kinds.contains(&part["type"].as_str().unwrap_or_default())
        };
        let dropping = [
            "BertPreTokenizer",
            "Whitespace",
            "WhitespaceSplit",
            "CharDelimiterSplit",
        ];
        let model = &spec["model"];
        let unknown = match model["unk_token"].as_str() {
            Some(name) => model["vocab"][name].as_u64(),
            None => model["unk_id"].as_u64(),
        };
        // A prefix and stripped ends are no part of what a stretch of a text becomes.
        let local = norms
            .iter()
            .filter(|part| !kind(part, &["Prepend", "Strip"]));
        Self {
            name,
            tokenizer,
            normalizers: local
                .map(|part| serde_json::from_value((*part).clone()).unwrap())
                .collect(),
            drops_blanks: pres
                .iter()
                .any(|part| kind(part, &dropping) || part["behavior"] == "Removed")
                || norms.iter().any(|part| kind(part, &["Strip"])),
            // One pre-tokenizer drops what is of no script at the start of a text.
            drops_more: unknown.is_none() && model["byte_fallback"] != true
                || pres.iter().any(|part| kind(part, &["UnicodeScripts"])),
            space: norms
                .iter()
                .chain(&pres)
                .any(|part| kind(part, &["Metaspace"]) || part["content"] == "▁"),
            spelled: norms.iter().any(|part| kind(part, &["ByteLevel"])),
            unknown: unknown.map(|id| id as u32),
            added: spec["added_tokens"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|token| token["id"].as_u64().unwrap() as u32)
                .collect(),
        }
    }

    /// The normal form of a part of a text, as tokens have it.
    fn normal(&self, part: &str) -> String {
        let mut string = NormalizedString::from(part);
        for normalizer in &self.normalizers {
            normalizer.normalize(&mut string).unwrap();
        }
        let normal = string.get().to_owned();
        match self.space {
            true => normal.replace('▁', " "),
            false => normal,
        }
    }

    /// Whether the text may be cut here.
    fn border(&self, text: &str, at: usize) -> bool {
        text.is_char_boundary(at)
            && self.normal(&text[..at]) + &self.normal(&text[at..]) == self.normal(text)
    }

    /// The text of a token; none where it stands for anything.
    fn text(&self, id: u32, span: &[u8]) -> Option<Vec<u8>> {
        let token = self.tokenizer.vocabulary().token(id).unwrap();
        let span = String::from_utf8_lossy(span);
        let added = self.added.contains(&id);
        // A text can spell a token out: an added one, which is not normalised and can take blanks
        // along; Gemma's `▁▁`, which is made of blanks else; `<0x41>`.
        let spelled = [token.display.as_str(), span.trim()];
        if added && spelled[0].trim() == spelled[1] || spelled[0] == span {
            return Some(self.normal(&span).into_bytes());
        }
        if Some(id) == self.unknown {
            return None;
        }
        let content = std::str::from_utf8(&token.bytes).ok().filter(|_| added);
        Some(content.map_or(token.bytes.clone(), |text| self.normal(text).into_bytes()))
    }

    /// Whether tokens can have been made of a normalised run of the text.
    fn fits(&self, tokens: &[Option<Vec<u8>>], run: &str, prefixed: bool, more: bool) -> bool {
        let mut pattern: Vec<Option<u8>> = Vec::new();
        for token in tokens {
            match token {
                Some(bytes) => pattern.extend(bytes.iter().copied().map(Some)),
                None => pattern.push(None),
            }
        }
        let mut run = run.as_bytes().to_vec();
        if self.spelled {
            let spelled = String::from_utf8(run).unwrap();
            run = super::bytes_of_spelling(&spelled);
        }
        if self.drops_blanks {
            let text = String::from_utf8_lossy(&run).into_owned();
            run = text.split_whitespace().collect::<String>().into_bytes();
            pattern = squeezed(&pattern);
        }
        if matches(&pattern, &run, more) {
            return true;
        }
        let bare = pattern.strip_prefix(&[Some(b' ')]);
        prefixed && bare.is_some_and(|bare| matches(bare, &run, more))
    }

    /// The property: the bytes of each shortest run of tokens that begins and ends at borders of
    /// characters and of the normaliser, normalised, are the run's text.
    pub(super) fn check(&self, text: &str) -> Encoded {
        let name = self.name;
        let encoded = self.tokenizer.encode(text).unwrap();
        let Encoded { ids, byte_end } = &encoded;
        assert_eq!(ids.len(), byte_end.len(), "{name} {text:?}");
        assert!(byte_end.is_sorted(), "{name} {text:?}: {encoded:?}");
        if let Some(last) = byte_end.last() {
            assert_eq!(*last as usize, text.len(), "{name} {text:?}");
        }
        let mut start = 0;
        let mut at = 0;
        let mut run: Vec<Option<Vec<u8>>> = Vec::new();
        // A space can be added after an added token, and before a word whose blank was dropped.
        let mut prefixed = true;
        let mut first_prefixed = true;
        for (position, (id, end)) in ids.iter().zip(byte_end).enumerate() {
            let end = *end as usize;
            if run.is_empty() {
                first_prefixed = prefixed;
            }
            run.push(self.text(*id, &text.as_bytes()[at..end]));
            at = end;
            prefixed = self.added.contains(id);
            let last = position + 1 == ids.len();
            if !last && !self.border(text, end) {
                continue;
            }
            let blank = |bytes: &Option<Vec<u8>>| bytes.as_deref() == Some(b" ");
            if end == start && first_prefixed && run.iter().all(blank) {
                // An added space.
                prefixed = true;
            } else if end == start
                || !self.fits(
                    &run,
                    &self.normal(&text[start..end]),
                    first_prefixed,
                    self.drops_more,
                )
            {
                // It may end inside the text's next stretch, which another token completes.
                let inside = !last && self.is_inside(text, start..end, &run, first_prefixed);
                let (span, run) = (&text[start..end], shown(&run));
                assert!(
                    inside,
                    "{name} {text:?}: {span:?} is not {run:?}; {}",
                    self.shown(text, &encoded)
                );
                continue;
            }
            run.clear();
            start = end;
        }
        encoded
    }

    /// Whether tokens end inside the stretch of the text that follows theirs: with it, they and
    /// something more fit.
    fn is_inside(
        &self,
        text: &str,
        span: std::ops::Range<usize>,
        run: &[Option<Vec<u8>>],
        prefixed: bool,
    ) -> bool {
        let borders = (span.end + 1..=text.len()).filter(|end| self.border(text, *end));
        let mut stretches = borders.map(|end| self.normal(&text[span.start..end]));
        let before = self.normal(&text[span.clone()]);
        let Some(normal) = stretches.find(|normal| normal.trim() != before.trim()) else {
            return false;
        };
        let mut longer = run.to_vec();
        longer.push(None);
        let unknown = run.contains(&None);
        self.fits(&longer, &normal, prefixed, self.drops_more)
            && (unknown || !self.fits(run, &normal, prefixed, false))
    }

    fn shown(&self, text: &str, encoded: &Encoded) -> String {
        let mut at = 0;
        let tokens = encoded.ids.iter().zip(&encoded.byte_end).map(|(id, end)| {
            let span = String::from_utf8_lossy(&text.as_bytes()[at..*end as usize]).into_owned();
            at = *end as usize;
            let display = self.tokenizer.vocabulary().token(*id).map(|t| &t.display);
            format!("{display:?} {span:?}")
        });
        tokens.collect::<Vec<_>>().join(", ")
    }
}

fn shown(run: &[Option<Vec<u8>>]) -> Vec<String> {
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "<unk>".to_owned(),
    };
    run.iter().map(text).collect()
}

/// A pattern without blanks.
fn squeezed(pattern: &[Option<u8>]) -> Vec<Option<u8>> {
    // Unknown tokens part the text; blanks are characters of several bytes too.
    let mut out = Vec::new();
    for (at, part) in pattern.split(Option::is_none).enumerate() {
        if at > 0 {
            out.push(None);
        }
        let bytes: Vec<u8> = part.iter().flatten().copied().collect();
        for chunk in bytes.utf8_chunks() {
            let text: String = chunk.valid().split_whitespace().collect();
            out.extend(
                text.bytes()
                    .chain(chunk.invalid().iter().copied())
                    .map(Some),
            );
        }
    }
    out
}

/// Whether a text is what a pattern says, where none stands for anything; with `dropped`, there
/// may be more in the text.
fn matches(pattern: &[Option<u8>], text: &[u8], dropped: bool) -> bool {
    // For each length of the text, whether the pattern so far can be it.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        let mut any = false;
        for at in 0..=text.len() {
            any |= reached[at];
            match part {
                None => next[at] = any,
                Some(byte) if at > 0 && text[at - 1] == *byte => {
                    next[at] = match dropped {
                        true => reached[..at].contains(&true),
                        false => reached[at - 1],
                    };
                }
                Some(_) => {}
            }
        }
        reached = next;
    }
    reached[text.len()] || dropped && reached.contains(&true)
}
