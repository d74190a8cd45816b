//! Reading `parameters`.

use serde_json::{Map, Value};

use super::json::{flag, given, known, number, object, word};
use super::reader::Reader;
use super::setting::{Setting, Settings};
use crate::error::{Error, Result, did_you_mean};
use crate::merge::methods::{Kind, MEMORY_SAVERS, METHODS, Parameter, Scalar};

impl Reader {
    /// Parameters of one level; `model` names the model whose they are.
    ///
    /// # Errors
    ///
    /// Misspelt parameters, those that are one for all models at a model, and values of the wrong
    /// kind. Of other parameters that the method does not have, it is said that they have no
    /// effect.
    pub fn settings(&mut self, value: Option<&Value>, model: Option<&str>) -> Result<Settings> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for (name, value) in object(value, "`parameters`")? {
            if MEMORY_SAVERS.contains(&name.as_str()) {
                continue;
            }
            let Some(parameter) = self.method.parameter(name) else {
                self.unknown_parameter(name)?;
                continue;
            };
            if let (Some(model), false) = (model, parameter.per_model) {
                return Err(Error::usage(format!(
                    "`{name}` of model `{model}` has no effect: it is one for all models"
                ))
                .remedy("move it to the `parameters` at the top"));
            }
            let setting = setting(parameter, value)?;
            setting.scalars(&mut |scalar| parameter.check(scalar))?;
            all.push((name.clone(), setting));
        }
        Ok(all)
    }

    fn unknown_parameter(&mut self, name: &str) -> Result<()> {
        let method = self.method.name;
        let problem = format!("`{method}` has no parameter `{name}`");
        let names = self.method.parameters.iter().map(|p| p.name);
        let elsewhere = METHODS.iter().any(|other| other.parameter(name).is_some());
        match did_you_mean(name, names) {
            Some(remedy) if !elsewhere => Err(Error::usage(problem).remedy(remedy)),
            _ => {
                self.warn(format!("{problem}: it has no effect"));
                Ok(())
            }
        }
    }
}

/// A value of the parameter's kind if it can be read as one, else as it is written.
fn scalar(parameter: &Parameter, value: &Value) -> Result<Scalar> {
    let read = match parameter.kind {
        Kind::Number(..) => number(value).map(Scalar::Number),
        Kind::Flag => flag(value).map(Scalar::Flag),
        Kind::Choice(_) => None,
    };
    match (read, value) {
        (Some(scalar), _) => Ok(scalar),
        (None, Value::Bool(flag)) => Ok(Scalar::Flag(*flag)),
        (None, Value::String(word)) => Ok(Scalar::Word(word.clone())),
        (None, Value::Number(other)) => Ok(Scalar::Word(other.to_string())),
        _ => Err(Error::usage(format!(
            "`{}`: expected a value, a list of values or a list of {{filter, value}}, found {value}",
            parameter.name
        ))),
    }
}

fn setting(parameter: &Parameter, value: &Value) -> Result<Setting> {
    let place = format!("`{}`", parameter.name);
    match value {
        Value::Object(map) => Ok(Setting::Filters(vec![condition(parameter, map)?])),
        Value::Array(values) if values.is_empty() || values.iter().any(Value::is_object) => values
            .iter()
            .map(|entry| condition(parameter, object(entry, &place)?))
            .collect::<Result<_>>()
            .map(Setting::Filters),
        Value::Array(values) => values
            .iter()
            .map(|value| scalar(parameter, value))
            .collect::<Result<_>>()
            .map(Setting::Gradient),
        _ => scalar(parameter, value).map(Setting::Scalar),
    }
}

/// `{filter, value}`.
fn condition(parameter: &Parameter, map: &Map<String, Value>) -> Result<(Option<String>, Setting)> {
    let name = parameter.name;
    known(map, &["filter", "value"], &format!("`{name}`"))?;
    let filter = given(map, "filter");
    let filter = filter.map(|v| word(v, "filter")).transpose()?;
    let value = map
        .get("value")
        .ok_or_else(|| Error::usage(format!("`{name}`: an entry lacks `value`")))?;
    match setting(parameter, value)? {
        // An empty list: nothing is set.
        Setting::Filters(entries) if !entries.is_empty() => {
            Err(Error::usage(format!("`{name}`: filters cannot be nested")))
        }
        setting => Ok((filter, setting)),
    }
}
