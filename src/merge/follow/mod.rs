//! A configuration that follows the output's layers.
//!
//! Slices stack other layers than `config.json` describes: its numbers of layers change, and so do its
//! lists with an entry for each layer, its numbers of layers of a kind, and its periods. `rules` has a
//! row for each setting that is known to depend on layers: it is sliced, renumbered, computed anew, kept
//! if it still holds, or refused by name. `implied` has the lists that models without them go by. A list
//! that is as long as the model, and that no row knows, is sliced and said.
//!
//! All this holds for the top of the file and for the parts of it that describe the language model.

mod apply;
mod implied;
mod rules;
mod scope;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Map, Value};

use self::scope::Scope;
use super::stacks::{COUNTS, parts};
use crate::checkpoint::CONFIG;
use crate::error::{Error, Result};

/// The output's layers, and the configurations of the models that they come from.
pub(super) struct Layers<'a> {
    /// The number of the model whose configuration the output has.
    pub reference: usize,
    /// The models' configurations.
    pub configs: &'a [&'a Value],
    /// The models' numbers of layers.
    pub has: Vec<usize>,
    /// For each output layer the number of a model, and its layer.
    pub sources: Vec<(usize, usize)>,
    /// Whether the output keeps what layers beyond those that are counted the reference has.
    pub beyond: bool,
}

impl Layers<'_> {
    /// Whether the output's layers are the reference's.
    fn is_unchanged(&self) -> bool {
        let sources = self.sources.iter().enumerate();
        self.sources.len() == self.has[self.reference] && { sources }
            .all(|(at, source)| *source == (self.reference, at))
    }
}

/// The reference's configuration with all that depends on layers as the output's need it; what users
/// must know is added to `notes`. `dir` is the reference's folder, for messages.
///
/// # Errors
///
/// A setting that cannot follow the layers, by name.
pub(super) fn follow(layers: &Layers<'_>, dir: &Path, notes: &mut Vec<String>) -> Result<Value> {
    let mut config = layers.configs[layers.reference].clone();
    let file = dir.join(CONFIG);
    let paths = match config.as_object() {
        Some(map) => paths(map),
        None => return Ok(config),
    };
    let unchanged = layers.is_unchanged();
    let mut counted = false;
    for path in &paths {
        let Some(map) = part_mut(&mut config, path) else {
            continue;
        };
        let scope = Scope {
            layers,
            path,
            file: &file,
        };
        if !layers.beyond {
            scope.forget_prediction(map, notes);
        }
        if !unchanged {
            counted |= scope.count(map);
            scope.follow(map, notes)?;
        }
    }
    if unchanged || counted {
        return Ok(config);
    }
    let problem = format!(
        "no number of layers ({} or another known name) is {}: the output's cannot be written",
        COUNTS[0], layers.has[layers.reference]
    );
    Err(Error::file(&file, problem).remedy("write the number of layers into it"))
}

/// The ways to the objects whose settings may depend on layers: the top, and the parts that describe
/// the language model.
fn paths(config: &Map<String, Value>) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for (key, part) in parts(config) {
        all.extend(paths(part).into_iter().map(|mut path| {
            path.insert(0, key);
            path
        }));
    }
    all
}

fn part_mut<'a>(config: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut at = config;
    for key in path {
        at = at.get_mut(*key)?;
    }
    at.as_object_mut()
}
