//! How a checkpoint names and lays out its parameters.
//!
//! Parameters are kept exactly as a checkpoint has them (joined projections stay joined), so that
//! what is saved has the layout that was loaded. The list of parameters and the assembly of layers
//! both follow these names.

use crate::checkpoint::Checkpoint;

/// A family of decoders: `architectures[0]` of `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    pub(crate) class: &'static str,
    pub(crate) model_type: &'static str,
    pub(crate) names: &'static Names,
}

impl Architecture {
    /// The class name in `architectures`.
    pub fn name(self) -> &'static str {
        self.class
    }
}

/// Names of one convention; those of a layer follow `layers`, its number and a dot, and lack the
/// final `.weight` or `.bias`.
#[derive(Debug)]
pub(crate) struct Names {
    /// The token embedding.
    pub embedding: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// The head, where it is not the embedding.
    pub head: &'static str,
    /// What is before the number of a layer.
    pub layers: &'static str,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// The norms of queries and keys, where the configuration has them.
    pub head_norms: [&'static str; 2],
    /// The attention's output projection.
    pub output: &'static str,
    /// The feed-forward block.
    pub feed_forward: FeedForwardNames,
    /// The norm before the attention.
    pub input_norm: &'static str,
    /// The norm of what the attention adds.
    pub attention_norm: Option<&'static str>,
    /// The norm before the feed-forward block.
    pub middle_norm: &'static str,
    /// The norm of what the feed-forward block adds.
    pub feed_forward_norm: Option<&'static str>,
    /// The table of learned positions, which are added to embeddings.
    pub positions: Option<&'static str>,
    /// Whether the projections of layers are stored as in × out.
    pub transposed: bool,
    /// Other names in the checkpoints of models of which the decoder is a part.
    pub towers: Option<Towers>,
}

/// How models of several towers name the tensors of the decoder among them.
#[derive(Debug)]
pub(crate) struct Towers {
    /// What they have before names, each with what stands there in a decoder's own checkpoint.
    pub prefixes: &'static [(&'static str, &'static str)],
    /// What the names of the other towers' tensors begin with.
    pub others: &'static [&'static str],
}

impl Names {
    /// What is before the names of all tensors but the head's.
    pub fn prefix(&self) -> &'static str {
        let end = self.embedding.find('.').map_or(0, |dot| dot + 1);
        &self.embedding[..end]
    }

    /// The bias of the norm before the head, where it has one.
    pub fn final_norm_bias(&self) -> String {
        let module = self.final_norm.strip_suffix(".weight");
        format!("{}.bias", module.unwrap_or(self.final_norm))
    }

    /// The checkpoint of a decoder under these names, in whatever spelling it has them.
    pub fn rename(&self, checkpoint: Checkpoint) -> Checkpoint {
        let checkpoint = match &self.towers {
            Some(towers) => checkpoint.tower(towers.prefixes, towers.others),
            None => checkpoint,
        };
        checkpoint.prefixed(self.prefix(), self.head)
    }
}

/// The projections to queries, keys and values.
#[derive(Debug)]
pub(crate) enum QkvNames {
    /// Three matrices: queries, keys, values.
    Separate([&'static str; 3]),
    /// One matrix whose rows are all queries, then all keys, then all values.
    Joined(&'static str),
    /// One matrix whose rows are, for each key/value head, its queries, its key, its value.
    Grouped(&'static str),
}

/// The feed-forward block.
#[derive(Debug)]
pub(crate) enum FeedForwardNames {
    /// act(gate) · up, then down.
    Gated([&'static str; 3]),
    /// The same with gate and up in one matrix, gate first; then down.
    Joined([&'static str; 2]),
    /// act(up), then down.
    Plain([&'static str; 2]),
    /// A router, and numbered gated blocks of their own; in layers without experts, one such block.
    Experts {
        /// The router.
        router: &'static str,
        /// What is before the number of an expert.
        experts: &'static str,
        /// Gate, up and down of an expert.
        gated: [&'static str; 3],
        /// Those of a layer without experts.
        dense: [&'static str; 3],
    },
}
