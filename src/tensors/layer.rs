//! The layer that a tensor belongs to, by its name.

/// Splits the name of a layer's tensor into what is before the layer's number, the number and
/// what is after it.
pub fn layer(name: &str) -> Option<(&str, usize, &str)> {
    const CONTAINERS: [&str; 5] = ["layers", "h", "blocks", "layer", "block"];
    let mut start = 0;
    let mut before = "";
    for part in name.split('.') {
        let end = start + part.len();
        if CONTAINERS.contains(&before)
            && let Ok(number) = part.parse::<usize>()
        {
            return Some((&name[..start], number, &name[end..]));
        }
        before = part;
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_first_number_in_a_container() {
        assert_eq!(
            layer("model.layers.12.mlp.experts.3.w1.weight"),
            Some(("model.layers.", 12, ".mlp.experts.3.w1.weight"))
        );
        assert_eq!(
            layer("transformer.h.0.ln"),
            Some(("transformer.h.", 0, ".ln"))
        );
        assert_eq!(layer("model.norm.weight"), None);
        assert_eq!(layer("a.3.b"), None);
    }
}
