//! Tokens of a transcript: BOS first, special tokens exchanged by role.

use std::borrow::Cow;

use super::{Encoded, Role, SpecialTokens, Tokenizer};
use crate::error::Result;
use crate::text::{Overlap, Transcript};

/// The tokens of one transcript in one vocabulary; the three lists are parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRow {
    /// The tokens; the first is BOS (EOS where there is none), of zero width.
    pub ids: Vec<u32>,
    /// The byte of the transcript at which each ends: never decreasing, the last is its length.
    pub byte_end: Vec<u32>,
    /// Whether a model is to predict it: it overlaps a supervised span, or has no width and stands
    /// before a byte of one. The first is not predicted.
    pub supervised: Vec<bool>,
}

/// A special token of the template's that the transcript spells out.
struct Special {
    start: usize,
    end: usize,
    /// This vocabulary's own token of the same role.
    own: Option<u32>,
}

impl Tokenizer {
    /// Tokenises a transcript. With `pivot` (the tokenizer whose template made the transcript,
    /// where that is another one), each special token that the template writes becomes this
    /// tokenizer's own token of the same role, over the same bytes; one without a counterpart
    /// is tokenised as text, and its tokens are supervised only where it is content (a chat about
    /// such tokens), which every model is measured on. `special_tokens` says what contents are
    /// that spell special tokens out.
    ///
    /// # Errors
    /// No BOS and no EOS token, a text of 4 GiB or more; those of [`Tokenizer::encode`].
    pub fn encode_transcript(
        &self,
        transcript: &Transcript,
        pivot: Option<&Self>,
        special_tokens: SpecialTokens,
    ) -> Result<TokenRow> {
        let text = transcript.text.as_str();
        let pivot = pivot.filter(|pivot| pivot.vocabulary().digest != self.vocabulary().digest);
        let contents: Vec<(u32, u32)> = match special_tokens {
            SpecialTokens::Text => transcript.contents().collect(),
            SpecialTokens::Tokens => Vec::new(),
        };
        let specials = match pivot {
            Some(pivot) => self.counterparts(text, pivot, &contents),
            None => Vec::new(),
        };
        let own = exchange(text, &specials, self);
        let encoded = match self.spells_out(&own, pivot.is_some(), &contents) {
            false => self.encode_exchanged(&own, transcript.bos)?,
            true => {
                let literal = self.literal(text)?;
                let own = match pivot {
                    Some(_) => exchange(text, &specials, literal),
                    None => {
                        let own = outside(self.spelled(text), &contents);
                        let own = own.map(|(start, end, id)| Special {
                            start,
                            end,
                            own: Some(id),
                        });
                        exchange(text, &own.collect::<Vec<_>>(), literal)
                    }
                };
                literal.encode_exchanged(&own, transcript.bos)?
            }
        };
        let (mut ids, mut byte_end) = (vec![self.first_id()?], vec![0]);
        ids.extend(encoded.ids);
        byte_end.extend(encoded.byte_end);
        let content = transcript.content();
        let mut content = Overlap::of(&content);
        let foreign: Vec<(u32, u32)> = specials
            .iter()
            .filter(|special| special.own.is_none())
            .map(|special| (special.start as u32, special.end as u32))
            .filter(|(start, end)| !content.with(*start, *end))
            .collect();
        let supervised = supervised(&byte_end, transcript, &foreign);
        Ok(TokenRow {
            ids,
            byte_end,
            supervised,
        })
    }

    /// Whether a text spells special tokens of this tokenizer where it should not: in contents,
    /// or where the template of another writes text.
    fn spells_out(&self, own: &Exchanged, foreign: bool, contents: &[(u32, u32)]) -> bool {
        if contents.is_empty() {
            return false;
        }
        let mut contents = Overlap::of(contents);
        let mut moves = own.moves.iter().peekable();
        // What is spelled across a border is as much of the content as of the template.
        self.spelled(&own.text).into_iter().any(|(start, end, _)| {
            while moves.next_if(|next| next.own_end <= start).is_some() {}
            let meant = moves
                .peek()
                .is_some_and(|next| next.own_start <= start && end <= next.own_end);
            !meant && (foreign || contents.with(start as u32, end as u32))
        })
    }

