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
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact::token_map::{self, MapMethod, MapRow};
use crate::artifact::{Artifact, Existing, Kind, Provenance, Writer};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::units::TokenId;
use crate::vocab::{Kind as TokenKind, Role, Token, Vocabulary, distance};

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
    /// The rule for tokens without an exact counterpart (default `prefix`).
    #[arg(long, value_enum, default_value_t = MapOptions::default().method, hide_default_value = true)]
    pub method: Method,
    /// How many of the ranks projection follows, splitting by weight (default 1, at least 1).
    #[arg(long, default_value_t = MapOptions::default().width, hide_default_value = true)]
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

/// What a map is made from.
pub struct MapInputs<'a> {
    /// The source's vocabulary.
    pub source: &'a Vocabulary,
    /// The pivot's vocabulary.
    pub pivot: &'a Vocabulary,
    /// The first token with which the pivot's tokenizer starts some bytes in mid-text
    /// ([`crate::vocab::Tokenizer::first_token`]).
    pub first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
    /// The `alignment` artifact; needed by [`Method::Ms`], not read otherwise.
    pub alignment: Option<&'a Path>,
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

/// Writes `token_map` to `out_dir`.
///
/// # Errors
/// If the alignment belongs to other vocabularies or is missing for [`Method::Ms`]; if `out_dir`
/// holds another result (see [`Existing`]).
///
/// # Memory
/// The distinct aligned pairs, and an index of the pivot's vocabulary (about its own size).
pub fn run(
    inputs: &MapInputs<'_>,
    out_dir: &Path,
    options: &MapOptions,
    existing: Existing,
) -> Result<Summary> {
    options.validate()?;
    let mut provenance = Provenance::new(Kind::TokenMap)
        .vocabulary(&inputs.pivot.digest)
        .input("source_vocabulary", &inputs.source.digest)
        .options(serde_json::json!(options));
    let alignment = match (options.method, inputs.alignment) {
        (Method::Ms, Some(dir)) => {
            let alignment = Artifact::open(dir, Kind::Alignment)?;
            check_vocabularies(&alignment, inputs)?;
            provenance = provenance.input("alignment", alignment.identity());
            Some(alignment)
        }
        (Method::Ms, None) => {
            return Err(
                Error::usage("the map `ms` counts an alignment, none is given")
                    .remedy("run `align` first, or use `method: prefix`"),
            );
        }
        _ => None,
    };
    let writer = Writer::create(out_dir, provenance, existing)?;
    if writer.is_complete() {
        return Ok(Summary::default());
    }
    let counted = match &alignment {
        Some(alignment) => counts::aligned_pairs(alignment)?,
        None => Vec::new(),
    };
    let rows = map(inputs, options, counted)?;
    writer.write_only(&token_map::to_batch(&rows)?)?;
    Ok(summary(inputs.source, &rows))
}

fn check_vocabularies(alignment: &Artifact, inputs: &MapInputs<'_>) -> Result<()> {
    alignment.check_vocabulary(&inputs.pivot.digest)?;
    let found = alignment.provenance().inputs.get("source_vocabulary");
    if found == Some(&inputs.source.digest) {
        return Ok(());
    }
    Err(Error::file(
        alignment.dir(),
        format!(
            "it aligns the source vocabulary `{}`, expected `{}`",
            found.map_or("unknown", String::as_str),
            inputs.source.digest
        ),
    )
    .remedy("it was made with another tokenizer; run `align` again with this one"))
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
/// pivot id, count) in any order.
///
/// # Errors
/// An interrupt; a counted id beyond its vocabulary.
pub fn map(
    inputs: &MapInputs<'_>,
    options: &MapOptions,
    mut counted: Vec<(TokenId, TokenId, u64)>,
) -> Result<Vec<MapRow>> {
    counted.sort_unstable();
    let beyond = |(source, pivot, _): &&(u32, u32, u64)| {
        *source as usize >= inputs.source.len() || *pivot as usize >= inputs.pivot.len()
    };
    if let Some((source, pivot, _)) = counted.iter().find(beyond) {
        let alignment = inputs.alignment.unwrap_or(Path::new("alignment"));
        return Err(Error::file(
            alignment,
            format!("pairs token {source} with {pivot}, one of which is beyond its vocabulary"),
        )
        .remedy("run `align` again"));
    }
    let mapper = Mapper {
        inputs,
        method: options.method,
        counted,
        exact: by_bytes(inputs.pivot, false),
        specials: by_bytes(inputs.pivot, true),
        edits: std::sync::OnceLock::new(),
    };
    let ids: Vec<TokenId> = (0..inputs.source.len() as u32).collect();
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
    inputs: &'a MapInputs<'a>,
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
        let Some(token) = self.inputs.source.token(id) else {
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
            && let Some(pivot_id) = (self.inputs.first_token)(&token.bytes)
            && self.is_text(pivot_id)
        {
            return only(pivot_id, MapMethod::Prefix);
        }
        if self.method != Method::Em {
            let edits = self.edits.get_or_init(|| EditIndex::new(self.inputs.pivot));
            if let Some(nearest) = edits.nearest(&token.bytes) {
                return only(nearest.id, MapMethod::Edited);
            }
        }
        Vec::new()
    }

    /// The pivot's token of the same role, or, for special tokens without one, the special token
    /// of the same spelling.
    fn special(&self, id: TokenId, token: &Token) -> Option<TokenId> {
        let (source, pivot) = (self.inputs.source, self.inputs.pivot);
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
        let token = self.inputs.pivot.token(pivot_id);
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
        let edits = distance(&token.bytes, self.inputs.pivot.bytes(pivot_id));
        u16::try_from(edits).unwrap_or(u16::MAX)
    }
}
