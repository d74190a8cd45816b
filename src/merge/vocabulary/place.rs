//! Which input row becomes which output row.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::merge::config::{TokenConfig, TokenSource};

/// What a row of a model's embedding is made from before models are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::merge) enum Row {
    /// A row of the model's own.
    Own(u32),
    /// The [`Fill`] with this number.
    Fill(u32),
    /// The mean of all rows that stand for a token: the output has no token here.
    Padding,
}

/// An embedding that all models share who get it. Models are numbered as in [`Placement::rows`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::merge) enum Fill {
    Zero,
    /// A row of a model.
    One(usize, u32),
    /// The mean of rows, at most one of each model.
    Mean(Vec<(usize, u32)>),
}

/// The rows of all models that take part in a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::merge) struct Placement {
    /// For each model the source of each output row.
    pub rows: Vec<Vec<Row>>,
    pub fills: Vec<Fill>,
}

/// A model as [`place`] sees it.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    /// As written in the configuration.
    pub name: &'a str,
    /// The ids of its tokens; row 0 stands for those that are not below `rows`.
    pub ids: &'a HashMap<String, u32>,
    /// The rows of its embedding.
    pub rows: usize,
}

impl Tokens<'_> {
    /// The row of a token that it has.
    fn row(&self, token: &str) -> Option<u32> {
        let id = *self.ids.get(token)?;
        Some(if (id as usize) < self.rows { id } else { 0 })
    }
}

