//! Vocabulary map: how the ids of a source vocabulary translate to the pivot's.
//!
//! Works on token *bytes*, never on display strings. For each source token the first rule that
//! applies wins, and `token_map.method` says which:
//!
//! 1. `special`: special tokens map by role (bos, eos, pad, end of turn), never otherwise but to
//!    a special token of the same spelling.
//! 2. `exact`: the pivot token of the same bytes; an ordinary piece before an added token, a
//!    byte-fallback token last.
//! 3. what the method says: `counted` (`ms`), `prefix` (`prefix`, and `ms` for tokens that the
//!    corpus does not have).
//! 4. `edited`: the least edit distance (all methods but `em`).
//!
//! Projection only follows the map: it sends a token's probability to the `width` best ranks, by
//! weight.

mod counts;
mod edits;
#[cfg(test)]
mod tests;

pub use edits::{EditIndex, Nearest};

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::token_map::{self, MapMethod, MapRow};
use crate::artifact::{Artifact, Existing, Kind, Writing};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::stage::{self, Item, Reads, Source, Stage, UP_TO_DATE};
use crate::units::{Count, TokenId};
use crate::vocab::{Kind as TokenKind, Role, Token, Vocabularies, Vocabulary, distance};

/// Source tokens that are mapped between two looks for an interrupt.
const CHUNK: usize = 1024;

/// Roles in the order in which a token that has several is matched: what closes a turn is more
/// than an end of text.
const ROLES: [Role; 6] = [
    Role::TurnEnd,
    Role::TurnStart,
    Role::Eos,
    Role::Bos,
    Role::Pad,
    Role::Unk,
];

/// The rule for tokens that have no counterpart of the same role or bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// None: their probability joins the tail.
    Em,
    /// The least edit distance.
    Mined,
    /// The pivot tokens that they were aligned with in the corpus, by count.
    Ms,
    /// The first token with which the pivot's tokenizer starts their bytes.
    #[default]
    Prefix,
}

impl Method {
    /// Whether it counts an alignment.
    pub fn counts(self) -> bool {
        self == Method::Ms
    }

    /// Whether it asks the pivot's tokenizer how it would begin a token's bytes.
    pub fn tokenises(self) -> bool {
        matches!(self, Method::Ms | Method::Prefix)
    }
}

/// Options of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct MapOptions {
    /// The rule for tokens without an exact counterpart.
    #[arg(long, value_enum, default_value_t = MapOptions::default().method)]
    pub method: Method,
    /// How many of the ranks projection follows, splitting by weight; at least 1.
    #[arg(long, default_value_t = MapOptions::default().width)]
    pub width: u16,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self {
            method: Method::default(),
            width: 1,
        }
    }
}

impl MapOptions {
    /// Fails if an option is out of range.
    ///
    /// # Errors
    /// A width of 0.
    pub fn validate(&self) -> Result<()> {
        if self.width == 0 {
            return Err(Error::usage("`width` is 0, expected 1 or more"));
        }
        Ok(())
    }
}

/// The stage: two vocabularies, and what their map is written to.
pub struct Map<'a> {
    /// The vocabularies.
    pub vocabularies: Vocabularies<'a>,
    /// The `alignment` artifact; needed by [`Method::Ms`], not read otherwise.
    pub alignment: Option<PathBuf>,
    /// Folder of the `token_map` to write.
    pub out: PathBuf,
    /// How.
    pub options: MapOptions,
}

/// What was mapped; empty where the map was there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Source tokens (ids without a token are not counted).
    pub tokens: u64,
    /// Source tokens without any counterpart.
    pub unmapped: u64,
    /// Source tokens by the rule of their first rank, in the order of [`MapMethod::ALL`].
    pub methods: [u64; 5],
}

impl Map<'_> {
    /// The alignment, if it is counted.
    fn counted(&self) -> Option<&Path> {
        let alignment = self.alignment.as_deref();
        alignment.filter(|_| self.options.method.counts())
    }

    /// Writes `token_map`.
    ///
    /// # Errors
    /// If the alignment belongs to other vocabularies or is missing for [`Method::Ms`]; if `out`
    /// holds another result (see [`Existing`]).
    ///
    /// # Memory
    /// The distinct aligned pairs, and an index of the pivot's vocabulary (about its own size).
    pub fn perform(&self, existing: Existing) -> Result<Summary> {
        self.options.validate()?;
        let alignment = match self.counted() {
            Some(dir) => {
                let alignment = Artifact::open(dir, Kind::Alignment)?;
                self.vocabularies.check(&alignment)?;
                Some(alignment)
            }
            None if self.options.method.counts() => {
                return Err(
                    Error::usage("the map `ms` counts an alignment, none is given")
                        .remedy("run `align` first, or use `method: prefix`"),
                );
            }
            None => None,
        };
        let writer = stage::writer(self, Kind::TokenMap, &self.out, existing)?;
        if writer.is_complete() {
            return Ok(Summary::default());
        }
        let mut counted = Vec::new();
        if let Some(alignment) = &alignment {
            counted = counts::aligned_pairs(alignment)?;
            check_ids(&counted, &self.vocabularies, alignment.dir())?;
        }
        let rows = map(&self.vocabularies, &self.options, counted)?;
        writer.write_only(&token_map::to_batch(&rows)?)?;
        Ok(summary(self.vocabularies.source, &rows))
    }
}

