//! MinCE and AvgCE over the rows of one sample.

use super::{FuseOptions, Level, PivotWins, Rule, Weights};
use crate::artifact::distribution::{Distribution, Distributions};
use crate::artifact::targets::Target;
use crate::units::TokenId;

/// A log-probability may be this much above 0, from rounding.
const SLACK: f32 = 1e-2;

/// What is wrong with a member's row.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) member: usize,
    pub(super) pos: u32,
    pub(super) what: &'static str,
}

/// What a member has at a position.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Has {
    /// A distribution, in this row.
    Row(usize),
    /// An empty list: no fusion loss here.
    Nothing,
    /// No row: left to the pivot.
    Absent,
}

/// Takes a target (`None`: the position gets none) and the member whose distribution it is
/// (`None`: a mean), and the number of random draws that it comes from (0: it does not).
pub(super) type Write<'w> = &'w mut dyn FnMut(Option<Target<'_>>, Option<usize>, u16);

/// Fuses rows; keeps its scratch space.
pub(super) struct Fuser<'a> {
    options: &'a FuseOptions,
    /// The next row of each member.
    next: Vec<usize>,
    has: Vec<Has>,
    weights: Vec<f64>,
    /// Member, row and weight of what is averaged.
    parts: Vec<(usize, usize, f64)>,
    gathered: Vec<(TokenId, f64)>,
    ids: Vec<TokenId>,
    probs: Vec<f32>,
}

impl<'a> Fuser<'a> {
    pub(super) fn new(options: &'a FuseOptions) -> Self {
        Self {
            options,
            next: Vec::new(),
            has: Vec::new(),
            weights: Vec::new(),
            parts: Vec::new(),
            gathered: Vec::new(),
            ids: Vec::new(),
            probs: Vec::new(),
        }
    }

