//! LoRA adapters in PEFT's format.

mod adapter;
mod extract;
mod low_rank;

pub use adapter::{Adapter, WEIGHTS};
pub use extract::{ExtractOptions, Extracted, extract};
pub use low_rank::Update;
