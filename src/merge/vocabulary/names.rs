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

/// Whether a tensor has one row for each token.
pub(in crate::merge) fn is_by_token(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether a tensor that is not known here may have one row for each of `rows` tokens: a matrix
/// outside the layers with so many rows.
pub(in crate::merge) fn may_be_by_token(name: &str, shape: &[usize], rows: usize) -> bool {
    !is_by_token(name)
        && layer(name).is_none()
        && !["wpe", "position"].iter().any(|part| name.contains(part))
        && shape.len() > 1
        && shape[0] == rows
}

/// The rows that all embeddings and heads of a model have; none if it has no such tensor.
pub(super) fn rows(model: &Model) -> Option<usize> {
    let tensors = model.checkpoint.tensors();
    let tensors = tensors.filter(|tensor| is_by_token(&tensor.name));
    tensors
        .filter_map(|tensor| tensor.shape.first().copied())
        .min()
}