    /// Calls `write` for each position at which a member has a row. `metrics` are those of the
    /// sample, by member; lower is better.
    pub(super) fn sample(
        &mut self,
        members: &[Option<Distributions<'_>>],
        metrics: &[f64],
        write: Write<'_>,
    ) -> Result<(), Problem> {
        let winner = lowest(metrics.iter().copied());
        self.next.clear();
        self.next.resize(members.len(), 0);
        while let Some(pos) = self.step(members)? {
            self.parts.clear();
            let single = match (self.options.rule, self.options.level) {
                (Rule::Mince, Level::Sequence) => self.of(winner),
                (Rule::Mince, Level::Token) => self.lowest_here(members),
                (Rule::Avgce, level) => {
                    let averaged = match level {
                        Level::Sequence => self.average(metrics),
                        Level::Token => self.average_here(members),
                    };
                    if averaged { None } else { self.default_row() }
                }
            };
            if let Some(next) = single.and_then(|single| self.text(members, single)) {
                let target = Target {
                    pos,
                    ids: &[next],
                    probs: &[1.0],
                    tail: 0.0,
                };
                write(Some(target), single.map(|(member, _)| member), 0);
                continue;
            }
            let (tail, draws) = match single {
                Some((member, row)) => self.take(members, member, row)?,
                None if self.parts.is_empty() => {
                    write(None, None, 0);
                    continue;
                }
                None => (self.gather(members)?, 0),
            };
            let target = Target {
                pos,
                ids: &self.ids,
                probs: &self.probs,
                tail,
            };
            write(Some(target), single.map(|(member, _)| member), draws);
        }
        Ok(())
    }

    /// Moves to the next position at which any member has a row.
    fn step(&mut self, members: &[Option<Distributions<'_>>]) -> Result<Option<u32>, Problem> {
        let at = |member: usize, row: usize| {
            let rows = members[member].as_ref()?;
            (row < rows.len()).then(|| rows.row(row))
        };
        let upcoming = (0..members.len()).filter_map(|m| at(m, self.next[m]));
        let Some(pos) = upcoming.map(|row| row.pos).min() else {
            return Ok(None);
        };
        self.has.clear();
        let mut target = None;
        for member in 0..members.len() {
            let here = at(member, self.next[member]).filter(|row| row.pos == pos);
            self.has.push(match here {
                Some(row) => {
                    let problem = |what| Problem { member, pos, what };
                    if *target.get_or_insert(row.target_id) != row.target_id {
                        return Err(problem("its next token differs from that of the others"));
                    }
                    self.next[member] += 1;
                    // Positions rise, or a row would never be reached.
                    if at(member, self.next[member]).is_some_and(|next| next.pos <= pos) {
                        return Err(problem("its rows are not sorted by position"));
                    }
                    if row.ids.is_empty() {
                        Has::Nothing
                    } else {
                        Has::Row(self.next[member] - 1)
                    }
                }
                None => Has::Absent,
            });
        }
        Ok(Some(pos))
    }

    /// The token that follows, where it is to be learnt instead of the pivot's own distribution.
    fn text(
        &self,
        members: &[Option<Distributions<'_>>],
        (member, row): (usize, usize),
    ) -> Option<TokenId> {
        let options = self.options;
        let replaced = options.use_pivot && options.pivot_wins == PivotWins::Text && member == 0;
        let rows = members.first()?.as_ref().filter(|_| replaced)?;
        Some(rows.row(row).target_id)
    }

    /// Takes a row into `ids` and `probs`; returns the tail and the number of random draws. But for
    /// the cut to k and the true token, which is always listed, it stays as it is: scaled, it would
    /// be rounded once more where it is stored, and shares of draws would no longer be unbiased.
    fn take(
        &mut self,
        members: &[Option<Distributions<'_>>],
        member: usize,
        row: usize,
    ) -> Result<(f32, u16), Problem> {
        self.ids.clear();
        self.probs.clear();
        let Some(rows) = &members[member] else {
            return Ok((1.0, 0));
        };
        let draws = rows.draws(row);
        let unlisted = unlisted(rows, row);
        let row = rows.row(row);
        check(&row, member)?;
        let k = self.options.top_k.unwrap_or(row.ids.len());
        let mut tail = prob(row.tail_logprob);
        for (at, (id, logprob)) in row.ids.iter().zip(row.logprobs).enumerate() {
            match at < k || *id == row.target_id {
                true => {
                    self.ids.push(*id);
                    self.probs.push(logprob.exp());
                }
                false => tail += prob(*logprob),
            }
        }
        if let Some(mass) = unlisted {
            let place = self.probs.partition_point(|p| f64::from(*p) >= mass);
            self.ids.insert(place, row.target_id);
            self.probs.insert(place, mass as f32);
            tail = (tail - mass).max(0.0);
        }
        Ok((tail as f32, draws))
    }

    /// The row that stands for a member: its own, or the pivot's where it is left to it.
    fn of(&self, member: usize) -> Option<(usize, usize)> {
        match (self.has.get(member)?, self.has.first()?) {
            (Has::Row(row), _) => Some((member, *row)),
            (Has::Absent, Has::Row(row)) if self.options.use_pivot => Some((0, *row)),
            _ => None,
        }
    }

    /// The row where positions cannot be compared: the pivot's, or without one the first.
    fn default_row(&self) -> Option<(usize, usize)> {
        if self.options.use_pivot {
            return self.of(0);
        }
        (0..self.has.len()).find_map(|member| self.of(member))
    }

    /// The members that can be compared here, with their row and negative log-likelihood.
    fn comparable<'b>(
        &'b self,
        members: &'b [Option<Distributions<'_>>],
    ) -> impl Iterator<Item = (usize, usize, f64)> + 'b {
        self.has.iter().enumerate().filter_map(|(member, has)| {
            let Has::Row(row) = *has else { return None };
            let nll = members[member].as_ref()?.exact_nll(row)?;
            (!nll.is_nan()).then_some((member, row, f64::from(nll)))
        })
    }

    fn lowest_here(&self, members: &[Option<Distributions<'_>>]) -> Option<(usize, usize)> {
        let best = self
            .comparable(members)
            .reduce(|best, other| if other.2 < best.2 { other } else { best });
        match best {
            Some((member, row, _)) => Some((member, row)),
            None => self.default_row(),
        }
    }

    /// Lists what is averaged, by the metrics of the sample; false if nothing is.
    fn average(&mut self, metrics: &[f64]) -> bool {
        self.weights.clear();
        self.weights.extend_from_slice(metrics);
        softmax(&mut self.weights, self.options.weights);
        for member in 0..self.has.len() {
            if let Some((from, row)) = self.of(member) {
                self.parts.push((from, row, self.weights[member]));
            }
        }
        !self.parts.is_empty()
    }

    /// The same by the members' own figures at this position.
    fn average_here(&mut self, members: &[Option<Distributions<'_>>]) -> bool {
        let mut parts = std::mem::take(&mut self.parts);
        parts.extend(self.comparable(members));
        self.weights.clear();
        self.weights.extend(parts.iter().map(|part| part.2));
        softmax(&mut self.weights, self.options.weights);
        for (part, weight) in parts.iter_mut().zip(&self.weights) {
            part.2 = *weight;
        }
        self.parts = parts;
        !self.parts.is_empty()
    }

    /// Adds up `parts` into `ids` and `probs`, cut to k; returns the tail. All sum to one.
    fn gather(&mut self, members: &[Option<Distributions<'_>>]) -> Result<f32, Problem> {
        let all: f64 = self.parts.iter().map(|part| part.2).sum();
        // Weights that all vanish (a sample without metrics) count the same.
        let even = (all <= 0.0).then(|| 1.0 / self.parts.len() as f64);
        self.gathered.clear();
        let (mut tail, mut k, mut next) = (0.0, 0, None);
        for &(member, row, weight) in &self.parts {
            let Some(rows) = &members[member] else {
                continue;
            };
            let unlisted = unlisted(rows, row);
            let row = rows.row(row);
            let total = check(&row, member)?;
            let weight = even.unwrap_or(weight / all);
            let scale = weight / total;
            // The true token does not count.
            k = k.max(row.ids.iter().filter(|id| **id != row.target_id).count());
            next = Some(row.target_id);
            let missing = unlisted.unwrap_or(0.0);
            tail += (prob(row.tail_logprob) - missing).max(0.0) * scale;
            let masses = row.logprobs.iter().map(|logprob| prob(*logprob) * scale);
            self.gathered.extend(row.ids.iter().copied().zip(masses));
            let missing = unlisted.map(|mass| (row.target_id, mass * scale));
            self.gathered.extend(missing);
        }
        self.gathered.sort_by_key(|entry| entry.0);
        self.gathered.dedup_by(|again, first| {
            let same = again.0 == first.0;
            if same {
                first.1 += again.1;
            }
            same
        });
        self.gathered
            .sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let k = self.options.top_k.unwrap_or(k);
        self.ids.clear();
        self.probs.clear();
        let mut others = 0;
        for (id, mass) in self.gathered.iter().filter(|entry| entry.1 > 0.0) {
            let is_next = Some(*id) == next;
            if !is_next && others == k {
                tail += mass;
                continue;
            }
            others += usize::from(!is_next);
            self.ids.push(*id);
            self.probs.push(*mass as f32);
        }
        Ok(tail as f32)
    }
}

/// The first of the lowest.
pub(super) fn lowest(metrics: impl Iterator<Item = f64>) -> usize {
    let best = metrics
        .enumerate()
        .reduce(|best, other| if other.1 < best.1 { other } else { best });
    best.map_or(0, |(member, _)| member)
}

/// Turns metrics into weights that sum to one; an infinite metric gets none (all the same if
/// every one is infinite).
pub(super) fn softmax(metrics: &mut [f64], weights: Weights) {
    let least = metrics.iter().copied().fold(f64::INFINITY, f64::min);
    if least == f64::INFINITY {
        let even = 1.0 / metrics.len() as f64;
        metrics.fill(even);
        return;
    }
    for metric in metrics.iter_mut() {
        *metric = match weights {
            Weights::Softmax => (least - *metric).exp(),
            Weights::Published if metric.is_infinite() => 0.0,
            Weights::Published => (-*metric).exp().exp(),
        };
    }
    let sum: f64 = metrics.iter().sum();
    for weight in metrics {
        *weight /= sum;
    }
}

/// The probability of the true token, where a row knows it and does not list it.
fn unlisted(rows: &Distributions<'_>, row: usize) -> Option<f64> {
    let nll = rows.exact_nll(row).filter(|_| rows.draws(row) == 0)?;
    let row = rows.row(row);
    (!row.ids.contains(&row.target_id)).then(|| f64::from(-nll).exp())
}

fn prob(logprob: f32) -> f64 {
    f64::from(logprob.exp())
}

/// The sum of all probabilities of a row: one, but for rounding; fails if that is no number.
fn check(row: &Distribution<'_>, member: usize) -> Result<f64, Problem> {
    let mut total = prob(row.tail_logprob);
    let mut sane = row.tail_logprob <= SLACK;
    for logprob in row.logprobs {
        // NaN compares false.
        sane &= *logprob <= SLACK;
        total += prob(*logprob);
    }
    if sane && total > 0.0 {
        return Ok(total);
    }
    Err(Problem {
        member,
        pos: row.pos,
        what: "a log-probability is not a number, or positive",
    })
}
