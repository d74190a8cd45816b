//! Reading `parameters`.

use serde_json::{Map, Value};

use super::json::{given, known, object, word};
use super::setting::{Setting, Settings};
use crate::error::{Error, Result, did_you_mean};
use crate::merge::methods::{MEMORY_SAVERS, METHODS, Method, Scalar};

/// Parameters of one level; `model` names the model whose they are.
///
/// # Errors
///
/// Parameters that the method does not have, or not there, and values of the wrong kind.
pub fn settings(value: Option<&Value>, method: &Method, model: Option<&str>) -> Result<Settings> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for (name, value) in object(value, "`parameters`")? {
        let setting = setting(name, value)?;
        if MEMORY_SAVERS.contains(&name.as_str()) {
            continue;
        }
        let Some(parameter) = method.parameter(name) else {
            return Err(unknown_parameter(name, method));
        };
        if let (Some(model), false) = (model, parameter.per_model) {
            return Err(Error::usage(format!(
                "`{name}` of model `{model}` has no effect: it is one for all models"
            ))
            .remedy("move it to the `parameters` at the top"));
        }
        setting.scalars(&mut |scalar| parameter.check(scalar))?;
        all.push((name.clone(), setting));
    }
    Ok(all)
}

fn unknown_parameter(name: &str, method: &Method) -> Error {
    let names = || method.parameters.iter().map(|p| p.name);
    let error = Error::usage(format!("`{}` has no parameter `{name}`", method.name));
    let elsewhere = METHODS.iter().any(|other| other.parameter(name).is_some());
    if elsewhere {
        return error.remedy("remove it, it would have no effect");
    }
    match did_you_mean(name, names()) {
        Some(remedy) => error.remedy(remedy),
        None => {
            let names: Vec<_> = names().collect();
            error.remedy(if names.is_empty() {
                "it has none".into()
            } else {
                format!("its parameters are {}", names.join(", "))
            })
        }
    }
}

fn scalar(name: &str, value: &Value) -> Result<Scalar> {
    match value {
        Value::Bool(flag) => Ok(Scalar::Flag(*flag)),
        Value::String(word) => Ok(Scalar::Word(word.clone())),
        Value::Number(number) => match number.as_f64().filter(|n| n.is_finite()) {
            Some(number) => Ok(Scalar::Number(number)),
            None => Err(Error::usage(format!(
                "`{name}`: {number} is no finite number"
            ))),
        },
        _ => Err(Error::usage(format!(
            "`{name}`: expected a value, a list of numbers or a list of {{filter, value}}, found {value}"
        ))),
    }
}

fn setting(name: &str, value: &Value) -> Result<Setting> {
    match value {
        Value::Object(map) => Ok(Setting::Filters(vec![condition(name, map)?])),
        Value::Array(values) if values.is_empty() => {
            Err(Error::usage(format!("`{name}` is an empty list")))
        }
        Value::Array(values) if values.iter().any(Value::is_object) => values
            .iter()
            .map(|entry| condition(name, object(entry, &format!("`{name}`"))?))
            .collect::<Result<_>>()
            .map(Setting::Filters),
        Value::Array(values) => values
            .iter()
            .map(|value| match scalar(name, value)? {
                Scalar::Number(number) => Ok(number),
                _ => Err(Error::usage(format!(
                    "`{name}`: a gradient is a list of numbers"
                ))),
            })
            .collect::<Result<_>>()
            .map(Setting::Gradient),
        _ => scalar(name, value).map(Setting::Scalar),
    }
}

/// `{filter, value}`.
fn condition(name: &str, map: &Map<String, Value>) -> Result<(Option<String>, Setting)> {
    known(map, &["filter", "value"], &format!("`{name}`"))?;
    let filter = given(map, "filter");
    let filter = filter.map(|v| word(v, "filter")).transpose()?;
    let value = map
        .get("value")
        .ok_or_else(|| Error::usage(format!("`{name}`: an entry lacks `value`")))?;
    match setting(name, value)? {
        Setting::Filters(_) => Err(Error::usage(format!("`{name}`: filters cannot be nested"))),
        setting => Ok((filter, setting)),
    }
}
