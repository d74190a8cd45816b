//! The spellings in which checkpoints give the same tensors: names without the prefix of the whole
//! model, and heads beside the embedding that they are tied to.

use super::weights::Checkpoint;
use crate::tensors::{Elements, View};

/// Numbers that are compared at a time, where two tensors have different dtypes.
const BLOCK: usize = 1 << 12;

impl Checkpoint {
    /// The same checkpoint with the names of a whole model: where no tensor's name begins with
    /// `prefix`, as in files of the trunk alone (Qwen3-Embedding), it is put before all but the
    /// `head`'s.
    pub fn prefixed(mut self, prefix: &str, head: &str) -> Self {
        if self.tensors().any(|tensor| tensor.name.starts_with(prefix)) {
            return self;
        }
        self.rename(|name| (name != head).then(|| format!("{prefix}{name}")));
        self
    }

    /// The same checkpoint without the tensors that the other towers of a model have, whose names begin
    /// with one of `others`, where names have `prefixes` of such a model: the second of each is put in
    /// the place of the first.
    pub fn tower(mut self, prefixes: &[(&str, &str)], others: &[&str]) -> Self {
        let spelt = |name: &str| {
            let mut all = prefixes.iter();
            all.find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        };
        if !self.tensors().any(|tensor| spelt(&tensor.name).is_some()) {
            return self;
        }
        let is_other = |name: &str| others.iter().any(|other| name.starts_with(other));
        self.tensors.retain(|(_, tensor)| !is_other(&tensor.name));
        self.rename(spelt);
        self
    }

    /// The same checkpoint with the tied tensor under the name `embedding`, where only the `head`'s is
    /// there: both are the same tensor.
    pub fn tied(mut self, embedding: &str, head: &str) -> Self {
        if self.info(embedding).is_none() {
            self.rename(|name| (name == head).then(|| embedding.to_owned()));
        }
        self
    }

    fn rename(&mut self, new: impl Fn(&str) -> Option<String>) {
        for (_, tensor) in &mut self.tensors {
            if let Some(name) = new(&tensor.name) {
                tensor.name = name;
            }
        }
        let names = self.tensors.iter().enumerate();
        self.by_name = names
            .map(|(at, (_, tensor))| (tensor.name.clone(), at))
            .collect();
    }

    /// Whether the checkpoint has both tensors, and they differ in shape or in any number: they
    /// cannot be one, whatever a configuration says. Reads both as far as they agree.
    pub fn differ(&self, one: &str, other: &str) -> bool {
        match (self.get(one), self.get(other)) {
            (Some(one), Some(other)) => !same(one, other),
            _ => false,
        }
    }
}

fn same(one: View<'_>, other: View<'_>) -> bool {
    if one.shape != other.shape {
        return false;
    }
    if one.dtype == other.dtype {
        return one.bytes == other.bytes;
    }
    let (mut a, mut b) = (vec![0.0; BLOCK], vec![0.0; BLOCK]);
    (0..one.len()).step_by(BLOCK).all(|start| {
        let count = BLOCK.min(one.len() - start);
        one.read(start, &mut a[..count]);
        other.read(start, &mut b[..count]);
        a[..count] == b[..count]
    })
}
