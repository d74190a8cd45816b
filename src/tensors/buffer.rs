//! Tensors in checkpoints that are no weights.

/// Whether a tensor is a buffer that older programs stored with the weights, and that models
/// compute themselves: frequencies and angles of rotary embeddings, masks of causal attention (a
/// triangle as a tensor of four dimensions, and the number under it, which is infinite in some files),
/// numbers of positions.
pub fn is_buffer(name: &str, shape: &[usize]) -> bool {
    let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
    let parent = module.rsplit('.').next().unwrap_or("");
    match last {
        "inv_freq" | "cos_cached" | "sin_cached" => parent == "rotary_emb",
        "bias" => {
            matches!(parent, "attn" | "attention" | "crossattention")
                && matches!(shape, [1, 1, rows, columns] if rows == columns)
        }
        "masked_bias" => shape.iter().product::<usize>() == 1,
        "position_ids" => parent == "embeddings" && matches!(shape, [_] | [1, _]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_known_by_name_and_shape() {
        for (name, shape) in [
            ("model.layers.0.self_attn.rotary_emb.inv_freq", &[4][..]),
            ("gpt_neox.layers.1.attention.rotary_emb.inv_freq", &[4]),
            ("gpt_neox.layers.1.attention.bias", &[1, 1, 8, 8]),
            ("gpt_neox.layers.1.attention.masked_bias", &[]),
            ("h.0.attn.bias", &[1, 1, 8, 8]),
            ("transformer.h.0.attn.masked_bias", &[1]),
            ("bert.embeddings.position_ids", &[1, 8]),
            ("embeddings.position_ids", &[8]),
        ] {
            assert!(is_buffer(name, shape), "{name}");
        }
        for (name, shape) in [
            ("h.0.attn.bias", &[8][..]),
            ("h.0.attn.c_attn.bias", &[24]),
            ("layers.0.attention.bias", &[1, 8, 8]),
            ("layers.0.attention.bias", &[1, 4, 8, 8]),
            ("layers.0.masked_bias", &[2]),
            ("inv_freq", &[4]),
            ("embeddings.position_embeddings.weight", &[8, 4]),
        ] {
            assert!(!is_buffer(name, shape), "{name}");
        }
    }
}
