//! Chat and text files, chat templates, and transcripts.
//!
//! [`read`] yields the records of a file in any of the usual shapes, [`ChatTemplate`] renders
//! the messages of one as a model's own template does, and [`transcript()`] derives from the
//! template where each message stands in the rendering, so that the parts from which a model learns
//! are known by their bytes.

mod chat;
mod json;
mod records;
mod rows;
mod special;
mod template;
#[cfg(test)]
mod tests;
mod transcript;
mod turns;

pub use chat::{Chat, Message};
pub(crate) use records::stored_json;
pub use records::{
    Bad, BadReason, Fields, Format, Notes, Numbers, Owner, RawRecord, Reading, Record, Records,
    Tally, UNREAD_REMEDY, Unread, Values, read, read_as, values,
};
pub use rows::{SampleTranscript, check_text_size, read_transcripts, transcripts_to_batch};
pub(crate) use special::TokenFacts;
pub use template::{ChatTemplate, DEFAULT_DATE, TURN_ENDS, chat_template_of};
pub(crate) use transcript::Overlap;
pub use transcript::{Span, Transcribed, Transcript, transcript};
pub use turns::Unplaced;
