//! The stacks of layers of a model.
//!
//! The *main* stacks are what slices are cut from: one, or encoder and decoder. Others (towers for
//! images and sound, modules that predict several tokens) are as whole as what lies outside the layers.
//! Layers of a main stack beyond the number that `config.json` states are modules that predict several
//! tokens, too: DeepSeek V3 and GLM store them so.

use serde_json::{Map, Value};

use super::inputs::Model;
use crate::tensors::layer;

/// Names of the number of layers, in any object of a configuration.
pub(super) const COUNTS: [&str; 8] = [
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "encoder_layers",
    "decoder_layers",
];

/// Objects of a configuration that describe the language model.
const NESTED: [&str; 8] = [
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "lm_config",
    "thinker_config",
    "llama_config",
    "text_model_config",
];

/// What the names of other stacks contain.
const OTHERS: [&str; 20] = [
    "vision",
    "visual",
    "image",
    "img",
    "vit",
    "vpm",
    "apm",
    "audio",
    "speech",
    "tower",
    "project",
    "resampl",
    "qformer",
    "perceiver",
    "mtp",
    "nextn",
    "draft",
    "eagle",
    "talker",
    "adapter",
];

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place<'n> {
    /// Outside all layers.
    Outside,
    /// In a layer of a main stack: what is before its number in the name, the number, what is after.
    Layer(&'n str, usize, &'n str),
    /// In a layer of another stack, at this relative depth in 0..=1.
    Other(f64),
    /// Beyond the layers of a main stack.
    Beyond,
}

/// The stacks of a model.
#[derive(Clone, Debug)]
pub(super) struct Stacks {
    /// Main stacks by what is before the number in the names, with the number of layers.
    main: Vec<(String, usize)>,
    other: Vec<(String, usize)>,
}

impl Stacks {
    /// Goes through the names of a model's tensors.
    pub fn of(model: &Model) -> Self {
        let mut found: Vec<(String, usize)> = Vec::new();
        for tensor in model.checkpoint.tensors() {
            let Some((prefix, number, _)) = layer(&tensor.name) else {
                continue;
            };
            let layers = number.saturating_add(1);
            match found.iter_mut().find(|(known, _)| known == prefix) {
                Some((_, known)) => *known = layers.max(*known),
                None => found.push((prefix.to_owned(), layers)),
            }
        }
        Self::new(found, model.config.as_object().and_then(stated))
    }

    /// The stacks of these prefixes and numbers of layers; `stated` is the number in `config.json`.
    fn new(found: Vec<(String, usize)>, stated: Option<usize>) -> Self {
        let is_other = |prefix: &str| OTHERS.iter().any(|part| prefix.contains(part));
        let (mut other, mut main): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(prefix, _)| is_other(prefix));
        let has = |part: &str| main.iter().any(|(prefix, _)| prefix.contains(part));
        if has("encoder") && has("decoder") {
            return Self { main, other };
        }
        if let Some(stated) = stated {
            if main.len() > 1 {
                let (long, short) = main.into_iter().partition(|(_, layers)| *layers >= stated);
                main = long;
                other.extend::<Vec<_>>(short);
            }
            for (_, layers) in &mut main {
                *layers = stated;
            }
            if main.is_empty() {
                main.push((String::new(), stated));
            }
        }
        Self { main, other }
    }

    /// The number of layers of the longest main stack.
    pub fn layers(&self) -> usize {
        let layers = self.main.iter().map(|(_, layers)| *layers);
        layers.max().unwrap_or(0)
    }

    /// Main stacks that have fewer layers than the longest: what is before the number in their names,
    /// and how many.
    pub fn shorter(&self) -> Option<(&str, usize)> {
        let most = self.layers();
        let mut stacks = self.main.iter();
        let short = stacks.find(|(_, layers)| *layers < most)?;
        Some((short.0.as_str(), short.1))
    }

    /// The layers of the main stack with this prefix.
    pub fn layers_of(&self, prefix: &str) -> usize {
        let mut stacks = self.main.iter();
        let found = stacks.find(|(known, _)| known == prefix);
        found.map_or(0, |(_, layers)| *layers)
    }

    /// Where a tensor lies.
    pub fn place<'n>(&self, name: &'n str) -> Place<'n> {
        let Some((prefix, number, suffix)) = layer(name) else {
            return Place::Outside;
        };
        let find = |stacks: &[(String, usize)]| {
            let mut stacks = stacks.iter();
            stacks.find(|(known, _)| known == prefix).map(|s| s.1)
        };
        match (find(&self.main), find(&self.other)) {
            (Some(layers), _) if number >= layers => Place::Beyond,
            (Some(_), _) => Place::Layer(prefix, number, suffix),
            (None, Some(layers)) if layers > 1 => Place::Other(number as f64 / (layers - 1) as f64),
            (None, Some(_)) => Place::Other(1.0),
            (None, None) => Place::Outside,
        }
    }
}

/// The number of layers in a configuration, or in the part of it that describes the language model.
fn stated(config: &Map<String, Value>) -> Option<usize> {
    let here = COUNTS.iter().find_map(|key| config.get(*key)?.as_u64());
    here.map(|layers| layers as usize)
        .or_else(|| parts(config).find_map(|(_, part)| stated(part)))
}

/// The objects within a configuration that describe the language model.
pub(super) fn parts(
    config: &Map<String, Value>,
) -> impl Iterator<Item = (&'static str, &Map<String, Value>)> {
    let part = |key: &&'static str| Some((*key, config.get(*key)?.as_object()?));
    NESTED.iter().filter_map(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stacks(found: &[(&str, usize)], config: Value) -> Stacks {
        let found = found.iter().map(|(p, n)| ((*p).to_owned(), *n));
        Stacks::new(found.collect(), config.as_object().and_then(stated))
    }

    #[test]
    fn towers_are_no_main_stacks() {
        let config = json!({"text_config": {"num_hidden_layers": 3},
            "vision_config": {"num_hidden_layers": 5}});
        let found = [
            ("model.vision_tower.encoder.layers.", 5),
            ("model.language_model.layers.", 3),
        ];
        let stacks = stacks(&found, config);
        assert_eq!(stacks.layers(), 3);
        assert_eq!(stacks.shorter(), None);
        let place = |name| stacks.place(name);
        assert_eq!(
            place("model.vision_tower.encoder.layers.1.w"),
            Place::Other(0.25)
        );
        assert_eq!(
            place("model.language_model.layers.2.w"),
            Place::Layer("model.language_model.layers.", 2, ".w")
        );
        assert_eq!(place("model.norm.weight"), Place::Outside);
    }

    #[test]
    fn layers_beyond_the_stated_number_are_known() {
        let stacks = stacks(&[("model.layers.", 4)], json!({"num_hidden_layers": 3}));
        assert_eq!(stacks.layers(), 3);
        assert_eq!(stacks.place("model.layers.3.eh_proj.weight"), Place::Beyond);
    }

    #[test]
    fn encoder_and_decoder_are_counted_apart() {
        let config = json!({"num_layers": 4, "num_decoder_layers": 2});
        let stacks = stacks(&[("encoder.block.", 4), ("decoder.block.", 2)], config);
        assert_eq!(stacks.layers(), 4);
        assert_eq!(stacks.shorter(), Some(("decoder.block.", 2)));
        assert_eq!(stacks.layers_of("decoder.block."), 2);
    }
}
