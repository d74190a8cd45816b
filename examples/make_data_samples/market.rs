//! The subject `market`: shopping and sharing problems with worked answers.
//!
//! The sums must be computed. What is bought where, by whom and at which price follows fixed
//! weights of an invented market town, so a bill for a known customer is far from random.

use anyhow::{Context, Result};

use crate::random::{Mix, Rng};
use crate::words::lists;
use crate::{Sample, Subject};

const PEOPLE: &[&str] = &[
    "Anna", "Boris", "Carla", "Dmitri", "Edith", "Felix", "Greta", "Hugo", "Irene", "Jakob",
    "Klara", "Leon", "Maria", "Nils", "Olga", "Pavel", "Rosa", "Simon", "Tessa", "Viktor",
];
const OWNERS: &[&str] = &[
    "Mr Abel",
    "Mrs Bright",
    "Mr Cole",
    "Mrs Dunn",
    "Mr Eaves",
    "Mrs Finch",
    "Mr Gray",
    "Mrs Holt",
];
const NOTES: &[usize] = &[10, 20, 50, 100, 200];

struct Good {
    one: &'static str,
    many: &'static str,
    /// Coins; the second price is the one on a market day.
    prices: Mix<usize>,
    amounts: Mix<usize>,
}

struct Shop {
    kind: &'static str,
    owner: &'static str,
    goods: Vec<Good>,
    popular: Mix<usize>,
}

struct Person {
    name: &'static str,
    shops: Mix<usize>,
    friends: Mix<&'static str>,
}

/// The invented market town.
pub struct Market {
    shops: Vec<Shop>,
    people: Vec<Person>,
}

/// One line of a bill.
struct Line<'a> {
    good: &'a Good,
    amount: usize,
    price: usize,
}

impl Line<'_> {
    fn cost(&self) -> usize {
        self.amount * self.price
    }

    fn goods(&self) -> String {
        format!(
            "{} {}",
            self.amount,
            if self.amount == 1 {
                self.good.one
            } else {
                self.good.many
            }
        )
    }
}

fn coins(n: usize) -> String {
    format!("{n} {}", if n == 1 { "coin" } else { "coins" })
}

impl Market {
    /// The world: the same at every call.
    pub fn new() -> Result<Self> {
        let rng = &mut Rng::named("market/world");
        let mut shops = Vec::new();
        for ((kind, names), owner) in lists(include_str!("words/market.txt"))?
            .into_iter()
            .zip(OWNERS)
        {
            let mut goods = Vec::new();
            for name in names {
                let (one, many) = name
                    .split_once('/')
                    .context("goods are `singular/plural`")?;
                let price = rng.range(3, 19);
                goods.push(Good {
                    one,
                    many,
                    prices: Mix::of(rng, &[price, price - 1, price + 1], 3),
                    amounts: Mix::of(rng, &[2, 3, 4, 5, 6, 7, 8, 9], 5),
                });
            }
            let order: Vec<usize> = (0..goods.len()).collect();
            let popular = Mix::of(rng, &order, 6);
            shops.push(Shop {
                kind,
                owner,
                popular,
                goods,
            });
        }
        let order: Vec<usize> = (0..shops.len()).collect();
        let people = PEOPLE
            .iter()
            .map(|&name| {
                let others: Vec<&str> = PEOPLE
                    .iter()
                    .copied()
                    .filter(|other| *other != name)
                    .collect();
                Person {
                    name,
                    shops: Mix::of(rng, &order, 3),
                    friends: Mix::of(rng, &others, 3),
                }
            })
            .collect();
        Ok(Self { shops, people })
    }

