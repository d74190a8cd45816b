//! What a decoder is made of, from the embeddings to the norm before the head.
//!
//! A [`Layer`] is attention ([`qkv`]) and a [`feed_forward`] block, with a [`norm`] before each;
//! [`parts`] makes one from the parameters of a checkpoint; [`direct`] is the common kind of layer,
//! forward and back without a graph.

mod direct;
mod embedder;
mod feed_forward;
mod layer;
mod linear;
mod norm;
mod parts;
mod positions;
mod qkv;

pub(crate) use direct::{Direct, Kept, is_plain, norm_backward};
pub(crate) use embedder::Embedder;
pub(crate) use layer::{KeyValue, Layer};
pub(crate) use norm::Norm;
pub(crate) use positions::Positions;
pub use positions::Rotary;
