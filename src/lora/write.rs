//! Writing an adapter's folder.

use std::path::{Path, PathBuf};

use super::config::LoraConfig;
use super::names::{Module, PREFIX, halves};
use crate::checkpoint::{ADAPTER_WEIGHTS, CheckpointWriter, FolderRecord, Layout};
use crate::error::Result;
use crate::tensors::{Dtype, TensorSpec};

/// An adapter's folder that is being written: A and B of each module, in f32.
pub struct AdapterWriter {
    dir: PathBuf,
    writer: CheckpointWriter,
}

impl AdapterWriter {
    /// Begins the adapter of `modules`, all of the rank of `config`, in the folder `dir`, which
    /// exists; `base` is where PEFT finds the model.
    ///
    /// # Errors
    /// Failed writes.
    pub fn create(
        dir: &Path,
        modules: &[Module],
        config: &LoraConfig,
        base: &Path,
    ) -> Result<Self> {
        let rank = config.rank;
        let specs = modules.iter().flat_map(|module| {
            let [a, b] = halves(&module.name);
            let shapes = [(a, [rank, module.columns]), (b, [module.rows, rank])];
            shapes.map(|(name, shape)| TensorSpec {
                name: format!("{PREFIX}{name}"),
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            })
        });
        let layout = Layout::single(specs.collect(), ADAPTER_WEIGHTS)?;
        config.write(dir, base)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            writer: CheckpointWriter::open(dir, layout)?,
        })
    }

    /// Writes A (rank × in) and B (out × rank) of a module, by its number.
    ///
    /// # Errors
    /// Failed writes.
    pub fn write(&self, module: usize, halves: [&[f32]; 2]) -> Result<()> {
        for (half, values) in halves.into_iter().enumerate() {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.writer.write(2 * module + half, 0, &bytes)?;
        }
        Ok(())
    }

    /// Returns what was written, for the record of the folder.
    ///
    /// # Errors
    /// Failed writes.
    pub fn finish(self) -> Result<FolderRecord> {
        let record = self.writer.record()?;
        self.writer.finish(&self.dir)?;
        Ok(record)
    }
}
