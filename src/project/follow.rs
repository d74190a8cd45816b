//! The vocabulary map as projection follows it: the best ranks of each source id.

use crate::artifact::Artifact;
use crate::artifact::token_map::MapRow;
use crate::error::{Error, Result};
use crate::units::TokenId;

/// Where the probability of a source id goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'a> {
    /// It has no counterpart.
    Nowhere,
    /// All of it to one pivot id.
    To(TokenId),
    /// To several, with shares that sum to one.
    Split(&'a [(TokenId, f32)]),
}

/// Set in a way that leads to several ids; the other bits say which group of them.
const SPLIT: u32 = 1 << 31;
const NOWHERE: u32 = u32::MAX;

/// Pivot ids with their shares, by source id.
#[derive(Debug)]
pub(super) struct Follow {
    /// By source id, in one word each: the ids of a row lie all over the table, and each is a visit
    /// to memory. A pivot id, a group, or [`NOWHERE`].
    ways: Vec<u32>,
    /// Where the entries of each group begin, and the end.
    begins: Vec<u32>,
    entries: Vec<(TokenId, f32)>,
}

impl Follow {
    /// Keeps the ranks up to the map's option `width`, their weights scaled to sum to one.
    ///
    /// # Errors
    /// If an id is beyond its vocabulary.
    ///
    /// # Memory
    /// 4 bytes a source id, and 8 for each pivot id of those that have several.
    pub(super) fn new(
        artifact: &Artifact,
        rows: &[MapRow],
        source_ids: usize,
        pivot_ids: usize,
    ) -> Result<Self> {
        let width = artifact.provenance().options.get("width");
        let width = width.and_then(serde_json::Value::as_u64).unwrap_or(1);
        Self::from_rows(rows, width, source_ids, pivot_ids).map_err(|row| {
            Error::input(
                format!(
                    "{} source token {}",
                    artifact.dir().display(),
                    row.source_id
                ),
                format!(
                    "maps to token {}, one of which is beyond its vocabulary",
                    row.pivot_id
                ),
            )
            .remedy("run `map` again")
        })
    }

    /// The same from rows; fails with a row that is beyond a vocabulary.
    pub(super) fn from_rows(
        rows: &[MapRow],
        width: u64,
        source_ids: usize,
        pivot_ids: usize,
    ) -> std::result::Result<Self, MapRow> {
        let mut follow = Self {
            ways: vec![NOWHERE; source_ids],
            begins: vec![0],
            entries: Vec::new(),
        };
        for group in rows.chunk_by(|a, b| a.source_id == b.source_id) {
            let beyond = group.iter().find(|row| {
                row.source_id as usize >= source_ids || row.pivot_id as usize >= pivot_ids
            });
            if let Some(row) = beyond {
                return Err(*row);
            }
            let followed = group.iter().filter(|row| u64::from(row.rank) <= width);
            let total: f32 = followed.clone().map(|row| row.weight).sum();
            let mut shares = followed
                .map(|row| (row.pivot_id, row.weight / total))
                .filter(|_| total > 0.0);
            let way = &mut follow.ways[group[0].source_id as usize];
            *way = match (shares.next(), shares.next()) {
                (None, _) => NOWHERE,
                (Some((only, _)), None) => only,
                (Some(first), Some(second)) => {
                    follow
                        .entries
                        .extend([first, second].into_iter().chain(shares));
                    follow.begins.push(follow.entries.len() as u32);
                    SPLIT | (follow.begins.len() as u32 - 2)
                }
            };
        }
        Ok(follow)
    }

    /// Where a source id goes.
    #[inline]
    pub(super) fn of(&self, source_id: TokenId) -> Way<'_> {
        match self.ways.get(source_id as usize) {
            None | Some(&NOWHERE) => Way::Nowhere,
            Some(&way) if way & SPLIT == 0 => Way::To(way),
            Some(&way) => {
                let group = (way & !SPLIT) as usize;
                let entries = self.begins[group] as usize..self.begins[group + 1] as usize;
                Way::Split(&self.entries[entries])
            }
        }
    }
}
