//! What a model says about the next tokens of samples.
//!
//! A [`Predictor`] is a model in memory or, read layer by layer, on disk (`stream`, whose memory
//! `offload` computes); [`predict()`] runs it over samples in batches of like length (`batch`);
//! [`next_token`] turns hidden states into log-probabilities without ever holding the logits of a
//! whole batch, of the most probable tokens or of random [`Draws`].

mod batch;
mod draws;
mod logprobs;
mod offload;
mod predictor;
mod stream;

pub use batch::{PredictOptions, Predictions};
pub use draws::Draws;
pub use logprobs::{Listed, NextToken, Wanted, next_token};
pub use offload::DEFAULT_OFFLOAD;
pub use predictor::{Predictor, predict};
pub use stream::Streamed;
