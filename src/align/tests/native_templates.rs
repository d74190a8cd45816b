//! Transcripts by templates of their own.

use super::super::native::{Segment, by_offsets, links_of, segments};
use super::super::*;
use crate::text::{Message, Span, Transcript};
use crate::vocab::SpecialTokens;

/// A transcript from pieces of text with their roles.
fn transcript(pieces: &[(&str, &str)]) -> Transcript {
    let mut transcript = Transcript::default();
    for (role, text) in pieces {
        let start = transcript.text.len() as u32;
        transcript.text += text;
        transcript.spans.push(Span {
            role: (*role).to_owned(),
            byte_start: start,
            byte_end: transcript.text.len() as u32,
            supervised: *role == "assistant" || *role == "turn_end",
        });
    }
    transcript
}

fn tokens(text: &str, ends: &[u32]) -> SampleTokens {
    assert_eq!(*ends.last().unwrap() as usize, text.len());
    SampleTokens {
        sample_id: 0,
        ids: (0..ends.len() as u32).collect(),
        byte_end: ends.to_vec(),
        supervised: vec![true; ends.len()],
    }
}

#[test]
fn messages_are_paired_by_role_and_text() {
    let ours = transcript(&[
        ("template", "[S]"),
        ("system", "be kind"),
        ("template", "[U]"),
        ("user", " hi "),
        ("template", "[A]"),
        ("assistant", "<think>hm</think>\n\nok"),
        ("turn_end", "[E]"),
        ("user", "ok"),
        ("assistant", "yes"),
    ]);
    let theirs = transcript(&[
        ("user", "hi"),
        ("template", "<a>"),
        ("assistant", "ok"),
        ("turn_end", "</a>"),
        ("user", "ok"),
        ("template", "<a>"),
        ("assistant", "no"),
    ]);
    let (found, unmatched) = segments(&ours, &theirs);
    // The system message is not there, and the last answers differ.
    assert_eq!(unmatched, 2);
    let segment = |pivot, source, length, starts, ends, closers| Segment {
        pivot,
        source,
        length,
        starts,
        ends,
        closers,
    };
    assert_eq!(
        found,
        [
            segment(14, 0, 2, false, false, None),
            segment(39, 5, 2, false, true, Some(((41, 44), (7, 11)))),
            segment(44, 11, 2, true, true, None),
        ]
    );
    // The same template: everything that is a message, byte for byte.
    let (same, unmatched) = segments(&ours, &ours);
    assert_eq!((same.len(), unmatched), (5, 0));
    assert!(
        same.iter()
            .all(|s| s.pivot == s.source && s.starts && s.ends)
    );
}

#[test]
fn a_short_message_is_not_found_in_a_long_one() {
    let ours = transcript(&[("user", "tell me a joke")]);
    let theirs = transcript(&[("user", "joke")]);
    assert_eq!(segments(&ours, &theirs).1, 1);
    let blank = transcript(&[("user", "  ")]);
    assert_eq!(segments(&ours, &blank).1, 1);
}

#[test]
fn links_lie_within_messages() {
    let ours = transcript(&[
        ("template", "[A]"),
        ("assistant", "so so"),
        ("turn_end", "[E]"),
    ]);
    let theirs = transcript(&[
        ("template", "<bot> "),
        ("assistant", "so so"),
        ("turn_end", "</s>"),
        ("template", "\n"),
    ]);
    // [A] | so | ' so' | [E]     <bot> | ' so' (straddles) | ' ' | so | </s> | \n
    let pivot = tokens(&ours.text, &[0, 3, 5, 8, 11]);
    let source = tokens(&theirs.text, &[0, 5, 8, 9, 11, 15, 16]);
    let (segments, _) = segments(&ours, &theirs);
    let links = links_of(&pivot, &source, &segments, by_offsets);
    let rows: Vec<_> = links
        .iter()
        .map(|l| (l.kind.name(), l.source_begin, l.source_end, l.source_pos))
        .collect();
    assert_eq!(
        rows,
        [
            ("1-1", 0, 1, None),
            // The source's first token of the message began before it: nothing ends there.
            ("none", 0, 0, None),
            ("1-1", 2, 3, Some(2)),
            ("1-n", 3, 5, Some(4)),
            ("1-1", 5, 6, Some(5)),
        ]
    );
    // Where a token of the source ends with its template, both are about to say the first word.
    let source = tokens(&theirs.text, &[0, 6, 8, 9, 11, 15, 16]);
    let links = links_of(&pivot, &source, &segments, by_offsets);
    assert_eq!(links[1].source_pos, Some(1));
    assert_eq!(links[1].kind, LinkKind::Unlinked);
}

