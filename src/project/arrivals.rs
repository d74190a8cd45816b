//! The probability that arrives at each id of the pivot's vocabulary, and the list made of it.

use crate::units::TokenId;

/// Up to how many entries are searched for an id; more are sorted.
const SHORT: usize = 32;

/// One row in work; its space is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Where it has arrived; no id twice while there are at most [`SHORT`].
    places: Vec<TokenId>,
    /// How much of it, parallel to `places`.
    masses: Vec<f64>,
    /// Scratch space: both together.
    entries: Vec<(TokenId, f64)>,
    /// Probability outside the list.
    pub(super) rest: f64,
    /// The list, by falling probability.
    pub(super) ids: Vec<TokenId>,
    /// Parallel to `ids`.
    pub(super) logprobs: Vec<f32>,
}

impl Arrivals {
    pub(super) fn start(&mut self) {
        self.places.clear();
        self.masses.clear();
        self.rest = 0.0;
    }

    /// Adds to what has arrived for an id.
    #[inline]
    pub(super) fn add(&mut self, id: TokenId, mass: f64) {
        if self.places.len() <= SHORT
            && let Some(known) = self.places.iter().position(|place| *place == id)
        {
            self.masses[known] += mass;
            return;
        }
        self.places.push(id);
        self.masses.push(mass);
    }

    /// What has arrived for an id.
    #[cfg(test)]
    pub(super) fn of(&self, id: TokenId) -> f64 {
        let all = self.places.iter().zip(&self.masses);
        let here = all.filter(|(place, _)| **place == id);
        here.map(|(_, mass)| mass).sum()
    }

    /// What has arrived at any id.
    pub(super) fn total(&self) -> f64 {
        self.masses.iter().sum()
    }

    /// Multiplies everything.
    pub(super) fn scale(&mut self, by: f64) {
        self.masses.iter_mut().for_each(|mass| *mass *= by);
        self.rest *= by;
    }

    /// Makes the list of the `k` most probable ids, and of `always`; the others join the rest.
    pub(super) fn list(&mut self, k: usize, always: Option<TokenId>) {
        self.entries.clear();
        let all = self.places.iter().copied().zip(self.masses.iter().copied());
        self.entries.extend(all);
        if self.entries.len() > SHORT {
            self.entries.sort_by_key(|entry| entry.0);
            self.entries.dedup_by(|again, first| {
                let same = again.0 == first.0;
                if same {
                    first.1 += again.1;
                }
                same
            });
        }
        self.entries.retain(|entry| entry.1 > 0.0);
        let by_mass = |a: &(TokenId, f64), b: &(TokenId, f64)| b.1.total_cmp(&a.1);
        self.entries
            .sort_unstable_by(|a, b| by_mass(a, b).then(a.0.cmp(&b.0)));
        let mut beyond = self.entries.iter().skip(k);
        let kept = match beyond.position(|entry| Some(entry.0) == always) {
            Some(at) => {
                self.entries.swap(k, k + at);
                k + 1
            }
            None => k,
        };
        let cut = self.entries.iter().skip(kept);
        self.rest += cut.map(|entry| entry.1).sum::<f64>();
        self.entries.truncate(kept);
        self.ids.clear();
        self.logprobs.clear();
        for (id, mass) in &self.entries {
            self.ids.push(*id);
            self.logprobs.push((*mass as f32).ln());
        }
    }

    /// Makes a list of one id that is certain.
    pub(super) fn only(&mut self, id: TokenId) {
        self.nothing();
        self.rest = 0.0;
        self.ids.push(id);
        self.logprobs.push(0.0);
    }

    /// Makes an empty list: everything is in the rest.
    pub(super) fn nothing(&mut self) {
        self.ids.clear();
        self.logprobs.clear();
        self.rest = 1.0;
    }
}
