//! How far layers look back, by `config.json`.

use super::family::Windows;
use super::fields::Fields;
use crate::error::Result;

impl Windows {
    /// For each of `layers`, how many positions (itself included) a token sees; `None` is all.
    pub(super) fn read(self, fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
        let window = fields.optional_size("sliding_window")?;
        match self {
            Self::Never => Ok(vec![None; layers]),
            Self::Everywhere => Ok(vec![window; layers]),
            Self::WhereAsked => where_asked(fields, layers, window),
            Self::Alternating(default) => {
                let window = window.unwrap_or(default);
                let alternating = || {
                    let window = |layer: usize| layer.is_multiple_of(2).then_some(window);
                    (0..layers).map(window).collect()
                };
                let named = layer_types(fields, layers, window)?;
                Ok(named.unwrap_or_else(alternating))
            }
        }
    }
}

fn where_asked(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    let window = match window {
        Some(window) if fields.flag("use_sliding_window", false)? => window,
        _ => return Ok(vec![None; layers]),
    };
    if let Some(windows) = layer_types(fields, layers, window)? {
        return Ok(windows);
    }
    let first = match fields.get("max_window_layers") {
        None => 28,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| fields.wrong("max_window_layers", "a number of layers"))?,
    };
    Ok((0..layers)
        .map(|layer| (layer as u64 >= first).then_some(window))
        .collect())
}

/// The windows of `layers` layers by `layer_types`, if the file has the field.
fn layer_types(
    fields: &Fields<'_>,
    layers: usize,
    window: usize,
) -> Result<Option<Vec<Option<usize>>>> {
    let Some(types) = fields.get("layer_types") else {
        return Ok(None);
    };
    let expected = || format!("{layers} times `full_attention` or `sliding_attention`");
    let types = types
        .as_array()
        .filter(|types| types.len() == layers)
        .ok_or_else(|| fields.wrong("layer_types", expected()))?;
    let windows = types.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(Some(window)),
        _ => Err(fields.wrong("layer_types", expected())),
    });
    windows.collect::<Result<_>>().map(Some)
}
