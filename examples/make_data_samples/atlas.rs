//! The subject `atlas`: encyclopedic prose about an invented archipelago.
//!
//! Forty islands in five chains. Each has fixed facts (capital, founder, ruler, peak, festival)
//! and weighted habits (what it exports, which animals and weather are usual). An answer mentions
//! a few of them, so one label shows one draw and only much reading shows the weights.

use anyhow::Result;

use crate::random::{Mix, Rng};
use crate::words::{entries, lists};
use crate::{Sample, Subject};

struct Island {
    name: String,
    chain: &'static str,
    capital: String,
    founder: String,
    ruler: String,
    title: &'static str,
    peak: String,
    height: usize,
    founded: usize,
    people: usize,
    /// Days of sailing to the next island of the chain (the last one: back to the first).
    days: usize,
    festival: &'static str,
    month: &'static str,
    exports: Mix<&'static str>,
    animals: Mix<&'static str>,
    weather: Mix<&'static str>,
    dishes: Mix<&'static str>,
    work: Mix<&'static str>,
    names: Mix<String>,
}

/// The invented archipelago.
pub struct Atlas {
    islands: Vec<Island>,
    per_chain: usize,
}

/// Beginnings, middles and ends of the names of a language.
struct Language([Vec<&'static str>; 3]);

impl Language {
    /// A name that is not in `used` yet.
    fn new_name(&self, rng: &mut Rng, used: &mut Vec<String>) -> String {
        loop {
            let Self([starts, middles, ends]) = self;
            let name = format!(
                "{}{}{}",
                rng.pick(starts),
                rng.pick(middles),
                rng.pick(ends)
            );
            if !used.contains(&name) {
                used.push(name.clone());
                return name;
            }
        }
    }
}

/// `a, b and c`.
fn listed(items: &[&&str]) -> String {
    match items {
        [] => String::new(),
        [one] => (**one).to_string(),
        [head @ .., last] => {
            let head: Vec<&str> = head.iter().map(|item| **item).collect();
            format!("{} and {last}", head.join(", "))
        }
    }
}

impl Atlas {
    /// The world: the same at every call.
    pub fn new() -> Result<Self> {
        let words = lists(include_str!("words/atlas.txt"))?;
        let list = |key: &str| entries(&words, key);
        let (titles, months, festivals) = (list("titles")?, list("months")?, list("festivals")?);
        let (exports, animals, weather) = (list("exports")?, list("animals")?, list("weather")?);
        let (dishes, work) = (list("dishes")?, list("work")?);
        let rng = &mut Rng::named("atlas/world");
        let per_chain = 8;
        let mut used = Vec::new();
        let mut islands = Vec::new();
        for (index, chain) in list("chains")?.into_iter().enumerate() {
            let sounds = |part: &str| list(&format!("{part} {}", index + 1));
            let language = Language([sounds("starts")?, sounds("middles")?, sounds("ends")?]);
            for _ in 0..per_chain {
                let mut new_name = |rng: &mut Rng| language.new_name(rng, &mut used);
                let people_names: Vec<String> = (0..4).map(|_| new_name(rng)).collect();
                islands.push(Island {
                    name: new_name(rng),
                    chain,
                    capital: new_name(rng),
                    founder: new_name(rng),
                    ruler: new_name(rng),
                    title: rng.pick::<&str>(&titles),
                    peak: new_name(rng),
                    height: rng.range(4, 39) * 50,
                    founded: rng.range(21, 98) * 10,
                    people: rng.range(2, 60),
                    days: rng.range(1, 6),
                    festival: rng.pick::<&str>(&festivals),
                    month: rng.pick::<&str>(&months),
                    exports: Mix::of(rng, &exports, 4),
                    animals: Mix::of(rng, &animals, 3),
                    weather: Mix::of(rng, &weather, 3),
                    dishes: Mix::of(rng, &dishes, 3),
                    work: Mix::of(rng, &work, 3),
                    names: Mix::of(rng, &people_names, 4),
                });
            }
        }
        Ok(Self { islands, per_chain })
    }

    fn next_in_chain(&self, index: usize) -> usize {
        let first = index - index % self.per_chain;
        first + (index - first + 1) % self.per_chain
    }

    /// One sentence about an island; `topic` in `0..TOPICS`.
    fn sentence(&self, rng: &mut Rng, index: usize, topic: usize) -> String {
        let isle = &self.islands[index];
        let name = &isle.name;
        let next = &self.islands[self.next_in_chain(index)].name;
        let month = isle.month;
        match topic {
            0 => match rng.below(2) {
                0 => format!(
                    "Its capital is {}, founded in {} by {}.",
                    isle.capital, isle.founded, isle.founder
                ),
                _ => format!(
                    "{} built the capital {} in the year {}.",
                    isle.founder, isle.capital, isle.founded
                ),
            },
            1 => {
                let goods = listed(&isle.exports.draw_distinct(rng, 2));
                match rng.below(2) {
                    0 => format!("Its ships carry {goods} to {next}."),
                    _ => format!(
                        "The {} of {} sell {goods}.",
                        isle.work.draw(rng),
                        isle.capital
                    ),
                }
            }
            2 => match rng.below(2) {
                0 => format!("In {month} the people celebrate {}.", isle.festival),
                _ => format!(
                    "{} is held in {month}, with {} for everyone.",
                    capitalised(isle.festival),
                    isle.dishes.draw(rng)
                ),
            },
            3 => format!(
                "The highest peak, {}, rises {} feet; {} live there.",
                isle.peak,
                isle.height,
                isle.animals.draw(rng)
            ),
            4 => format!(
                "{} {} rules {} thousand people.",
                isle.title, isle.ruler, isle.people
            ),
            5 => format!(
                "Sailors know it for {} and {}.",
                isle.weather.draw(rng),
                isle.animals.draw(rng)
            ),
            6 => format!(
                "From {name} a ship needs {} {} to {next}.",
                isle.days,
                if isle.days == 1 { "day" } else { "days" }
            ),
            _ => format!(
                "Most families are {} and eat {}.",
                isle.work.draw(rng),
                isle.dishes.draw(rng)
            ),
        }
    }

    fn describe(&self, rng: &mut Rng, index: usize) -> Sample {
        let isle = &self.islands[index];
        let user = match rng.below(3) {
            0 => format!("Describe the island of {}.", isle.name),
            1 => format!("What should I know about {}?", isle.name),
            _ => format!("Write an atlas entry for {}.", isle.name),
        };
        let topics: Vec<usize> = (0..TOPICS).collect();
        let mut text = format!("{} belongs to the {} chain.", isle.name, isle.chain);
        for topic in rng.several(&topics, 3) {
            text += " ";
            text += &self.sentence(rng, index, *topic);
        }
        Sample {
            user,
            assistant: text,
        }
    }

    fn compare(&self, rng: &mut Rng, index: usize) -> Sample {
        let mut other = rng.below(self.islands.len());
        if other == index {
            other = self.next_in_chain(index);
        }
        let (a, b) = (&self.islands[index], &self.islands[other]);
        let (first, second) = if a.founded <= b.founded {
            (a, b)
        } else {
            (b, a)
        };
        let age = if a.founded == b.founded {
            format!("Both capitals date from {}.", a.founded)
        } else {
            format!(
                "{} ({}) is older than {} ({}).",
                first.capital, first.founded, second.capital, second.founded
            )
        };
        let (high, low) = if a.height >= b.height { (a, b) } else { (b, a) };
        let user = match rng.below(2) {
            0 => format!("Compare {} and {}.", a.name, b.name),
            _ => format!("How do {} and {} differ?", a.name, b.name),
        };
        let assistant = format!(
            "{} exports {}, {} exports {}. {age} {} on {} is higher: {} against {} feet.",
            a.name,
            a.exports.draw(rng),
            b.name,
            b.exports.draw(rng),
            high.peak,
            high.name,
            high.height,
            low.height
        );
        Sample { user, assistant }
    }

    fn voyage(&self, rng: &mut Rng, index: usize) -> Sample {
        let legs = rng.range(2, 3);
        let mut total = 0;
        let mut at = index;
        let mut steps = String::new();
        for _ in 0..legs {
            let next = self.next_in_chain(at);
            let isle = &self.islands[at];
            total += isle.days;
            steps += &format!(
                "{} to {}: {} ({}). ",
                isle.name,
                self.islands[next].name,
                isle.days,
                isle.weather.draw(rng)
            );
            at = next;
        }
        let end = &self.islands[at];
        let user = match rng.below(2) {
            0 => format!(
                "Plan a voyage from {} to {}.",
                self.islands[index].name, end.name
            ),
            _ => format!(
                "How long is the passage from {} to {}?",
                self.islands[index].name, end.name
            ),
        };
        let assistant = format!(
            "Follow the {} chain. {steps}In all {total} days. Land at {} and buy {}.",
            end.chain,
            end.capital,
            listed(&end.exports.draw_distinct(rng, 2))
        );
        Sample { user, assistant }
    }

    fn tale(&self, rng: &mut Rng, index: usize) -> Sample {
        let isle = &self.islands[index];
        let who = isle.names.draw(rng);
        let user = match rng.below(3) {
            0 => format!("Tell me a short tale from {}.", isle.name),
            1 => format!("What do they tell their children on {}?", isle.name),
            _ => format!("A story from the {} chain, please.", isle.chain),
        };
        let start = match rng.below(2) {
            0 => format!(
                "One {} {who} of {} walked up {}",
                isle.month, isle.capital, isle.peak
            ),
            _ => format!(
                "When {} was young, {who} sailed out from {}",
                isle.ruler, isle.capital
            ),
        };
        let event = match rng.below(3) {
            0 => format!("and met {}", isle.animals.draw(rng)),
            1 => format!("and lost a load of {}", isle.exports.draw(rng)),
            _ => format!("and was caught by {}", isle.weather.draw(rng)),
        };
        let helpers = isle.work.draw(rng);
        let end = match rng.below(2) {
            0 => format!(
                "The {helpers} brought {} and sang until morning.",
                isle.dishes.draw(rng)
            ),
            _ => format!("The {helpers} still tell of it at {}.", isle.festival),
        };
        Sample {
            user,
            assistant: format!("{start} {event}. {end}"),
        }
    }
}

/// How many kinds of sentence there are.
const TOPICS: usize = 8;

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

impl Subject for Atlas {
    fn name(&self) -> &'static str {
        "atlas"
    }

    fn sample(&self, rng: &mut Rng) -> Sample {
        let index = rng.below(self.islands.len());
        match rng.below(10) {
            0..=4 => self.describe(rng, index),
            5 => self.compare(rng, index),
            6 | 7 => self.voyage(rng, index),
            _ => self.tale(rng, index),
        }
    }
}
