//! The state of an unfinished training, from which it continues bit by bit.
//!
//! ```text
//! <out>.state/state.safetensors    a valid safetensors file
//!   __metadata__.fuselm    JSON: provenance, step, optimiser steps, position
//!   steps                  f64 (steps, 10)     the log so far
//!   weights/<parameter>    f32                 master weights of what is trained
//!   first/<parameter>      f32                 first moment
//!   second/<parameter>     f32                 second moment
//! <out>.state/best-<step>.safetensors    where the best weights are kept
//!   weights/<parameter>    f32                 master weights of what is trained
//! ```
//!
//! Each file is written beside its name and renamed, so that it is there whole or not at all, and
//! knows its own digest.
//! There is no random state: shuffles are drawn from (seed, epoch, part). Which step was the best
//! follows from the log; the weights of the best step of a saved state are kept until a state
//! that knows a better one is saved.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::optim::{AdamW, Saved};
use super::order::Position;
use super::state_file::{StateReader, StateWriter};
use super::steps::StepRow;
use crate::artifact::Provenance;
use crate::error::{Context, Error, Result};
use crate::tensors::{Dtype, TensorSpec};

const STEPS: &str = "steps";

/// How far a training has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The place after the last step.
    pub position: Position,
    /// The log: one row for each step made.
    pub steps: Vec<StepRow>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    provenance: Provenance,
    optimiser_steps: u64,
    position: Position,
}

/// The folder of the state.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    file: PathBuf,
    provenance: Provenance,
}