/// Places the rows of `models` for an output with `rows` rows, whose tokens are `output` (in the
/// order of their ids, each id once). `base` is the place of the base model among them.
///
/// # Errors
///
/// A rule of `configured` whose model does not take part, or does not have the token or row.
pub(super) fn place(
    output: &[(u32, String)],
    rows: usize,
    models: &[Tokens<'_>],
    base: Option<usize>,
    configured: &[(String, TokenConfig)],
) -> Result<Placement> {
    let configured: HashMap<&str, &TokenConfig> = configured
        .iter()
        .map(|(token, config)| (token.as_str(), config))
        .collect();
    let mut placement = Placement {
        rows: vec![vec![Row::Padding; rows]; models.len()],
        fills: Vec::new(),
    };
    for (id, token) in output {
        let own: Vec<Option<u32>> = models.iter().map(|model| model.row(token)).collect();
        let config = configured.get(token.as_str());
        let fill = match config.and_then(|config| config.source.as_ref()) {
            Some(source) => Some(fixed(token, source, models)?),
            None => None,
        };
        let force = config.is_some_and(|config| config.force);
        let number = placement.fills.len() as u32;
        for (rows, own) in placement.rows.iter_mut().zip(&own) {
            rows[*id as usize] = match own {
                Some(row) if !force => Row::Own(*row),
                _ => Row::Fill(number),
            };
        }
        if force || own.contains(&None) {
            placement.fills.push(match fill {
                Some(fill) => fill,
                None => default(&own, base),
            });
        }
    }
    Ok(placement)
}

/// What models get that lack a token: the base's row, the only row there is, or the mean.
fn default(own: &[Option<u32>], base: Option<usize>) -> Fill {
    let all = || {
        own.iter()
            .enumerate()
            .filter_map(|(m, row)| Some((m, (*row)?)))
    };
    if let Some(base) = base
        && let Some(row) = own[base]
    {
        return Fill::One(base, row);
    }
    match all().count() {
        0 => Fill::Zero,
        1 => all()
            .map(|(model, row)| Fill::One(model, row))
            .next()
            .unwrap_or(Fill::Zero),
        _ => Fill::Mean(all().collect()),
    }
}

fn fixed(token: &str, source: &TokenSource, models: &[Tokens<'_>]) -> Result<Fill> {
    let place = format!("`tokenizer.tokens.{token}`");
    let find = |name: &str| {
        let found = models.iter().position(|model| model.name == name);
        found.ok_or_else(|| {
            Error::usage(format!(
                "{place}: model `{name}` is none of those whose embeddings are merged"
            ))
            .remedy("name one of the merged models as it is written there")
        })
    };
    let lookup = |model: usize, text: &str| {
        let row = models[model].row(text);
        row.map(|row| Fill::One(model, row)).ok_or_else(|| {
            Error::usage(format!(
                "{place}: model `{}` has no token `{text}`",
                models[model].name
            ))
            .remedy("write the token as the model's tokenizer.json does")
        })
    };
    match source {
        TokenSource::Zero => Ok(Fill::Zero),
        TokenSource::Model(model) => lookup(find(model)?, token),
        TokenSource::Token { model, token } => lookup(find(model)?, token),
        TokenSource::Row { model, id } => {
            let model = find(model)?;
            let rows = models[model].rows;
            match u32::try_from(*id) {
                Ok(row) if *id < rows => Ok(Fill::One(model, row)),
                _ => Err(Error::usage(format!(
                    "{place}: `token_id` {id}, the embedding of model `{}` has {rows} rows",
                    models[model].name
                ))),
            }
        }
    }
}

impl Placement {
    /// Whether every row stays where it is, and `rows` are all rows of each model.
    pub fn is_identity(&self, rows: &[usize]) -> bool {
        self.rows.iter().zip(rows).all(|(placed, rows)| {
            placed.len() == *rows && (0..).zip(placed).all(|(at, row)| *row == Row::Own(at))
        })
    }

    /// Whether every one of the first `rows` rows of each model stays where it is, and row 0 is what
    /// the others are: a tensor with so many rows can stay as it is.
    pub fn is_short_identity(&self, rows: &[usize]) -> bool {
        self.rows.iter().zip(rows).all(|(placed, rows)| {
            let mut placed_rows = (0u32..).zip(placed);
            placed.len() >= *rows
                && placed_rows.all(|(at, row)| match (at as usize) < *rows {
                    true => *row == Row::Own(at),
                    false => matches!(row, Row::Own(0) | Row::Padding),
                })
        })
    }

    /// Feeds `hasher` all that the placement says.
    pub fn hash(&self, hasher: &mut blake3::Hasher) {
        let mut add = |a: u64, b: u64| {
            hasher.update(&a.to_le_bytes()).update(&b.to_le_bytes());
        };
        for rows in &self.rows {
            add(0, rows.len() as u64);
            for row in rows {
                match row {
                    Row::Own(row) => add(1, u64::from(*row)),
                    Row::Fill(fill) => add(2, u64::from(*fill)),
                    Row::Padding => add(3, 0),
                }
            }
        }
        for fill in &self.fills {
            let sources = match fill {
                Fill::Zero => &[][..],
                Fill::One(model, row) => &[(*model, *row)],
                Fill::Mean(sources) => sources,
            };
            add(4, sources.len() as u64);
            for (model, row) in sources {
                add(*model as u64, u64::from(*row));
            }
        }
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        let rows: usize = self.rows.iter().map(Vec::len).sum();
        (rows * size_of::<Row>() + self.fills.len() * 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(tokens: &[(&str, u32)]) -> HashMap<String, u32> {
        tokens
            .iter()
            .map(|(token, id)| ((*token).to_owned(), *id))
            .collect()
    }

    /// Places models (the base is the first) for the tokens `output`, `None` where an id has none.
    fn placed(
        output: &[Option<&str>],
        models: &[(&str, HashMap<String, u32>)],
        configured: &[(&str, Option<TokenSource>, bool)],
    ) -> Result<Placement> {
        let tokens: Vec<(u32, String)> = (0..)
            .zip(output)
            .filter_map(|(id, token)| Some((id, (*token)?.to_owned())))
            .collect();
        let models: Vec<Tokens<'_>> = models
            .iter()
            .map(|(name, ids)| Tokens {
                name,
                ids,
                rows: 10,
            })
            .collect();
        let configured: Vec<(String, TokenConfig)> = configured
            .iter()
            .map(|(token, source, force)| {
                let config = TokenConfig {
                    source: source.clone(),
                    force: *force,
                };
                ((*token).to_owned(), config)
            })
            .collect();
        place(&tokens, output.len(), &models, Some(0), &configured)
    }

    fn models() -> [(&'static str, HashMap<String, u32>); 3] {
        [
            ("base", ids(&[("a", 0), ("b", 1)])),
            ("m", ids(&[("b", 0), ("c", 1), ("d", 2)])),
            ("n", ids(&[("a", 4), ("b", 3), ("d", 0)])),
        ]
    }

    use Row::{Fill as F, Own, Padding};

    #[test]
    fn the_default_is_the_base_then_the_only_one_then_the_mean_then_zero() {
        let output = [Some("a"), Some("b"), Some("c"), None, Some("d"), Some("e")];
        let found = placed(&output, &models(), &[]).unwrap();
        assert_eq!(
            found.fills,
            [
                Fill::One(0, 0),
                Fill::One(1, 1),
                Fill::Mean(vec![(1, 2), (2, 0)]),
                Fill::Zero
            ]
        );
        assert_eq!(found.rows[0], [Own(0), Own(1), F(1), Padding, F(2), F(3)]);
        assert_eq!(found.rows[1], [F(0), Own(0), Own(1), Padding, Own(2), F(3)]);
        assert_eq!(found.rows[2], [Own(4), Own(3), F(1), Padding, Own(0), F(3)]);
    }

    #[test]
    fn what_is_configured_for_a_token_comes_first() {
        let model = |name: &str| Some(TokenSource::Model(name.into()));
        let token = |model: &str, token: &str| {
            Some(TokenSource::Token {
                model: model.into(),
                token: token.into(),
            })
        };
        let row = |id| {
            Some(TokenSource::Row {
                model: "n".into(),
                id,
            })
        };
        let output = [Some("a"), Some("b"), Some("c"), Some("d")];
        let configured = [
            ("a", model("n"), false),
            ("b", token("m", "d"), true),
            ("c", row(9), false),
            ("d", Some(TokenSource::Zero), false),
        ];
        let found = placed(&output, &models(), &configured).unwrap();
        assert_eq!(
            found.fills,
            [
                Fill::One(2, 4),
                Fill::One(1, 2),
                Fill::One(2, 9),
                Fill::Zero
            ]
        );
        assert_eq!(found.rows[0], [Own(0), F(1), F(2), F(3)]);
        assert_eq!(found.rows[1], [F(0), F(1), Own(1), Own(2)]);
        assert_eq!(found.rows[2], [Own(4), F(1), F(2), Own(0)]);
        // Forced without a source: the default for all.
        let found = placed(&output[..2], &models(), &[("b", None, true)]).unwrap();
        assert_eq!(found.rows, [[Own(0), F(1)], [F(0), F(1)], [Own(4), F(1)]]);
        assert_eq!(found.fills[1], Fill::One(0, 1));
        for (config, part) in [
            (model("x"), "`x` is none of those"),
            (model("m"), "`m` has no token `a`"),
            (token("n", "zz"), "`n` has no token `zz`"),
            (row(10), "has 10 rows"),
            (row(1 << 32), "has 10 rows"),
        ] {
            let error = placed(&output, &models(), &[("a", config, false)]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn row_0_stands_for_tokens_beyond_a_short_table() {
        let model = |name: &'static str, tokens: &[(&str, u32)]| (name, ids(tokens));
        let [a, b] = [
            model("a", &[("x", 0), ("y", 1), ("z", 2)]),
            model("b", &[("z", 0), ("x", 1), ("y", 2)]),
        ];
        let place_short = |models: &[&(&str, HashMap<String, u32>)], output: &[&str]| {
            let tokens: Vec<Tokens<'_>> = models
                .iter()
                .map(|(name, ids)| Tokens { name, ids, rows: 2 })
                .collect();
            let output: Vec<(u32, String)> = (0..)
                .zip(output)
                .map(|(id, token)| (id, (*token).to_owned()))
                .collect();
            place(&output, output.len(), &tokens, Some(0), &[]).unwrap()
        };
        let both = place_short(&[&a, &b], &["x", "y", "z", "new"]);
        assert_eq!(both.rows[0], [Own(0), Own(1), Own(0), F(0)]);
        assert_eq!(both.rows[1], [Own(1), Own(0), Own(0), F(0)]);
        assert!(!both.is_short_identity(&[2, 2]));
        let own = place_short(&[&a], &["x", "y", "z"]);
        assert!(own.is_short_identity(&[2]) && !own.is_identity(&[2]));
        assert!(!place_short(&[&b], &["x", "y", "z"]).is_short_identity(&[2]));
        assert!(!place_short(&[&a], &["x"]).is_short_identity(&[2]));
    }

    #[test]
    fn equal_vocabularies_stay_where_they_are() {
        let both = [
            ("a", ids(&[("x", 0), ("y", 1)])),
            ("b", ids(&[("x", 0), ("y", 1)])),
        ];
        let same = placed(&[Some("x"), Some("y")], &both, &[]).unwrap();
        assert!(same.is_identity(&[2, 2]));
        assert!(!same.is_identity(&[2, 3]));
        let swapped = placed(&[Some("y"), Some("x")], &both, &[]).unwrap();
        assert!(!swapped.is_identity(&[2, 2]));
        let digest = |placement: &Placement| {
            let mut hasher = blake3::Hasher::new();
            placement.hash(&mut hasher);
            hasher.finalize()
        };
        assert_ne!(digest(&same), digest(&swapped));
    }
}
