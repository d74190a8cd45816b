//! Chat and text files, chat templates, and transcripts.
//!
//! [`read`] yields the records of a file in any of the usual shapes, [`ChatTemplate`] renders
//! the messages of one as a model's own template does, and [`transcript()`] finds each message in
//! the rendering again, so that the parts from which a model learns are known by their bytes.

mod formats;
mod json;
mod rows;
mod shapes;
mod template;
#[cfg(test)]
mod tests;
mod transcript;
mod values;

pub use formats::{Format, Message, Record, Records, read};
pub use json::read_json;
pub use rows::{SampleTranscript, check_text_size, read_transcripts, transcripts_to_batch};
pub use template::{ChatTemplate, DEFAULT_DATE, TURN_ENDS};
pub(crate) use transcript::Overlap;
pub use transcript::{Span, Transcript, transcript};
pub use values::{Numbers, Values, values};