impl Stage for Map<'_> {
    fn name(&self) -> &'static str {
        "map"
    }

    fn reads(&self) -> Result<Reads> {
        let alignment = self.counted();
        Ok(Reads::new()
            .vocabulary(Source::Known(self.vocabularies.pivot.digest.clone()))
            .fact(
                "source_vocabulary",
                Source::Known(self.vocabularies.source.digest.clone()),
            )
            .maybe(
                "alignment",
                alignment.map(|dir| Item::artifact(Kind::Alignment, dir)),
            ))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::TokenMap, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        serde_json::json!(self.options)
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let summary = self.perform(existing)?;
        Ok(match summary.tokens {
            0 => UP_TO_DATE.to_owned(),
            tokens => format!(
                "{} ids, {} without a counterpart",
                Count(tokens),
                Count(summary.unmapped)
            ),
        })
    }
}

/// Fails if a counted pair has an id beyond its vocabulary.
fn check_ids(
    counted: &[(TokenId, TokenId, u64)],
    vocabularies: &Vocabularies<'_>,
    alignment: &Path,
) -> Result<()> {
    let (sources, pivots) = (vocabularies.source.len(), vocabularies.pivot.len());
    let beyond = |(source, pivot, _): &&(TokenId, TokenId, u64)| {
        *source as usize >= sources || *pivot as usize >= pivots
    };
    match counted.iter().find(beyond) {
        None => Ok(()),
        Some((source, pivot, _)) => Err(Error::file(
            alignment,
            format!("pairs token {source} with {pivot}, one of which is beyond its vocabulary"),
        )
        .remedy("run `align` again")),
    }
}

fn summary(source: &Vocabulary, rows: &[MapRow]) -> Summary {
    let mut summary = Summary::default();
    for row in rows.iter().filter(|row| row.rank == 1) {
        summary.methods[row.method as usize] += 1;
    }
    let tokens = source.tokens.iter();
    summary.tokens = tokens.filter(|token| token.kind != TokenKind::Hole).count() as u64;
    summary.unmapped = summary.tokens - summary.methods.iter().sum::<u64>();
    summary
}

/// The map as rows sorted by `source_id`, `rank`. `counted` holds the aligned pairs (source id,
/// pivot id, count) in any order, ids within their vocabularies.
///
/// # Errors
/// An interrupt.
pub fn map(
    vocabularies: &Vocabularies<'_>,
    options: &MapOptions,
    mut counted: Vec<(TokenId, TokenId, u64)>,
) -> Result<Vec<MapRow>> {
    counted.sort_unstable();
    let mapper = Mapper {
        vocabularies,
        method: options.method,
        counted,
        exact: by_bytes(vocabularies.pivot, false),
        specials: by_bytes(vocabularies.pivot, true),
        edits: std::sync::OnceLock::new(),
    };
    let ids: Vec<TokenId> = (0..vocabularies.source.len() as u32).collect();
    let bar = Bar::new("map", ids.len() as u64, "tokens");
    let chunks: Result<Vec<Vec<MapRow>>> = ids
        .par_chunks(CHUNK)
        .map(|ids| {
            check_interrupt()?;
            let rows = ids.iter().flat_map(|id| mapper.rows(*id)).collect();
            bar.advance(ids.len() as u64);
            Ok(rows)
        })
        .collect();
    Ok(chunks?.concat())
}

/// The id for each byte string, among special tokens or among the others.
fn by_bytes(vocabulary: &Vocabulary, special: bool) -> HashMap<&[u8], TokenId> {
    let mut ids: HashMap<&[u8], TokenId> = HashMap::new();
    for (id, token) in (0u32..).zip(&vocabulary.tokens) {
        let fits = token.special == special && token.kind != TokenKind::Hole;
        if !fits || token.bytes.is_empty() {
            continue;
        }
        ids.entry(&token.bytes)
            .and_modify(|best| {
                let best_kind = vocabulary.token(*best).map(|token| token.kind);
                if best_kind.is_none_or(|kind| token.kind < kind) {
                    *best = id;
                }
            })
            .or_insert(id);
    }
    ids
}