    /// The tokens of an exchanged text, with their ends in the transcript; `bos` says whether its
    /// template writes BOS before it.
    fn encode_exchanged(&self, own: &Exchanged, bos: bool) -> Result<Encoded> {
        let encoded = match bos {
            true => self.encode_after_bos(&own.text)?,
            false => self.encode(&own.text)?,
        };
        Ok(Encoded {
            byte_end: moved(&encoded.byte_end, &own.moves).collect(),
            ids: encoded.ids,
        })
    }

    /// The pivot's special tokens in `text` outside contents, with this tokenizer's own of the same
    /// role.
    fn counterparts(&self, text: &str, pivot: &Self, contents: &[(u32, u32)]) -> Vec<Special> {
        // What closes a turn is more than an end of text where a token is both.
        const ORDER: [Role; 6] = [
            Role::TurnEnd,
            Role::TurnStart,
            Role::Eos,
            Role::Bos,
            Role::Pad,
            Role::Unk,
        ];
        let theirs = pivot.vocabulary();
        let special = |(start, end, id)| {
            let mut roles = ORDER.into_iter();
            let own = roles
                .by_ref()
                .filter(|role| theirs.id_with_role(*role) == Some(id));
            Special {
                start,
                end,
                own: { own }.find_map(|role| self.vocabulary().id_with_role(role)),
            }
        };
        outside(pivot.spelled(text), contents)
            .map(special)
            .collect()
    }
}

/// The places that overlap no content.
fn outside(
    places: Vec<(usize, usize, u32)>,
    contents: &[(u32, u32)],
) -> impl Iterator<Item = (usize, usize, u32)> {
    let mut contents = Overlap::of(contents);
    let places = places.into_iter();
    places.filter(move |(start, end, _)| !contents.with(*start as u32, *end as u32))
}

/// A text with a tokenizer's own special tokens in place of the template's.
struct Exchanged<'a> {
    text: Cow<'a, str>,
    moves: Vec<Move>,
}

/// A stretch of the exchanged text and the stretch of the transcript that it stands for.
struct Move {
    own_start: usize,
    own_end: usize,
    start: usize,
    end: usize,
}

/// The text as a tokenizer reads it.
fn exchange<'a>(text: &'a str, specials: &[Special], tokenizer: &Tokenizer) -> Exchanged<'a> {
    if specials.iter().all(|special| special.own.is_none()) {
        return Exchanged {
            text: Cow::Borrowed(text),
            moves: Vec::new(),
        };
    }
    let mut own = String::with_capacity(text.len());
    let mut moves = Vec::with_capacity(specials.len());
    let mut at = 0;
    for special in specials {
        let token = special.own.and_then(|id| tokenizer.vocabulary().token(id));
        let Some(spelling) = token.and_then(|token| std::str::from_utf8(&token.bytes).ok()) else {
            continue;
        };
        own.push_str(text.get(at..special.start).unwrap_or_default());
        let own_start = own.len();
        own.push_str(spelling);
        moves.push(Move {
            own_start,
            own_end: own.len(),
            start: special.start,
            end: special.end,
        });
        at = special.end;
    }
    own.push_str(text.get(at..).unwrap_or_default());
    Exchanged {
        text: Cow::Owned(own),
        moves,
    }
}

/// Ends in the exchanged text as ends in the transcript; inside an exchanged token, its start.
fn moved<'a>(ends: &'a [u32], moves: &'a [Move]) -> impl Iterator<Item = u32> + 'a {
    let mut passed = 0;
    ends.iter().map(move |end| {
        let end = *end as usize;
        while moves.get(passed).is_some_and(|next| next.own_end <= end) {
            passed += 1;
        }
        let (own, text) = match passed.checked_sub(1).and_then(|last| moves.get(last)) {
            Some(last) => (last.own_end, last.end),
            None => (0, 0),
        };
        match moves.get(passed).filter(|next| end > next.own_start) {
            Some(next) => next.start as u32,
            None => (text + end - own) as u32,
        }
    })
}

