//! Heads that are the embedding, and heads of their own.
//!
//! `tie_word_embeddings` says that the head is the embedding. A file may hold both nevertheless: equal
//! ones are one tensor; of two that differ, both count, as in transformers. A model without a stored
//! head has the embedding in its place, unless its configuration says that the two are not tied.

use serde_json::Value;

use crate::checkpoint::Checkpoint;

/// The field of `config.json`.
pub(super) const FIELD: &str = "tie_word_embeddings";

/// Heads, as the architectures of transformers name them.
const HEADS: [&str; 5] = [
    "lm_head.weight",
    "language_model.lm_head.weight",
    "output.weight",
    "embed_out.weight",
    "transformer.output_layer.weight",
];

/// The embeddings that they may be tied to.
const EMBEDDINGS: [&str; 16] = [
    "model.embed_tokens.weight",
    "embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.tok_embeddings.weight",
    "transformer.wte.weight",
    "wte.weight",
    "transformer.word_embeddings.weight",
    "word_embeddings.weight",
    "gpt_neox.embed_in.weight",
    "embed_in.weight",
    "shared.weight",
    "model.shared.weight",
    "model.decoder.embed_tokens.weight",
    "backbone.embeddings.weight",
    "backbone.embedding.weight",
];

/// How a model's head and its embedding belong together.
pub(super) struct Tie {
    /// The embedding, if the model has one that is known.
    embedding: Option<&'static str>,
    /// The stored head, if there is one.
    head: Option<&'static str>,
    /// What the configuration says.
    stated: Option<bool>,
    /// Whether the stored head is another tensor than the embedding.
    separate: bool,
    /// Whether an adapter makes two tensors of them.
    untied: bool,
    /// The embedding, where an adapter makes a head of it: `head` is then not stored.
    adapted: Option<&'static str>,
}

impl Tie {
    /// Looks at the tensors of `checkpoint` and at its `config.json`. Reads a head and its embedding
    /// where both are stored and may be one, as far as they agree.
    pub fn of(checkpoint: &Checkpoint, config: &Value) -> Self {
        let stored = |name: &&&str| checkpoint.info(name).is_some();
        let embedding = EMBEDDINGS.iter().find(stored).copied();
        let head = HEADS.iter().find(stored).copied();
        let nested = || config.get("text_config")?.get(FIELD);
        let stated = config.get(FIELD).or_else(nested).and_then(Value::as_bool);
        let separate = match (head, embedding, stated) {
            (Some(_), None, _) | (Some(_), _, Some(false)) => true,
            (Some(head), Some(embedding), _) => checkpoint.differ(head, embedding),
            (None, ..) => false,
        };
        Self {
            embedding,
            head,
            stated,
            separate,
            untied: false,
            adapted: None,
        }
    }

    /// The names of embedding and head, where they are one tensor.
    pub fn tied(&self) -> Option<[&'static str; 2]> {
        let embedding = self.embedding?;
        match self.head {
            Some(head) => {
                (self.stated == Some(true) && !self.separate).then_some([embedding, head])
            }
            None if self.stated == Some(false) => None,
            None => {
                let nested = embedding.starts_with("language_model.");
                Some([embedding, HEADS[usize::from(nested)]])
            }
        }
    }

    /// Makes two tensors of embedding and head, where they are one: an adapter changes one of them.
    pub fn untie(&mut self) {
        if let Some([embedding, head]) = self.tied() {
            self.adapted = self.head.is_none().then_some(embedding);
            (self.head, self.separate, self.untied) = (Some(head), true, true);
            // What the configuration says of the model without its adapter is no contradiction.
            self.stated = Some(false);
        }
    }

    /// The name under which a tensor is stored.
    pub fn stored<'a>(&self, name: &'a str) -> &'a str {
        match self.adapted {
            Some(embedding) if self.head == Some(name) => embedding,
            _ => name,
        }
    }

    /// The head, if it is another tensor than the embedding.
    pub fn separate_head(&self) -> Option<&'static str> {
        self.head.filter(|_| self.separate)
    }

    /// Whether a separate head contradicts the configuration.
    pub fn is_contradicted(&self) -> bool {
        self.separate && self.stated == Some(true)
    }

    /// Whether the model's configuration does not say that the head is another tensor: it ties the two,
    /// or an adapter makes two tensors of one.
    pub fn is_unsaid(&self) -> bool {
        self.untied || self.is_contradicted()
    }

    /// The stored tensor that stands for `name`, which the model lacks: the other one of the two.
    pub fn instead_of(&self, name: &str) -> Option<&'static str> {
        if self.stated == Some(false) {
            return None;
        }
        if HEADS.contains(&name) && self.head.is_none() {
            return self.embedding;
        }
        match EMBEDDINGS.contains(&name) && self.embedding.is_none() {
            true => self.head,
            false => None,
        }
    }

    /// Whether a tensor is a second copy of the embedding.
    pub fn is_copy(&self, name: &str) -> bool {
        self.stated == Some(true)
            && !self.separate
            && self.head == Some(name)
            && self.embedding.is_some()
    }
}
