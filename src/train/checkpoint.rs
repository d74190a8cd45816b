//! The state of an unfinished training, from which it continues bit by bit.
//!
//! ```text
//! <out>.state/state.safetensors    a valid safetensors file
//!   __metadata__.fuselm    JSON: provenance, step, optimiser steps, position
//!   steps                  f64 (steps, 10)     the log so far
//!   weights/<parameter>    f32                 master weights
//!   first/<parameter>      f32                 first moment
//!   second/<parameter>     f32                 second moment
//! ```
//!
//! One file, written beside its name and renamed, so that a state is there whole or not at all.
//! There is no random state: shuffles are drawn from (seed, epoch, part).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::Var;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::optim::{AdamW, Saved};
use super::order::Position;
use super::steps::StepRow;
use crate::artifact::Provenance;
use crate::artifact::atomic::Pending;
use crate::error::{Context, Error, Result};

/// Largest header that is read: far above that of any model.
const MAX_HEADER: u64 = 64 << 20;
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

/// A state whose header was read.
struct Opened {
    reader: BufReader<File>,
    /// Rows of the log.
    rows: u64,
    tensors: Map<String, Value>,
    header: Header,
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

    /// Writes the state, replacing the one before.
    ///
    /// # Memory
    /// One parameter with its moments.
    pub fn save(
        &self,
        params: &BTreeMap<String, Var>,
        optimiser: &AdamW,
        progress: &Progress,
    ) -> Result<()> {
        let header = Header {
            provenance: self.provenance.clone(),
            optimiser_steps: optimiser.steps(),
            position: progress.position,
        };
        let header = serde_json::to_string(&header).at(&self.file)?;
        let mut tensors = Map::new();
        tensors.insert("__metadata__".to_owned(), json!({ "fuselm": header }));
        let mut end = 0;
        let mut add = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
            let offsets = [end, end + bytes];
            end += bytes;
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            tensors.insert(name, entry);
        };
        let rows = progress.steps.len();
        let shape = [rows, StepRow::WIDTH];
        add(STEPS.to_owned(), "F64", &shape, rows * StepRow::WIDTH * 8);
        for (name, var) in params {
            for kind in ["weights", "first", "second"] {
                let bytes = var.elem_count() * 4;
                add(format!("{kind}/{name}"), "F32", var.dims(), bytes);
            }
        }
        let mut text = Value::Object(tensors).to_string();
        // The format wants the data to begin at a multiple of 8.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));

        let (pending, file) = Pending::create(&self.file)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        let mut write = |bytes: &[u8]| writer.write_all(bytes).at(&self.file);
        write(&(text.len() as u64).to_le_bytes())?;
        write(text.as_bytes())?;
        for row in &progress.steps {
            for number in row.to_numbers() {
                write(&number.to_le_bytes())?;
            }
        }
        for (index, var) in params.values().enumerate() {
            let saved = optimiser.save(index, var)?;
            for mut values in [saved.weights, saved.first, saved.second] {
                // Little-endian on every machine.
                for value in &mut values {
                    *value = f32::from_bits(value.to_bits().to_le());
                }
                write(bytemuck::cast_slice(&values))?;
            }
        }
        let file = writer
            .into_inner()
            .map_err(|e| Error::io(&self.file, e.into_error()))?;
        pending.commit(&file)
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
        let Some(Opened {
            mut reader,
            rows,
            tensors,
            header,
        }) = self.open()?
        else {
            return Ok(None);
        };
        let mut steps = Vec::new();
        for _ in 0..rows {
            let mut numbers = [0.0; StepRow::WIDTH];
            for number in &mut numbers {
                let mut bytes = [0; 8];
                reader
                    .read_exact(&mut bytes)
                    .map_err(|_| self.damaged("it ends early"))?;
                *number = f64::from_le_bytes(bytes);
            }
            steps.push(StepRow::from_numbers(numbers));
        }
        let mut read = |count: usize| -> Result<Vec<f32>> {
            let mut values = vec![0f32; count];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
            reader
                .read_exact(bytes)
                .map_err(|_| self.damaged("it ends early"))?;
            for value in &mut values {
                *value = f32::from_bits(u32::from_le(value.to_bits()));
            }
            Ok(values)
        };
        for (index, (name, var)) in params.iter().enumerate() {
            if !tensors.contains_key(&format!("weights/{name}")) {
                return Err(self.damaged(&format!("no tensor `weights/{name}`")));
            }
            let n = var.elem_count();
            let saved = Saved {
                weights: read(n)?,
                first: read(n)?,
                second: read(n)?,
            };
            optimiser.restore(index, var, saved)?;
        }
        optimiser.set_steps(header.optimiser_steps);
        Ok(Some(Progress {
            position: header.position,
            steps,
        }))
    }

    /// Fails if there is a state, and it is another training's or damaged.
    pub fn check_same(&self) -> Result<()> {
        self.open().map(drop)
    }

    fn damaged(&self, what: &str) -> Error {
        Error::file(&self.file, format!("the training state is damaged: {what}"))
            .remedy("remove it to start the training anew")
    }

    /// Reads the header and checks that it is this training's.
    fn open(&self) -> Result<Option<Opened>> {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&self.file, e)),
        };
        let size = file.metadata().at(&self.file)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let damaged = |what: &str| self.damaged(what);
        let mut length = [0; 8];
        reader
            .read_exact(&mut length)
            .map_err(|_| damaged("no header"))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER.min(size.saturating_sub(8)) {
            return Err(damaged("no valid header"));
        }
        let mut text = vec![0; length as usize];
        reader.read_exact(&mut text).at(&self.file)?;
        let tensors: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|e| damaged(&e.to_string()))?;
        let header: Header = tensors
            .get("__metadata__")
            .and_then(|metadata| metadata.get("fuselm")?.as_str())
            .ok_or_else(|| damaged("no metadata `fuselm`"))
            .and_then(|text| serde_json::from_str(text).map_err(|e| damaged(&e.to_string())))?;
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
        let rows = tensors
            .get(STEPS)
            .and_then(|steps| steps.get("shape")?.get(0)?.as_u64())
            .ok_or_else(|| damaged("no tensor `steps`"))?;
        // Every tensor is given by its last byte; the data ends where the last tensor does.
        let end = tensors
            .values()
            .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64())
            .max()
            .unwrap_or(0);
        if (8 + length).checked_add(end) != Some(size) {
            return Err(damaged("it has another size than its header says"));
        }
        Ok(Some(Opened {
            reader,
            rows,
            tensors,
            header,
        }))
    }

    /// Removes the state: the training is over, or starts anew.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.dir, e)),
            _ => Ok(()),
        }
    }
}