/// Whether each token overlaps a supervised span and no foreign special token of the template.
fn supervised(byte_end: &[u32], transcript: &Transcript, foreign: &[(u32, u32)]) -> Vec<bool> {
    let learned: Vec<(u32, u32)> = transcript
        .spans
        .iter()
        .filter(|span| span.supervised)
        .map(|span| (span.byte_start, span.byte_end))
        .collect();
    let (mut wanted, mut unwanted) = (Overlap::of(&learned), Overlap::of(foreign));
    let mut start = 0;
    byte_end
        .iter()
        .enumerate()
        .map(|(at, end)| {
            let (from, to) = (start, *end);
            start = to;
            let overlaps = wanted.with(from, to);
            overlaps & !unwanted.with(from, to) & (at > 0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    /// The sample pivot's tokenizer with one more special token, which has no role.
    fn pivot(dir: &Path) -> Tokenizer {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples/models/pivot");
        let text = std::fs::read_to_string(from.join("tokenizer.json")).unwrap();
        let mut spec: Value = serde_json::from_str(&text).unwrap();
        let tokens = spec["added_tokens"].as_array_mut().unwrap();
        let mut tool = tokens[0].clone();
        (tool["id"], tool["content"]) = (json!(1024), json!("<|tool|>"));
        tokens.push(tool);
        std::fs::write(dir.join("tokenizer.json"), spec.to_string()).unwrap();
        let config = "tokenizer_config.json";
        std::fs::copy(from.join(config), dir.join(config)).unwrap();
        Tokenizer::load(dir).unwrap()
    }

    /// Bytes that the supervised tokens of a row cover.
    fn covered(row: &TokenRow) -> Vec<u32> {
        let starts = std::iter::once(&0).chain(&row.byte_end);
        let ranges = starts.zip(&row.byte_end).zip(&row.supervised);
        ranges
            .filter(|(_, supervised)| **supervised)
            .flat_map(|((start, end), _)| *start..*end)
            .collect()
    }

    /// What a tokenizer puts before a text costs a model as much as the text.
    #[test]
    fn tokens_without_a_width_are_supervised_with_the_byte_after_them() {
        let content = Transcript::of_parts(&[
            ("user", "ab", false),
            ("assistant", "cd", true),
            ("turn_end", "!", true),
            ("user", "ef", false),
        ]);
        let ends = [0, 0, 2, 2, 3, 3, 4, 4, 5, 5, 7];
        let learned = supervised(&ends, &content, &[]);
        let yes = |places: &[usize]| -> Vec<bool> {
            (0..ends.len()).map(|at| places.contains(&at)).collect()
        };
        assert_eq!(learned, yes(&[3, 4, 5, 6, 7, 8]));
        assert_eq!(content.content_tokens(&ends), yes(&[3, 4, 5, 6]));
        // BOS is not predicted, a prefix after it is.
        let plain = Transcript::plain("ab").unwrap();
        assert_eq!(supervised(&[0, 0, 2], &plain, &[]), [false, true, true]);
        assert_eq!(plain.content_tokens(&[0, 0, 2]), [false, true, true]);
    }

    /// A source without a counterpart reads it as text: content counts for it as for the pivot,
    /// what the template writes for neither.
    #[test]
    fn a_special_token_without_a_counterpart_is_supervised_where_it_is_content() {
        let dir = tempfile::tempdir().unwrap();
        let pivot = pivot(dir.path());
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples/models");
        for name in ["market", "atlas"] {
            let source = Tokenizer::load(&models.join(name)).unwrap();
            let content = Transcript::of_parts(&[
                ("user", "what does", false),
                ("assistant", "ask <|tool|> now", true),
                ("template", "<|tool|>", false),
            ]);
            let row = source
                .encode_transcript(&content, Some(&pivot), SpecialTokens::Text)
                .unwrap();
            let covered_content = covered(&row);
            assert!(
                (9..25).all(|byte| covered_content.contains(&byte)),
                "{name}"
            );
            assert!(!covered_content.contains(&26), "{name}");
            let counted = content.content_tokens(&row.byte_end);
            let supervised = row.supervised.iter().zip(&counted);
            assert!(supervised.clone().all(|(a, b)| a == b), "{name}");

            let end =
                Transcript::of_parts(&[("assistant", "yes", true), ("turn_end", "<|tool|>", true)]);
            let row = source
                .encode_transcript(&end, Some(&pivot), SpecialTokens::Text)
                .unwrap();
            assert_eq!(covered(&row), [0, 1, 2], "{name}");
            // To the pivot it is a token that closes the turn, and no content.
            let row = pivot
                .encode_transcript(&end, None, SpecialTokens::Text)
                .unwrap();
            let counted = end.content_tokens(&row.byte_end);
            assert_eq!(row.supervised.last(), Some(&true));
            assert_eq!(counted.last(), Some(&false));
        }
    }
}
