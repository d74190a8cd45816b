//! What turns tokens into the input of the first layer.

use candle_core::{DType, Device, Tensor};

use super::positions::Rotary;
use crate::error::{Context, Result};
use crate::model::config::Config;
use crate::model::ops::{self, Sums};

/// The table of embeddings and their scale.
pub(crate) struct Embedder {
    /// (vocabulary, hidden).
    table: Tensor,
    /// Factor on embeddings, rounded to their type.
    scale: f64,
    /// (positions, hidden), added to the scaled embeddings.
    positions: Option<Tensor>,
}

impl Embedder {
    /// An embedder with the scale of `config`, a row of `table` for each id and one of `positions`,
    /// where the model has learned them, for each position.
    pub fn new(config: &Config, table: Tensor, positions: Option<Tensor>) -> Result<Self> {
        let scale = Tensor::new(config.embedding_scale, &Device::Cpu).and_then(|scale| {
            let rounded = scale.to_dtype(table.dtype())?;
            rounded.to_dtype(DType::F64)?.to_scalar()
        });
        Ok(Self {
            scale: scale.during(|| "rounding the embeddings' scale".to_owned())?,
            table,
            positions,
        })
    }

    /// Embeddings of `ids` (batch, len) u32 at the positions of `rotary`: (batch, len, hidden).
    pub fn forward(&self, ids: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let embed = || {
            let (batch, len) = ids.dims2()?;
            let x = ops::embed(&self.table, &ids.flatten_all()?)?;
            let x = x.reshape((batch, len, self.table.dim(1)?))?;
            let x = match self.scale {
                1.0 => x,
                scale => (x * scale)?,
            };
            match (&self.positions, &rotary.places) {
                (Some(table), Some(places)) => {
                    let rows = ops::embed(table, &places.flatten_all()?)?;
                    let (rows_of, len) = places.dims2()?;
                    x.broadcast_add(&rows.reshape((rows_of, len, table.dim(1)?))?)
                }
                _ => Ok(x),
            }
        };
        embed().during(|| "looking up token embeddings".to_owned())
    }

    /// Whether the table is trained.
    pub fn is_trained(&self) -> bool {
        self.table.track_op()
    }

    /// Adds the gradient of the table to `sums`, given that of the embeddings (ids, hidden) of
    /// `ids`; f32 on the CPU.
    pub fn backward(&self, ids: &[u32], grad: &Tensor, sums: &mut Sums) -> candle_core::Result<()> {
        match self.scale {
            1.0 => sums.add_rows(&self.table, ids, grad),
            scale => sums.add_rows(&self.table, ids, &(grad * scale)?),
        }
    }
}