struct Mapper<'a> {
    vocabularies: &'a Vocabularies<'a>,
    method: Method,
    /// Sorted by source id.
    counted: Vec<(TokenId, TokenId, u64)>,
    exact: HashMap<&'a [u8], TokenId>,
    specials: HashMap<&'a [u8], TokenId>,
    /// Made when the first token needs it, which for `prefix` is often never.
    edits: std::sync::OnceLock<EditIndex>,
}

impl Mapper<'_> {
    /// The rows of one source token.
    fn rows(&self, id: TokenId) -> Vec<MapRow> {
        let Some(token) = self.vocabularies.source.token(id) else {
            return Vec::new();
        };
        let begin = self.counted.partition_point(|pair| pair.0 < id);
        let end = self.counted.partition_point(|pair| pair.0 <= id);
        let counted = &self.counted[begin..end];
        let only = |pivot_id: TokenId, method: MapMethod| {
            let count = counted.iter().find(|pair| pair.1 == pivot_id);
            vec![MapRow {
                source_id: id,
                pivot_id,
                count: count.map_or(0, |pair| pair.2),
                weight: 1.0,
                edit_distance: self.distance(token, pivot_id),
                method,
                rank: 1,
            }]
        };
        if let Some(pivot_id) = self.special(id, token) {
            return only(pivot_id, MapMethod::Special);
        }
        if token.special || token.bytes.is_empty() {
            return Vec::new();
        }
        if let Some(pivot_id) = self.exact.get(token.bytes.as_slice()) {
            return only(*pivot_id, MapMethod::Exact);
        }
        if self.method.counts() {
            let rows = self.counted(id, token, counted);
            if !rows.is_empty() {
                return rows;
            }
        }
        if self.method.tokenises()
            && let Some(pivot_id) = (self.vocabularies.first_token)(&token.bytes)
            && self.is_text(pivot_id)
        {
            return only(pivot_id, MapMethod::Prefix);
        }
        if self.method != Method::Em {
            let edits = self
                .edits
                .get_or_init(|| EditIndex::new(self.vocabularies.pivot));
            if let Some(nearest) = edits.nearest(&token.bytes) {
                return only(nearest.id, MapMethod::Edited);
            }
        }
        Vec::new()
    }

    /// The pivot's token of the same role, or, for special tokens without one, the special token
    /// of the same spelling.
    fn special(&self, id: TokenId, token: &Token) -> Option<TokenId> {
        let (source, pivot) = (self.vocabularies.source, self.vocabularies.pivot);
        let by_role = ROLES
            .into_iter()
            .filter(|role| source.id_with_role(*role) == Some(id))
            .find_map(|role| pivot.id_with_role(role));
        by_role.or_else(|| {
            let same = self.specials.get(token.bytes.as_slice()).copied();
            same.filter(|_| token.special)
        })
    }

    /// Whether an id of the pivot stands for text.
    fn is_text(&self, pivot_id: TokenId) -> bool {
        let token = self.vocabularies.pivot.token(pivot_id);
        token.is_some_and(|token| !token.special)
    }

    fn counted(
        &self,
        id: TokenId,
        token: &Token,
        counted: &[(TokenId, TokenId, u64)],
    ) -> Vec<MapRow> {
        let text = counted
            .iter()
            .filter(|pair| pair.2 > 0 && self.is_text(pair.1));
        let mut found: Vec<(u64, u16, TokenId)> = text
            .map(|&(_, pivot_id, count)| (count, self.distance(token, pivot_id), pivot_id))
            .collect();
        found.sort_unstable_by_key(|&(count, edits, id)| (std::cmp::Reverse(count), edits, id));
        found.truncate(u16::MAX.into());
        let total: u64 = found.iter().map(|pair| pair.0).sum();
        (1u16..)
            .zip(found)
            .map(|(rank, (count, edit_distance, pivot_id))| MapRow {
                source_id: id,
                pivot_id,
                count,
                weight: (count as f64 / total as f64) as f32,
                edit_distance,
                method: MapMethod::Counted,
                rank,
            })
            .collect()
    }

    fn distance(&self, token: &Token, pivot_id: TokenId) -> u16 {
        let edits = distance(&token.bytes, self.vocabularies.pivot.bytes(pivot_id));
        u16::try_from(edits).unwrap_or(u16::MAX)
    }
}
