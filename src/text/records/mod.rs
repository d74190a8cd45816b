//! Records of chat and text files.
//!
//! ```text
//! file ─► kinds (its first bytes) ─► values (JSON, Parquet rows) ─► shapes ─► record ─► Chat
//!                                                                     └─► notes: what is not read
//! ```

mod columns;
mod fields;
mod formats;
mod kinds;
mod lenient;
mod messages;
mod notes;
mod record;
mod shapes;
#[cfg(test)]
mod tests;
mod values;

pub use fields::Fields;
pub use formats::{Bad, BadReason, Format, RawRecord, Reading, Record, Records, read, read_as};
pub use notes::{Notes, Owner, Tally, UNREAD_REMEDY, Unread};
pub(crate) use values::stored_json;
pub use values::{Numbers, Values, values};
