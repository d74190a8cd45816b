//! The `vocab` artifact.
//!
//! The footer's options carry what the columns do not: every role of a token that has several,
//! which tokens were added beside the model without being special, and whether a token alone
//! decodes without its leading blank.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray, UInt32Array};
use arrow::datatypes::UInt32Type;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

use super::{Kind, Role, Token, Vocabulary};
use crate::artifact::{self, Artifact, Existing, Provenance, Writer, rows};
use crate::error::{Context, Error, Result};

/// The largest id that is believed; a damaged file must not make us allocate more.
const MOST_TOKENS: usize = 1 << 24;

impl Vocabulary {
    /// What the footer of the artifact says besides its rows.
    pub fn options(&self) -> Value {
        let roles: Map<String, Value> = Role::ALL
            .into_iter()
            .filter_map(|role| Some((role.to_string(), Value::from(self.id_with_role(role)?))))
            .collect();
        let of_kind = |kind: Kind| -> Vec<u32> {
            let numbered = (0u32..).zip(&self.tokens);
            let found = numbered.filter(|(_, token)| token.kind == kind && !token.special);
            found.map(|(id, _)| id).collect()
        };
        serde_json::json!({
            "roles": roles,
            "added": of_kind(Kind::Added),
            "byte": of_kind(Kind::Byte),
            "drops_blank": self.drops_blank,
        })
    }

    /// Writes the `vocab` artifact into `dir`; does nothing where it is already there.
    ///
    /// # Errors
    /// Another vocabulary is there and `existing` does not allow replacing it; a full disk.
    pub fn write(&self, dir: &Path, existing: Existing) -> Result<()> {
        let provenance = Provenance::new(artifact::Kind::Vocab)
            .vocabulary(&self.digest)
            .options(self.options());
        let writer = Writer::create(dir, provenance, existing)?;
        if writer.is_complete() {
            return Ok(());
        }
        writer.write_only(&self.to_batch()?)
    }

    fn to_batch(&self) -> Result<RecordBatch> {
        let present = || {
            (0u32..)
                .zip(&self.tokens)
                .filter(|(_, token)| token.kind != Kind::Hole)
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(present().map(|(id, _)| id))),
            Arc::new(StringArray::from_iter_values(
                present().map(|(_, token)| token.display.as_str()),
            )),
            Arc::new(BinaryArray::from_iter_values(
                present().map(|(_, token)| token.bytes.as_slice()),
            )),
            Arc::new(BooleanArray::from_iter(
                present().map(|(_, token)| Some(token.special)),
            )),
            Arc::new(StringArray::from_iter(
                present().map(|(_, token)| token.role.map(Role::name)),
            )),
        ];
        RecordBatch::try_new(artifact::Kind::Vocab.schema(), columns)
            .during(|| "building `vocab` rows".to_owned())
    }

    /// Reads a `vocab` artifact.
    ///
    /// # Errors
    /// A missing or damaged artifact, an unknown role, ids that do not rise.
    pub fn read(dir: &Path) -> Result<Self> {
        let artifact = Artifact::open(dir, artifact::Kind::Vocab)?;
        let provenance = artifact.provenance();
        let digest = provenance
            .vocabulary
            .clone()
            .ok_or_else(|| Error::file(dir, "its footer names no vocabulary"))?;
        let mut tokens: Vec<Token> = Vec::new();
        for part in artifact.parts() {
            for batch in part.batches()? {
                append(&batch?, &mut tokens, part.path())?;
            }
        }
        let listed = |key: &str| {
            let list = provenance.options.get(key).and_then(Value::as_array);
            let ids = list.into_iter().flatten().filter_map(Value::as_u64);
            ids.map(|id| id as usize).collect::<Vec<_>>()
        };
        for (key, kind) in [("added", Kind::Added), ("byte", Kind::Byte)] {
            for id in listed(key) {
                if let Some(token) = tokens.get_mut(id) {
                    token.kind = kind;
                }
            }
        }
        let roles = provenance.options.get("roles").and_then(Value::as_object);
        let roles = roles
            .into_iter()
            .flatten()
            .map(|(role, id)| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id
                    .filter(|id| (*id as usize) < tokens.len())
                    .ok_or_else(|| {
                        Error::file(
                            dir,
                            format!("its footer gives `{role}` an id that is not there"),
                        )
                    })?;
                Ok((role.parse().at(dir)?, id))
            })
            .collect::<Result<Vec<(Role, u32)>>>()?;
        let drops_blank = provenance
            .options
            .get("drops_blank")
            .and_then(Value::as_bool);
        Ok(Self::new(tokens, digest, roles).dropping_blanks(drops_blank))
    }
}

fn append(batch: &RecordBatch, tokens: &mut Vec<Token>, path: &Path) -> Result<()> {
    let ids = rows::numbers::<UInt32Type>(batch, "id")?;
    let display = rows::strings(batch, "token")?;
    let special = rows::booleans(batch, "special")?;
    let role = rows::strings(batch, "role")?;
    let bytes = batch
        .column_by_name("bytes")
        .and_then(|column| column.as_binary_opt::<i32>())
        .ok_or_else(|| Error::file(path, "column `bytes` is not binary"))?;
    for row in 0..batch.num_rows() {
        let id = ids.value(row) as usize;
        if id < tokens.len() || id >= MOST_TOKENS {
            return Err(Error::file(path, format!("id {id} is out of order")));
        }
        tokens.resize_with(id, Token::hole);
        let role = match role.is_valid(row).then(|| role.value(row)) {
            Some(name) => Some(name.parse::<Role>().at(path)?),
            None => None,
        };
        tokens.push(Token {
            display: display.value(row).to_owned(),
            bytes: bytes.value(row).to_vec(),
            special: special.value(row),
            role,
            kind: match special.value(row) {
                true => Kind::Added,
                false => Kind::Ordinary,
            },
        });
    }
    Ok(())
}