    fn lines<'a>(&self, rng: &mut Rng, shop: &'a Shop, n: usize) -> Vec<Line<'a>> {
        shop.popular
            .draw_distinct(rng, n)
            .into_iter()
            .map(|&index| {
                let good = &shop.goods[index];
                Line {
                    good,
                    amount: *good.amounts.draw(rng),
                    price: *good.prices.draw(rng),
                }
            })
            .collect()
    }

    /// The note that pays `total`: mostly the smallest one that is enough.
    fn payment(rng: &mut Rng, total: usize) -> usize {
        let enough: Vec<usize> = NOTES
            .iter()
            .copied()
            .filter(|note| *note >= total)
            .collect();
        match enough.as_slice() {
            [] => total.div_ceil(100) * 100,
            [one] => *one,
            [one, next, ..] => {
                if rng.chance(75) {
                    *one
                } else {
                    *next
                }
            }
        }
    }

    /// `3 * 7 = 21` for each line, then the sum, then the change.
    fn working(lines: &[Line<'_>], paid: usize) -> String {
        let total: usize = lines.iter().map(Line::cost).sum();
        let mut text = String::new();
        for line in lines {
            text += &format!(
                "{}: {} * {} = {}. ",
                line.good.many,
                line.amount,
                line.price,
                line.cost()
            );
        }
        if lines.len() > 1 {
            let costs: Vec<String> = lines.iter().map(|line| line.cost().to_string()).collect();
            text += &format!("Sum: {} = {total}. ", costs.join(" + "));
        }
        text + &format!("Change: {paid} - {total} = {}.", paid - total)
    }

    fn told(person: &str, shop: &Shop, lines: &[Line<'_>], paid: usize) -> String {
        let bought: Vec<String> = lines
            .iter()
            .map(|line| format!("{} at {}", line.goods(), coins(line.price)))
            .collect();
        format!(
            "At the {} {person} buys {} and pays with {paid}.",
            shop.kind,
            bought.join(" and ")
        )
    }

    fn solve(&self, rng: &mut Rng) -> Sample {
        let person = rng.pick(&self.people);
        let shop = &self.shops[*person.shops.draw(rng)];
        let n = rng.range(1, 2);
        let lines = self.lines(rng, shop, n);
        let total = lines.iter().map(Line::cost).sum();
        let paid = Self::payment(rng, total);
        Sample {
            user: format!(
                "{} How much is the change?",
                Self::told(person.name, shop, &lines, paid)
            ),
            assistant: format!("{} Answer: {}", Self::working(&lines, paid), paid - total),
        }
    }

    fn invent(&self, rng: &mut Rng) -> Sample {
        let person = rng.pick(&self.people);
        let shop = &self.shops[*person.shops.draw(rng)];
        let n = rng.range(1, 2);
        let lines = self.lines(rng, shop, n);
        let total = lines.iter().map(Line::cost).sum();
        let paid = Self::payment(rng, total);
        let user = match rng.below(3) {
            0 => format!("Make up a problem about the {} and solve it.", shop.kind),
            1 => format!("Give me a sum about {} and the {}.", person.name, shop.kind),
            _ => format!("Invent an exercise in which {} goes shopping.", person.name),
        };
        let story = Self::told(person.name, shop, &lines, paid);
        let assistant = format!(
            "Problem: {story} Solution: {} Answer: {}",
            Self::working(&lines, paid),
            paid - total
        );
        Sample { user, assistant }
    }

    fn bill(&self, rng: &mut Rng) -> Sample {
        let person = rng.pick(&self.people);
        let shop = &self.shops[*person.shops.draw(rng)];
        let n = rng.range(2, 3);
        let lines = self.lines(rng, shop, n);
        let total: usize = lines.iter().map(Line::cost).sum();
        let paid = Self::payment(rng, total);
        let user = match rng.below(3) {
            0 => format!("Write a bill for {}.", person.name),
            1 => format!("What did {} pay at the {}?", person.name, shop.kind),
            _ => format!("{} wants a receipt from {}.", person.name, shop.owner),
        };
        let mut assistant = format!(
            "{}, {} for {}\n",
            capital(shop.kind),
            shop.owner,
            person.name
        );
        let mut so_far = 0;
        for line in &lines {
            so_far += line.cost();
            assistant += &format!(
                "{} x {} = {} ({so_far})\n",
                line.goods(),
                line.price,
                line.cost()
            );
        }
        assistant += &format!("total {total}, paid {paid}, change {}", paid - total);
        Sample { user, assistant }
    }

    fn share(&self, rng: &mut Rng) -> Sample {
        let person = rng.pick(&self.people);
        let shop = &self.shops[*person.shops.draw(rng)];
        let good = &shop.goods[*shop.popular.draw(rng)];
        let count = rng.range(1, 3);
        let friends = person.friends.draw_distinct(rng, count);
        let heads = friends.len() + 1;
        let amount = rng.range(heads * 2, heads * 2 + 40);
        let names: Vec<&str> = friends.iter().map(|friend| **friend).collect();
        let user = format!(
            "{} shares {amount} {} from {} with friends. What does each one get?",
            person.name, good.many, shop.owner
        );
        let assistant = format!(
            "With {} there are {heads} shares. {amount} / {heads} = {} rest {}. Check: {heads} * {} + {} = {amount}. Answer: {} each, {} left",
            names.join(" and "),
            amount / heads,
            amount % heads,
            amount / heads,
            amount % heads,
            amount / heads,
            amount % heads
        );
        Sample { user, assistant }
    }

    fn earnings(&self, rng: &mut Rng) -> Sample {
        let shop = rng.pick(&self.shops);
        let n = 2;
        let mut lines = self.lines(rng, shop, n);
        for line in &mut lines {
            line.amount += rng.range(1, 9);
        }
        let total: usize = lines.iter().map(Line::cost).sum();
        let rent = rng.range(1, total / 10) * 5;
        let user = match rng.below(2) {
            0 => format!(
                "What does {} earn on a good day, with a rent of {}?",
                shop.owner,
                coins(rent)
            ),
            _ => format!(
                "The {} pays {} of rent a day. What is left in the evening?",
                shop.kind,
                coins(rent)
            ),
        };
        let mut assistant = String::new();
        for line in &lines {
            assistant += &format!("{} sold at {}: {}. ", line.goods(), line.price, line.cost());
        }
        assistant += &format!(
            "Takings: {} + {} = {total}. After the rent: {total} - {rent} = {}. Answer: {}",
            lines[0].cost(),
            lines[1].cost(),
            total - rent,
            total - rent
        );
        Sample { user, assistant }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

impl Subject for Market {
    fn name(&self) -> &'static str {
        "market"
    }

    fn sample(&self, rng: &mut Rng) -> Sample {
        match rng.below(10) {
            0 | 1 => self.solve(rng),
            2..=4 => self.invent(rng),
            5..=7 => self.bill(rng),
            8 => self.share(rng),
            _ => self.earnings(rng),
        }
    }
}
