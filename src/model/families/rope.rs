//! How `config.json` describes the rotary position embedding.
//!
//! The old form is `rope_theta` beside `rope_scaling`, the new one `rope_parameters` with both. Where
//! a file has both, transformers takes `rope_scaling` as a whole, and `rope_theta` from it or from the
//! top of the file; `rope_parameters` then has no effect.
//!
//! Where layers with a window have angles of their own, `rope_parameters` has an object for each type of
//! layer. There `rope_scaling` changes single settings of the layers without a window.

use serde_json::{Map, Value, json};

use super::family::LlamaLike;
use super::fields::Fields;
use crate::error::Result;
use crate::model::config::{Rope, RopeScaling};
use crate::progress::warn_once;

const OLD: &str = "rope_scaling";
const NEW: &str = "rope_parameters";
const ORIGINAL: &str = "original_max_position_embeddings";

/// Layers without a window, and with one.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// What the settings of the rotary embedding are read from.
struct Places<'a, 'b> {
    inner: Option<Fields<'a>>,
    outer: &'b Fields<'a>,
}

impl LlamaLike {
    /// The rotary embedding of heads of `head_dim`, and that of layers with a window, where it is
    /// another one.
    pub(super) fn ropes(
        &self,
        fields: &Fields<'_>,
        head_dim: usize,
    ) -> Result<(Rope, Option<Rope>)> {
        let top = |name, default| fields.number(name, default);
        let rope = |inner, theta| {
            let outer = fields;
            self.rope(Places { inner, outer }, theta, head_dim)
        };
        let theta = top("rope_theta", self.rope_theta)?;
        let Some(of_windows) = self.window_rope_theta else {
            return Ok((rope(chosen(fields)?, theta)?, None));
        };
        let maps = by_layer_type(fields)?;
        let [inner, of_window] = [0, 1].map(|at| {
            let place = format!("{NEW}.{}", LAYER_TYPES[at]);
            Some(Fields::within(fields.path(), &place, &maps[at]))
        });
        let theta_of_windows = top("rope_local_base_freq", of_windows)?;
        let of_windows = rope(of_window, theta_of_windows)?;
        Ok((rope(inner, theta)?, Some(of_windows)))
    }

    /// A rotary embedding of heads of `head_dim`; `theta` where it is not beside its other settings.
    fn rope(&self, places: Places<'_, '_>, theta: f64, head_dim: usize) -> Result<Rope> {
        let mut rope = Rope {
            theta,
            dims: self.rotated(&places, head_dim)?,
            scaling: RopeScaling::Default,
        };
        if let Some(inner) = &places.inner {
            rope.theta = inner.number("rope_theta", rope.theta)?;
            rope.scaling = self.scaling(inner, places.outer, &rope)?;
        }
        Ok(rope)
    }

