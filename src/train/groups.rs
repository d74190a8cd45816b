//! Which parameters are trained, how fast, and how much they decay.
//!
//! By default all learn at the same rate, and matrices decay while norms and biases do not (as in
//! the trainer of `transformers`; embeddings count as matrices). `param_groups` and `freeze` name
//! others by patterns.

use std::collections::BTreeMap;

use candle_core::Var;
use serde::{Deserialize, Serialize};

use super::TrainOptions;
use super::optim::Group;
use crate::error::{Error, Result};

/// Parameters that are trained in another way than the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Whose names: see [`matches()`].
    #[serde(rename = "match")]
    pub pattern: String,
    /// Factor on the learning rate, at least 0.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Decay of all of them, in place of `train.weight_decay`.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Whether `pattern` is the name of a parameter or any run of its parts between dots, `*` being
/// any text: `embed_tokens`, `layers.0`, `*norm.weight`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
    starts.into_iter().any(|start| {
        let rest = &name[start..];
        let ends = rest.match_indices('.').map(|(at, _)| at);
        ends.chain([rest.len()])
            .any(|end| glob(pattern, &rest[..end]))
    })
}

/// Whether `text` is `pattern`, in which `*` is any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The group of each of `params`, in the order of their names.
///
/// # Errors
/// A pattern that matches none.
pub fn groups(params: &BTreeMap<String, Var>, options: &TrainOptions) -> Result<Vec<Group>> {
    for group in &options.param_groups {
        check_used("param_groups", &group.pattern, params.keys())?;
    }
    let group = |(name, var): (&String, &Var)| {
        let named = options
            .param_groups
            .iter()
            .find(|group| matches(&group.pattern, name));
        let weight_decay = match named.and_then(|group| group.weight_decay) {
            Some(decay) => decay,
            None if var.rank() >= 2 => options.weight_decay,
            None => 0.0,
        };
        Group {
            lr_scale: named.map_or(1.0, |group| group.lr_scale),
            weight_decay,
        }
    };
    Ok(params.iter().map(group).collect())
}

/// Fails if `pattern`, of option `option`, matches none of `names`.
pub fn check_used<'a>(
    option: &str,
    pattern: &str,
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<()> {
    if names.clone().any(|name| matches(pattern, name)) {
        return Ok(());
    }
    let shown: Vec<&str> = names.map(String::as_str).take(3).collect();
    Err(Error::usage(format!(
        "`train.{option}`: `{pattern}` matches no trained parameter"
    ))
    .remedy(format!(
        "patterns are names or parts of them between dots, with `*` for any text; the names begin with `{}`",
        shown.join("`, `")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_parts() {
        let name = "model.layers.10.self_attn.q_proj.weight";
        for pattern in [
            name,
            "q_proj",
            "layers.10",
            "self_attn.q_proj",
            "layers.*.q_proj",
            "*.weight",
            "*",
            "model*weight",
            "q*",
        ] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in [
            "layers.1",
            "proj",
            "attn.q_proj",
            "",
            "layers.*.k_proj",
            "*norm",
        ] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        assert!(glob("a*b*b", "axbxb") && !glob("a*b*b", "axb") && !glob("ab*b", "ab"));
    }

    #[test]
    fn norms_do_not_decay_unless_a_group_says_so() {
        let var = |dims: &[usize]| {
            Var::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()
        };
        let params = BTreeMap::from([
            ("embed.weight".to_owned(), var(&[3, 2])),
            ("layers.0.norm.weight".to_owned(), var(&[2])),
            ("layers.0.q.bias".to_owned(), var(&[2])),
            ("layers.0.q.weight".to_owned(), var(&[2, 2])),
        ]);
        let of = |json: &str| {
            let options: TrainOptions = serde_json::from_str(json).unwrap();
            groups(&params, &options)
        };
        let decays = |groups: Vec<Group>| -> Vec<f64> {
            groups.iter().map(|group| group.weight_decay).collect()
        };
        let found = of(r#"{"weight_decay": 0.1}"#).unwrap();
        assert_eq!(decays(found), [0.1, 0.0, 0.0, 0.1]);
        let found = of(r#"{"weight_decay": 0.1, "param_groups": [
            {"match": "embed", "lr_scale": 0.5},
            {"match": "layers.0.q", "weight_decay": 0.2},
            {"match": "*", "lr_scale": 2.0}]}"#)
        .unwrap();
        let scales: Vec<f64> = found.iter().map(|group| group.lr_scale).collect();
        assert_eq!(scales, [0.5, 2.0, 1.0, 1.0]);
        assert_eq!(decays(found), [0.1, 0.0, 0.2, 0.2]);
        let error = of(r#"{"param_groups": [{"match": "head"}]}"#).unwrap_err();
        assert!(error.to_string().contains("`head` matches no"), "{error}");
    }
}
