//! Which modules of a model PEFT adapts: `target_modules` and what narrows it down.

use std::path::Path;

use serde_json::Value;

use super::base::Base;
use super::expression::Expression;
use super::names::names_module;
use super::settings::{Fields, is_nothing, strings};
use crate::error::{Error, Result};

/// `target_modules`.
#[derive(Clone, Debug)]
enum Names {
    /// Names, or the last parts of names.
    Listed(Vec<String>),
    /// An expression for whole names.
    Expression(Expression),
    /// `all-linear`: every projection but the head.
    AllLinear,
    /// Not said: what PEFT takes for models of the family.
    Family,
}

/// Which modules are adapted.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    names: Names,
    exclude: Option<Names>,
    /// `layers_to_transform`.
    layers: Option<Vec<u64>>,
    /// For the number of a layer, what is before it in a name.
    stacks: Vec<Expression>,
    /// `modules_to_save`, which are never adapted.
    saved: Vec<Expression>,
}

/// The adapted modules where `target_modules` is null: PEFT's
/// `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING` (0.21), for decoders.
const FAMILIES: [(&[&str], &[&str]); 9] = [
    (
        &[
            "llama",
            "llama4",
            "mistral",
            "mixtral",
            "stablelm",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
            "opt",
            "gptj",
            "gpt_neo",
            "bart",
        ],
        &["q_proj", "v_proj"],
    ),
    (&["nemotron_h"], &["q_proj", "k_proj", "v_proj", "o_proj"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
    (&["t5", "mt5"], &["q", "v"]),
    (&["gpt2", "gpt_bigcode"], &["c_attn"]),
    (
        &[
            "bloom",
            "gpt_neox",
            "chatglm",
            "falcon",
            "RefinedWeb",
            "RefinedWebModel",
        ],
        &["query_key_value"],
    ),
    (
        &["bert", "roberta", "xlm-roberta", "electra"],
        &["query", "value"],
    ),
    (&["mpt"], &["Wqkv"]),
    (&["codegen"], &["qkv_proj"]),
];

impl Targets {
    /// Reads what the settings say; `saved` are those of `modules_to_save`.
    ///
    /// # Errors
    /// Settings that are no names or expressions, or that PEFT refuses together.
    pub fn read(fields: &Fields<'_>, saved: &[String]) -> Result<Self> {
        let names = "names, an expression or \"all-linear\"";
        let names = fields.read("target_modules", names, |value| match value {
            Value::Null => Some(Names::Family),
            Value::String(text) if text.to_lowercase() == "all-linear" => Some(Names::AllLinear),
            value => listed(value),
        })?;
        let exclude =
            fields.read(
                "exclude_modules",
                "names or an expression",
                |value| match is_nothing(value) || value == "" {
                    true => Some(None),
                    false => listed(value).map(Some),
                },
            )?;
        let layers = fields.read("layers_to_transform", "numbers of layers", |value| {
            let number = |value: &Value| value.as_u64();
            match value {
                Value::Null => Some(None),
                Value::Array(list) => Some(Some(list.iter().map(number).collect::<Option<_>>()?)),
                value => Some(Some(vec![number(value)?])),
            }
        })?;
        let stacks: Vec<String> = fields.read("layers_pattern", "names", |value| match value {
            Value::Null => Some(Vec::new()),
            Value::String(name) if name.is_empty() => Some(Vec::new()),
            Value::String(name) => Some(vec![name.clone()]),
            value => strings(value),
        })?;
        let one = matches!(names, Names::Expression(_) | Names::AllLinear);
        if one && layers.is_some() {
            return Err(fields.wrong("layers_to_transform", "null beside an expression"));
        }
        if (one || layers.is_none()) && !stacks.is_empty() {
            let expected = "null without a list of names and `layers_to_transform`";
            return Err(fields.wrong("layers_pattern", expected));
        }
        let stack = |name: &String| Expression::whole(&format!(r"(?:|.*?\.)(?:{name})"));
        let saved = saved.iter().map(|name| Expression::or_within(name));
        let (stacks, saved) = (
            stacks.iter().map(stack).collect::<Option<_>>(),
            saved.collect::<Option<_>>(),
        );
        Ok(Self {
            names,
            exclude,
            layers: layers.filter(|layers: &Vec<u64>| !layers.is_empty()),
            stacks: stacks.ok_or_else(|| fields.wrong("layers_pattern", "an expression"))?,
            saved: saved.ok_or_else(|| fields.wrong("modules_to_save", "names"))?,
        })
    }

    /// Fails where the settings in the file `path` do not say what is adapted, and PEFT does not
    /// know it for models such as `base`; `parameters`: there are `target_parameters` instead.
    pub fn check(&self, path: &Path, base: &Base, parameters: bool) -> Result<()> {
        match self.names {
            Names::Family if !parameters && family(base.model_type()).is_none() => {
                let problem = format!(
                    "field `target_modules`: expected names, found null; PEFT knows none for models \
                     of type `{}`",
                    base.model_type()
                );
                Err(Error::file(path, problem).remedy("name the adapted modules"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the module `name` is adapted.
    pub fn has(&self, name: &str, base: &Base) -> bool {
        let is_excluded = self.exclude.as_ref().is_some_and(|names| match names {
            Names::Listed(names) => is_listed(names, name),
            Names::Expression(expression) => expression.is_match(name),
            Names::AllLinear | Names::Family => false,
        });
        if is_excluded || self.saved.iter().any(|saved| saved.is_match(name)) {
            return false;
        }
        match &self.names {
            Names::Listed(names) => {
                let whole = names.iter().any(|target| target == name);
                whole || (is_listed(names, name) && self.is_in_layers(name))
            }
            Names::Expression(expression) => expression.is_match(name),
            Names::AllLinear => base.is_projection(name),
            Names::Family => {
                let names = family(base.model_type()).unwrap_or_default();
                names.iter().any(|target| names_module(target, name)) && self.is_in_layers(name)
            }
        }
    }

    /// Whether the layer of a module is one of those that are adapted.
    fn is_in_layers(&self, name: &str) -> bool {
        let Some(layers) = &self.layers else {
            return true;
        };
        // The first number counts, not that of an expert within the layer; it has a name before it
        // and something before that, unless the names are given.
        let number_after = |fits: &dyn Fn(&str) -> bool| {
            name.match_indices('.').find_map(|(at, _)| {
                let (number, _) = name[at + 1..].split_once('.')?;
                let number = number.parse::<u64>().ok()?;
                fits(&name[..at]).then_some(number)
            })
        };
        let numbered = match self.stacks.is_empty() {
            true => number_after(&|before| before.contains('.')),
            false => {
                let mut stacks = self.stacks.iter();
                stacks.find_map(|stack| number_after(&|before| stack.is_match(before)))
            }
        };
        numbered.is_some_and(|number| layers.contains(&number))
    }
}

fn listed(value: &Value) -> Option<Names> {
    match value {
        Value::String(text) => Expression::whole(text).map(Names::Expression),
        value => strings(value).map(Names::Listed),
    }
}

fn is_listed(names: &[String], module: &str) -> bool {
    names.iter().any(|target| names_module(target, module))
}

fn family(model_type: &str) -> Option<&'static [&'static str]> {
    let known = FAMILIES.iter();
    let mut known = known.filter(|(types, _)| types.contains(&model_type));
    known.next().map(|(_, names)| *names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Which of some modules the settings name, as PEFT's `check_target_module_exists` says.
    #[test]
    fn the_modules_are_those_of_peft() {
        let names = [
            "model.embed_tokens",
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.11.self_attn.q_proj",
            "model.layers.1.mlp.experts.0.up_proj",
            "lm_head",
        ];
        let base = Base::new(
            names.map(|name| (format!("{name}.weight"), vec![4, 4])),
            &json!({"model_type": "mixtral"}),
            None,
        );
        for (settings, expected) in [
            (json!({"target_modules": ["q_proj"]}), "123"),
            (json!({"target_modules": ["1.self_attn.q_proj"]}), "2"),
            (json!({"target_modules": "q_proj"}), ""),
            (json!({"target_modules": ".*q_proj"}), "123"),
            (json!({"target_modules": r"model\.layers\.\d\..*"}), "124"),
            (json!({"target_modules": "all-linear"}), "1234"),
            (json!({"target_modules": "All-Linear"}), "1234"),
            (json!({}), "123"),
            (json!({"target_modules": []}), ""),
            (
                json!({"target_modules": ["q_proj"], "exclude_modules": ["0.self_attn.q_proj"]}),
                "23",
            ),
            (
                json!({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.1\..*"}),
                "13",
            ),
            (
                json!({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]}),
                "123",
            ),
            (
                json!({"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]}),
                "",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": 1}),
                "2",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [0, 7]}),
                "1",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": []}),
                "123",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [9]}),
                "",
            ),
            (
                json!({"target_modules": ["up_proj"], "layers_to_transform": [0]}),
                "",
            ),
            (
                json!({"target_modules": ["lm_head"], "layers_to_transform": [0]}),
                "5",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1],
                "layers_pattern": "layers"}),
                "2",
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1],
                "layers_pattern": ["h"]}),
                "",
            ),
            (
                json!({"target_modules": ["up_proj"], "layers_to_transform": [0],
                "layers_pattern": ["experts"]}),
                "4",
            ),
        ] {
            let found = modules(&settings, &names, &base).unwrap();
            assert_eq!(found, expected, "{settings}");
        }
        for settings in [
            json!({"target_modules": ["q_proj", 3]}),
            json!({"target_modules": "(q_proj"}),
            json!({"target_modules": ".*q_proj", "layers_to_transform": [1]}),
            json!({"target_modules": ["q_proj"], "layers_pattern": "h"}),
            json!({"exclude_modules": 3}),
            json!({"layers_to_transform": [-1]}),
        ] {
            assert!(modules(&settings, &names, &base).is_err(), "{settings}");
        }
    }

    /// The places of the adapted modules.
    fn modules(settings: &Value, names: &[&str], base: &Base) -> Result<String> {
        let mut all = json!({"peft_type": "LORA"});
        let more = settings.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        let text = all.to_string();
        let fields = Fields::parse(Path::new("adapter_config.json"), &text)?;
        let saved = fields.names("modules_to_save")?.unwrap_or_default();
        let targets = Targets::read(&fields, &saved)?;
        let places = names.iter().enumerate();
        let found = places.filter(|(_, name)| targets.has(name, base));
        Ok(found.map(|(at, _)| at.to_string()).collect())
    }
}