/// Chats by the templates of real models, each with its own tokenizer.
#[test]
fn real_templates_and_tokenizers() {
    use crate::text::ChatTemplate;
    use crate::vocab::Tokenizer;

    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let tokenizers = Path::new(&shared).join("assets/tokenizers");
    let chats = Path::new(&shared).join("assets/text/chat/fastchat_dummy_conversation.json");
    if !chats.is_file() {
        eprintln!("skipped: no {}", chats.display());
        return;
    }
    let model = |tokenizer: &str, template: &str, bos: Option<&str>, eos: &str| {
        let path = tokenizers.join("_chat_templates").join(template);
        let source = std::fs::read_to_string(&path).unwrap();
        let template = ChatTemplate::from_source(template, &source, bos, Some(eos)).unwrap();
        let tokenizer = Tokenizer::load(&tokenizers.join(tokenizer)).unwrap();
        (tokenizer, template)
    };
    let qwen = model(
        "qwen2",
        "Qwen-Qwen2.5-7B-Instruct.jinja",
        None,
        "<|im_end|>",
    );
    let llama = model(
        "llama-3",
        "meta-llama-Llama-3.1-8B-Instruct.jinja",
        Some("<|begin_of_text|>"),
        "<|eot_id|>",
    );
    let pair = [&qwen, &llama];
    let mut linked = 0;
    for record in text::read(&chats, None).unwrap().take(40) {
        let mut chat = record.unwrap().chat;
        // Llama's template trims.
        for message in &mut chat.messages {
            *message = Message::new(&message.role, format!(" {}", message.content()));
        }
        let [ours, theirs] =
            pair.map(|(_, template)| text::transcript(&chat, Some(template)).unwrap().transcript);
        let (found, unmatched) = segments(&ours, &theirs);
        assert_eq!((found.len(), unmatched), (chat.messages.len(), 0));
        let sample = |transcript: &Transcript, tokenizer: &Tokenizer| {
            let row = tokenizer
                .encode_transcript(transcript, None, SpecialTokens::Text)
                .unwrap();
            SampleTokens {
                sample_id: 0,
                ids: row.ids,
                byte_end: row.byte_end,
                supervised: row.supervised,
            }
        };
        let (pivot, source) = (sample(&ours, &qwen.0), sample(&theirs, &llama.0));
        let options = AlignOptions {
            spans: Spans::Dtw,
            ..AlignOptions::default()
        };
        let mut warp = Warp::new(qwen.0.vocabulary(), llama.0.vocabulary(), &options).unwrap();
        let warped = links_of(&pivot, &source, &found, |a, b| warp.links(a, b));
        let links = links_of(&pivot, &source, &found, by_offsets);
        for (pos, (link, warped)) in links.iter().zip(&warped).enumerate() {
            let Some(source_pos) = link.source_pos else {
                continue;
            };
            linked += 1;
            let end = pivot.byte_end[pos] as usize;
            let their_end = source.byte_end[source_pos as usize] as usize;
            if link.kind == LinkKind::Unlinked {
                // Both are about to say the first word of a message.
                assert_eq!(
                    &ours.text.as_bytes()[end..=end],
                    &theirs.text.as_bytes()[their_end..=their_end]
                );
                continue;
            }
            assert_eq!(
                warped.kind == LinkKind::Unlinked,
                link.kind == LinkKind::Unlinked
            );
            let segment = found
                .iter()
                .find(|s| (s.pivot as usize) < end && end <= (s.pivot + s.length) as usize);
            if let Some(segment) = segment {
                let read = &ours.text[segment.pivot as usize..end];
                let theirs_read = &theirs.text[segment.source as usize..their_end];
                assert_eq!(read, theirs_read);
            }
        }
    }
    assert!(linked > 200, "{linked}");
}