    /// How many of a head's dimensions are rotated.
    fn rotated(&self, places: &Places<'_, '_>, head_dim: usize) -> Result<usize> {
        let name = "partial_rotary_factor";
        let mut all = places.inner.iter().chain(std::iter::once(places.outer));
        let Some(place) = all.find(|place| place.has(name)) else {
            return Ok(head_dim);
        };
        let factor = place.number(name, 1.0)?;
        let dims = (head_dim as f64 * factor) as usize;
        if factor != 1.0 && !self.partial_rotary {
            return Err(place.wrong(name, "1 (whole heads are rotated)"));
        }
        if factor > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
            let expected = format!("an even part of the {head_dim} dimensions of a head");
            return Err(place.wrong(name, expected));
        }
        Ok(dims)
    }

    fn scaling(&self, inner: &Fields<'_>, outer: &Fields<'_>, rope: &Rope) -> Result<RopeScaling> {
        let kind = if inner.has("rope_type") {
            "rope_type"
        } else {
            "type"
        };
        Ok(match inner.text(kind)? {
            None | Some("default" | "dynamic") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear {
                factor: inner.required("factor")?,
            },
            Some("llama3") => {
                let low = inner.required("low_freq_factor")?;
                let high = inner.required("high_freq_factor")?;
                if high <= low {
                    let expected = format!("more than low_freq_factor {low}");
                    return Err(inner.wrong("high_freq_factor", expected));
                }
                RopeScaling::Llama3 {
                    factor: inner.required("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: self.original(inner, outer)? as f64,
                }
            }
            // "su" is what the first files called it.
            Some("longrope" | "su") => self.long(inner, outer, rope.dims)?,
            Some("yarn") => self.yarn(inner, outer, rope)?,
            Some(_) => {
                let expected = "default, linear, dynamic, llama3, yarn or longrope";
                return Err(inner.wrong(kind, expected));
            }
        })
    }

    /// The context of the original training, in tokens.
    fn original(&self, inner: &Fields<'_>, outer: &Fields<'_>) -> Result<usize> {
        // Settings by type of layer are complete.
        if self.window_rope_theta.is_none()
            && let Some(original) = outer.optional_size(ORIGINAL)?
        {
            return Ok(original);
        }
        match (self.original_context, inner.optional_size(ORIGINAL)?) {
            (Some(default), _) => Ok(default),
            (None, Some(original)) => Ok(original),
            (None, None) => outer.size("max_position_embeddings"),
        }
    }

    fn long(&self, inner: &Fields<'_>, outer: &Fields<'_>, dims: usize) -> Result<RopeScaling> {
        let positive = |value: &Value| value.as_f64().filter(|factor| *factor > 0.0);
        let factors: Option<Vec<f64>> = match inner.get("short_factor") {
            Some(Value::Array(factors)) if factors.len() == dims / 2 => {
                factors.iter().map(positive).collect()
            }
            _ => None,
        };
        let factors = factors
            .ok_or_else(|| inner.wrong("short_factor", format!("{} positive numbers", dims / 2)))?;
        let longest = outer.size("max_position_embeddings")?;
        let original = self.original(inner, outer)?;
        let extension = inner.number("factor", longest as f64 / original as f64)?;
        let attention_factor = match extension {
            extension if extension <= 1.0 => 1.0,
            _ => (1.0 + extension.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::Long {
            factors,
            attention_factor: inner.number("attention_factor", attention_factor)?,
            original_max_position_embeddings: original,
        })
    }

    fn yarn(&self, inner: &Fields<'_>, outer: &Fields<'_>, rope: &Rope) -> Result<RopeScaling> {
        let original = self.original(inner, outer)? as f64;
        let longest = outer.size("max_position_embeddings")? as f64;
        let factor = match inner.number_or_null("factor", f64::NAN)? {
            None => longest / original,
            Some(factor) if factor >= 1.0 => factor,
            Some(_) => return Err(inner.wrong("factor", "a number of at least 1")),
        };
        let grown = |mscale: f64| match factor > 1.0 {
            true => 0.1 * mscale * factor.ln() + 1.0,
            false => 1.0,
        };
        let (query, all) = ("mscale", "mscale_all_dim");
        let (query, all) = (inner.optional_number(query)?, inner.optional_number(all)?);
        let attention_factor = match (query, all) {
            (Some(query), Some(all)) => grown(query) / grown(all),
            _ => grown(1.0),
        };
        // The dimension whose pair turns so often within the original context.
        let dims = rope.dims as f64;
        let turning = |times: f64| {
            let wavelengths = original / (times * std::f64::consts::TAU);
            dims * wavelengths.ln() / (2.0 * rope.theta.ln())
        };
        let (mut begin, mut end) = (
            turning(inner.number("beta_fast", 32.0)?),
            turning(inner.number("beta_slow", 1.0)?),
        );
        if inner.flag("truncate", true)? {
            (begin, end) = (begin.floor(), end.ceil());
        }
        (begin, end) = (begin.max(0.0), end.min(dims - 1.0));
        if begin == end {
            end += 0.001;
        }
        Ok(RopeScaling::Yarn {
            factor,
            ramp: [begin, end],
            attention_factor: inner.number("attention_factor", attention_factor)?,
        })
    }
}

/// The object that the settings are read from, if the file has one.
fn chosen<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>> {
    let old = fields.object(OLD)?.filter(|old| !old.is_empty());
    let new = fields.object(NEW)?.filter(|new| !new.is_empty());
    if old.is_some() && new.is_some() && fields.get(OLD) != fields.get(NEW) {
        warn_once(format!(
            "{}: `{OLD}` and `{NEW}` differ; `{OLD}` counts, as in transformers",
            fields.path().display()
        ));
    }
    let (name, chosen) = match old {
        Some(old) => (OLD, Some(old)),
        None => (NEW, new),
    };
    if let Some(field) = chosen.as_ref().and_then(Fields::first_object) {
        let expected = format!("one setting for all layers, not one for `{field}`");
        return Err(fields.wrong(name, expected));
    }
    Ok(chosen)
}

/// The settings of layers without a window, and of those with one.
fn by_layer_type(fields: &Fields<'_>) -> Result<[Map<String, Value>; 2]> {
    let new = fields.object(NEW)?;
    let given = |kind: &str| match &new {
        Some(new) => new.object(kind),
        None => Ok(None),
    };
    let plain = || Map::from_iter([("rope_type".to_owned(), json!("default"))]);
    let [all, of_windows] = LAYER_TYPES.map(given);
    let (all, of_windows) = (all?, of_windows?);
    let has_full = all.is_some();
    if let Some(new) = new.filter(|new| !new.is_empty())
        && all.is_none()
        && of_windows.is_none()
    {
        let [full, sliding] = LAYER_TYPES;
        warn_once(format!(
            "{}: `{NEW}` has neither `{full}` nor `{sliding}`; it has no effect, as in transformers",
            new.path().display()
        ));
    }
    let map = |given: Option<Fields<'_>>| given.map_or_else(plain, |given| given.map().clone());
    let mut all = map(all);
    if let Some(old) = fields.object(OLD)? {
        if fields.has(NEW) && !has_full {
            let expected = format!("null, or `{NEW}` with `{}`", LAYER_TYPES[0]);
            return Err(fields.wrong(OLD, expected));
        }
        all.extend(old.map().clone());
    }
    Ok([all, map(of_windows)])
}
