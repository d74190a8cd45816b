//! Chat and text files, chat templates, and transcripts.
//!
//! [`read`] yields the records of a file in any of the usual shapes, [`ChatTemplate`] renders
//! the messages of one as a model's own template does, and [`transcript()`] derives from the
//! template where each message stands in the rendering, so that the parts from which a model learns
//! are known by their bytes.

mod chat;
mod formats;
mod json;
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
pub use formats::{Format, Record, Records, read};
pub use json::read_json;
pub use rows::{SampleTranscript, check_text_size, read_transcripts, transcripts_to_batch};
pub(crate) use special::TokenFacts;
pub use template::{ChatTemplate, DEFAULT_DATE, TURN_ENDS};
pub(crate) use transcript::Overlap;
pub use transcript::{Span, Transcribed, Transcript, transcript};
pub use turns::Unplaced;
pub use values::{Numbers, Values, values};
