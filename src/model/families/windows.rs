//! How far layers look back, by `config.json`.

use super::family::Windows;
use super::fields::Fields;
use crate::error::Result;

const WINDOW: &str = "sliding_window";

impl Windows {
    /// For each of `layers`, how many positions (itself included) a token sees; `None` is all.
    pub(super) fn read(self, fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
        match self {
            Self::Never => Ok(vec![None; layers]),
            Self::Everywhere(default) => {
                let window = fields.size_or_null(WINDOW, default)?;
                Ok(vec![window; layers])
            }
            Self::Named(default) => {
                let window = fields.size_or_null(WINDOW, Some(default))?;
                let named = layer_types(fields, layers, window)?;
                Ok(named.unwrap_or_else(|| vec![window; layers]))
            }
            Self::WhereAsked(default) => where_asked(fields, layers, default),
            Self::EverywhereAsked(default) => Ok(vec![asked(fields, default)?; layers]),
            Self::Periodic {
                width,
                period,
                field,
            } => {
                let window = fields.size_or_null(WINDOW, Some(width))?;
                let window =
                    Some(window.ok_or_else(|| fields.wrong(WINDOW, "a positive integer"))?);
                if let Some(named) = layer_types(fields, layers, window)? {
                    return Ok(named);
                }
                let period = match field {
                    None => period,
                    Some(field) => match fields.size_or_null(field, Some(period))? {
                        Some(period) => period,
                        None => return Err(fields.wrong(field, "a number of layers")),
                    },
                };
                let is_last = |layer: usize| (layer + 1).is_multiple_of(period);
                let window = |layer: usize| window.filter(|_| !is_last(layer));
                Ok((0..layers).map(window).collect())
            }
        }
    }
}

/// The window that `use_sliding_window` asks for.
fn asked(fields: &Fields<'_>, default: usize) -> Result<Option<usize>> {
    match fields.flag("use_sliding_window", false)? {
        true => fields.size_or_null(WINDOW, Some(default)),
        false => Ok(None),
    }
}

fn where_asked(fields: &Fields<'_>, layers: usize, default: usize) -> Result<Vec<Option<usize>>> {
    let window = asked(fields, default)?;
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
        .map(|layer| window.filter(|_| layer as u64 >= first))
        .collect())
}

/// The windows of `layers` layers by `layer_types`, if the file has the field; those that slide
/// look back over `window`.
fn layer_types(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Option<Vec<Option<usize>>>> {
    let Some(types) = fields.get("layer_types") else {
        return Ok(None);
    };
    let expected = || format!("{layers} times `full_attention` or `sliding_attention`");
    let types = types
        .as_array()
        .filter(|types| types.len() == layers)
        .ok_or_else(|| fields.wrong("layer_types", expected()))?;
    let windows = types.iter().map(|kind| match (kind.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => {
            let expected = "`full_attention` everywhere, as the file has no sliding window";
            Err(fields.wrong("layer_types", expected))
        }
        _ => Err(fields.wrong("layer_types", expected())),
    });
    windows.collect::<Result<_>>().map(Some)
}
