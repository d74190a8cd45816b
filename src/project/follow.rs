//! The vocabulary map as projection follows it: the best ranks of each source id.

use crate::artifact::Artifact;
use crate::artifact::token_map::MapRow;
use crate::error::{Error, Result};
use crate::units::TokenId;

/// Pivot ids with their shares, by source id.
#[derive(Debug)]
pub(super) struct Follow {
    /// Identity of the map.
    pub(super) identity: String,
    /// Where the entries of each source id begin, and the end.
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
    /// 4 bytes a source id and 8 a pair.
    pub(super) fn new(
        artifact: &Artifact,
        rows: &[MapRow],
        source_ids: usize,
        pivot_ids: usize,
    ) -> Result<Self> {
        let width = artifact.provenance().options.get("width");
        let width = width.and_then(serde_json::Value::as_u64).unwrap_or(1);
        Self::from_rows(rows, width, source_ids, pivot_ids)
            .map(|follow| Self {
                identity: artifact.identity().to_owned(),
                ..follow
            })
            .map_err(|row| {
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
            identity: String::new(),
            begins: Vec::with_capacity(source_ids + 1),
            entries: Vec::with_capacity(source_ids),
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
            let begin = follow.entries.len() as u32;
            follow.begins.resize(group[0].source_id as usize + 1, begin);
            if total > 0.0 {
                let shares = followed.map(|row| (row.pivot_id, row.weight / total));
                follow.entries.extend(shares);
            }
        }
        let end = follow.entries.len() as u32;
        follow.begins.resize(source_ids + 1, end);
        Ok(follow)
    }

    /// The pivot ids of a source id, with shares that sum to one; none if it has no counterpart.
    pub(super) fn of(&self, source_id: TokenId) -> &[(TokenId, f32)] {
        let at = source_id as usize;
        match self.begins.get(at..).and_then(<[u32]>::first_chunk::<2>) {
            Some([begin, end]) => &self.entries[*begin as usize..*end as usize],
            None => &[],
        }
    }
}
