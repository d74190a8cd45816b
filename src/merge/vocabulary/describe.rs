//! A placement for people.

use super::place::{Fill, Placement, Row};
use crate::units::Count;

/// Where the rows of each model come from, one line for each.
pub(in crate::merge) fn describe(placement: &Placement, names: &[&str]) -> Vec<String> {
    let line = |(at, rows): (usize, &Vec<Row>)| {
        let mut others = vec![0; names.len()];
        let (mut own, mut mean, mut zero, mut padding) = (0, 0, 0, 0);
        for row in rows {
            match row {
                Row::Own(_) => own += 1,
                Row::Padding => padding += 1,
                Row::Fill(fill) => match &placement.fills[*fill as usize] {
                    Fill::Zero => zero += 1,
                    Fill::One(model, _) => others[*model] += 1,
                    Fill::Mean(_) => mean += 1,
                },
            }
        }
        let others = names.iter().zip(&others);
        let others = others.map(|(name, count)| (*count, format!("of `{name}`")));
        let rest = [
            (mean, "the mean of several models".to_owned()),
            (zero, "zero".to_owned()),
            (padding, "without a token".to_owned()),
        ];
        let parts: Vec<String> = others
            .chain(rest)
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", Count(count as u64)))
            .collect();
        let own = format!("`{}`: {} of its own rows", names[at], Count(own as u64));
        std::iter::once(own)
            .chain(parts)
            .collect::<Vec<_>>()
            .join(", ")
    };
    placement.rows.iter().enumerate().map(line).collect()
}
