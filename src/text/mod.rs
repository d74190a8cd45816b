//! Chat and text files, chat templates, and transcripts.
//!
//! [`read`] yields the records of a file in any of the usual shapes, [`ChatTemplate`] renders
//! the messages of one as a model's own template does, and [`transcript()`] derives from the
//! template where each message stands in the rendering, so that the parts from which a model learns
//! are known by their bytes.

mod chat;
mod columns;
mod fields;
#[cfg(test)]
mod file_tests;
mod formats;
mod json;
mod kinds;
mod lenient;
#[cfg(test)]
mod message_tests;
mod messages;
mod notes;
mod record;
#[cfg(test)]
mod record_tests;
mod rows;
mod shapes;
mod special;
mod template;
#[cfg(test)]
mod tests;
mod transcript;
mod turns;
#[cfg(test)]
mod turns_tests;
mod values;

pub use chat::{Chat, Message};
pub use fields::Fields;
pub use formats::{Bad, BadReason, Format, RawRecord, Reading, Record, Records, read, read_as};
pub use json::read_json;
pub use notes::{Notes, Owner, Tally, UNREAD_REMEDY, Unread};
pub use rows::{SampleTranscript, check_text_size, read_transcripts, transcripts_to_batch};
pub(crate) use special::TokenFacts;
pub use template::{ChatTemplate, DEFAULT_DATE, TURN_ENDS};
pub(crate) use transcript::Overlap;
pub use transcript::{Span, Transcribed, Transcript, transcript};
pub use turns::Unplaced;
pub(crate) use values::stored_json;
pub use values::{Numbers, Values, values};
