//! Which tensors have one row for each token.

use crate::merge::inputs::Model;
use crate::tensors::layer;

/// Token embeddings and heads, as the architectures of transformers name them. All are outside
/// the layers, and their first dimension is the vocabulary.
const NAMES: &[&str] = &[
    // Llama, Mistral, Mixtral, Qwen2, Qwen3, Gemma, Phi-2, Phi-3 and most others.
    "model.embed_tokens.weight",
    "embed_tokens.weight",
    "lm_head.weight",
    "lm_head.bias",
    // InternLM2.
    "model.tok_embeddings.weight",
    "output.weight",
    // GPT-2, GPT-J, MPT, Qwen, StarCoder.
    "transformer.wte.weight",
    "wte.weight",
    // Falcon, BLOOM.
    "transformer.word_embeddings.weight",
    "word_embeddings.weight",
    // ChatGLM.
    "transformer.embedding.word_embeddings.weight",
    "transformer.output_layer.weight",
    // GPT-NeoX.
    "gpt_neox.embed_in.weight",
    "embed_out.weight",
    // OPT, T5.
    "model.decoder.embed_tokens.weight",
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    // Mamba.
    "backbone.embedding.weight",
    "backbone.embeddings.weight",
    // Language models of multimodal models.
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
];

/// Embeddings that every layer adds (Gemma 3n). They may have fewer rows than the token embedding:
/// the model reads row 0 for the tokens beyond.
const PER_LAYER: &[&str] = &[
    "model.embed_tokens_per_layer.weight",
    "model.language_model.embed_tokens_per_layer.weight",
    "language_model.model.embed_tokens_per_layer.weight",
];

/// Whether a tensor has one row for each token.
pub(in crate::merge) fn is_by_token(name: &str) -> bool {
    NAMES.contains(&name) || is_per_layer(name)
}

/// Whether a tensor has one row for each of the first tokens, and row 0 stands for the others.
pub(in crate::merge) fn is_per_layer(name: &str) -> bool {
    PER_LAYER.contains(&name)
}

/// Whether a tensor that is not known here may have one row for each of `rows` tokens: a matrix
/// outside the layers with so many rows, or one that is called so; in a layer, a table of integers
/// (`is_number` is false) with so many.
pub(in crate::merge) fn may_be_by_token(
    name: &str,
    shape: &[usize],
    rows: usize,
    is_number: bool,
) -> bool {
    !is_by_token(name)
        && (layer(name).is_none() || !is_number)
        && !["wpe", "position"].iter().any(|part| name.contains(part))
        && shape.len() > 1
        && (shape[0] == rows || is_called_embedding(name))
}

/// The rows that all embeddings and heads of a model have; none if it has no such tensor.
pub(super) fn rows(model: &Model) -> Option<usize> {
    let tensors = model.checkpoint.tensors();
    let tensors = tensors.filter(|tensor| NAMES.contains(&tensor.name.as_str()));
    tensors
        .filter_map(|tensor| tensor.shape.first().copied())
        .min()
}

/// Whether the module of a tensor is called as token embeddings are.
fn is_called_embedding(name: &str) -> bool {
    let module = name.rsplit('.').nth(1);
    module.is_some_and(|module| module.starts_with("embed_tokens"))
}
