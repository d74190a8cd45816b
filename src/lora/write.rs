//! Writing an adapter's folder.

use std::path::{Path, PathBuf};

use super::config::LoraConfig;
use super::names::{Module, PREFIX, halves};
use crate::checkpoint::{ADAPTER_WEIGHTS, CheckpointWriter, FolderRecord, Layout};
use crate::error::Result;
use crate::tensors::{Dtype, TensorSpec};

/// An adapter's folder that is being written.
pub struct AdapterWriter {
    dir: PathBuf,
    writer: CheckpointWriter,
}

impl AdapterWriter {
    /// Begins the adapter of `modules`, all of the rank of `config`, in the folder `dir`, which
    /// exists; `base` is where PEFT finds the model. A and B are written in f32.
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
                name,
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            })
        });
        Self::of(dir, specs, config, base)
    }

    /// Begins the adapter of these tensors, whose names have no prefix.
    ///
    /// # Errors
    /// Failed writes.
    pub(super) fn of(
        dir: &Path,
        specs: impl Iterator<Item = TensorSpec>,
        config: &LoraConfig,
        base: &Path,
    ) -> Result<Self> {
        let specs = specs.map(|spec| TensorSpec {
            name: format!("{PREFIX}{}", spec.name),
            ..spec
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
            self.bytes(2 * module + half, &bytes)?;
        }
        Ok(())
    }

    /// Writes a tensor, by its number.
    ///
    /// # Errors
    /// Failed writes.
    pub(super) fn bytes(&self, tensor: usize, bytes: &[u8]) -> Result<()> {
        self.writer.write(tensor, 0, bytes)
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