impl Checkpoint {
    /// The state of a training that writes `out` and is determined by `provenance`.
    pub fn new(out: &Path, provenance: Provenance) -> Self {
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".state");
        let dir = out.with_file_name(name);
        Self {
            file: dir.join("state.safetensors"),
            dir,
            provenance,
        }
    }

    /// Whether there is a state.
    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Writes the state, replacing the one before. `params` is all that is trained.
    ///
    /// # Memory
    /// One parameter with its moments.
    pub fn save(
        &self,
        params: &BTreeMap<String, Var>,
        optimiser: &AdamW,
        progress: &Progress,
    ) -> Result<()> {
        let header = self.header(optimiser.steps(), progress.position)?;
        let mut entries = vec![TensorSpec {
            name: STEPS.to_owned(),
            dtype: Dtype::F64,
            shape: vec![progress.steps.len(), StepRow::WIDTH],
        }];
        for (name, var) in params {
            let kinds = ["weights", "first", "second"];
            entries.extend(kinds.map(|kind| entry(kind, name, var)));
        }
        let mut writer = StateWriter::create(&self.file, &header, &entries)?;
        for row in &progress.steps {
            writer.f64s(&row.to_numbers())?;
        }
        for (index, var) in params.values().enumerate() {
            let saved = optimiser.save(index, var)?;
            writer.f32s(saved.weights)?;
            writer.f32s(saved.first)?;
            writer.f32s(saved.second)?;
        }
        writer.finish()
    }

    /// Restores parameters and optimiser, if there is a state.
    ///
    /// # Errors
    /// A state of another training, naming what differs; a damaged file.
    pub fn load(
        &self,
        params: &BTreeMap<String, Var>,
        optimiser: &mut AdamW,
    ) -> Result<Option<Progress>> {
        let Some((mut reader, header)) = self.open(&self.file)? else {
            return Ok(None);
        };
        let rows = (0..reader.rows(STEPS)?).map(|_| reader.f64s().map(StepRow::from_numbers));
        let steps = rows.collect::<Result<_>>()?;
        for (index, (name, var)) in params.iter().enumerate() {
            reader.check_has(&format!("weights/{name}"))?;
            let n = var.elem_count();
            let saved = Saved {
                weights: reader.f32s(n)?,
                first: reader.f32s(n)?,
                second: reader.f32s(n)?,
            };
            optimiser.restore(index, var, saved)?;
        }
        reader.check_read()?;
        optimiser.set_steps(header.optimiser_steps);
        Ok(Some(Progress {
            position: header.position,
            steps,
        }))
    }

    /// Writes the weights after `step`, the best so far.
    ///
    /// # Memory
    /// One parameter with its moments.
    pub fn save_best(
        &self,
        params: &BTreeMap<String, Var>,
        optimiser: &AdamW,
        step: u64,
    ) -> Result<()> {
        let header = self.header(optimiser.steps(), Position::default())?;
        let entries: Vec<TensorSpec> = params
            .iter()
            .map(|(name, var)| entry("weights", name, var))
            .collect();
        let mut writer = StateWriter::create(&self.best(step), &header, &entries)?;
        for (index, var) in params.values().enumerate() {
            writer.f32s(optimiser.save(index, var)?.weights)?;
        }
        writer.finish()
    }

    /// Sets `params` to the weights that [`Checkpoint::save_best`] wrote for `step`.
    ///
    /// # Errors
    /// They are not there, damaged, or of another training.
    pub fn load_best(&self, params: &BTreeMap<String, Var>, step: u64) -> Result<()> {
        let mut reader = self.open_best(step)?;
        for (name, var) in params {
            reader.check_has(&format!("weights/{name}"))?;
            let weights = reader.f32s(var.elem_count())?;
            Tensor::from_vec(weights, var.dims(), var.device())
                .and_then(|weights| var.set(&weights.to_dtype(var.dtype())?))
                .during(|| format!("restoring the best `{name}`"))?;
        }
        reader.check_read()
    }

    /// Fails unless the weights of `step` are there and this training's.
    pub fn check_best(&self, step: u64) -> Result<()> {
        self.open_best(step).map(drop)
    }

    /// Removes the weights of all steps but `keep`.
    pub fn remove_best_except(&self, keep: &[u64]) -> Result<()> {
        let kept: Vec<PathBuf> = keep.iter().map(|step| self.best(*step)).collect();
        for entry in fs::read_dir(&self.dir).at(&self.dir)? {
            let path = entry.at(&self.dir)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("best-") && !kept.contains(&path) {
                fs::remove_file(&path).at(&path)?;
            }
        }
        Ok(())
    }

    /// Fails if there is a state, and it is another training's or damaged.
    pub fn check_same(&self) -> Result<()> {
        self.open(&self.file).map(drop)
    }

    fn best(&self, step: u64) -> PathBuf {
        self.dir.join(format!("best-{step}.safetensors"))
    }

    fn open_best(&self, step: u64) -> Result<StateReader> {
        let path = self.best(step);
        match self.open(&path)? {
            Some((reader, _)) => Ok(reader),
            None => Err(
                Error::file(&path, "the weights of the best step are not there")
                    .remedy("remove the folder to start the training anew"),
            ),
        }
    }

    fn header(&self, optimiser_steps: u64, position: Position) -> Result<String> {
        let header = Header {
            provenance: self.provenance.clone(),
            optimiser_steps,
            position,
        };
        serde_json::to_string(&header).at(&self.file)
    }

    /// Opens a file of the state and checks that it is this training's.
    fn open(&self, path: &Path) -> Result<Option<(StateReader, Header)>> {
        let Some(reader) = StateReader::open(path)? else {
            return Ok(None);
        };
        let header: Header =
            serde_json::from_str(reader.metadata()).map_err(|e| reader.damaged(&e.to_string()))?;
        if header.provenance.identity() != self.provenance.identity() {
            let differences = self.provenance.differences(&header.provenance).join(", ");
            return Err(Error::usage(format!(
                "`{}` is the unfinished training of other options or inputs ({differences})",
                self.dir.display()
            ))
            .remedy(
                "give the options it was started with to continue it, or `--force` to start anew",
            ));
        }
        Ok(Some((reader, header)))
    }

    /// Removes the state: the training is over, or starts anew.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.dir, e)),
            _ => Ok(()),
        }
    }
}

fn entry(kind: &str, name: &str, var: &Var) -> TensorSpec {
    TensorSpec {
        name: format!("{kind}/{name}"),
        dtype: Dtype::F32,
        shape: var.dims().to_vec(),
    }
}
