//! What a merge reads, writes and takes of memory.

use std::sync::Arc;

use super::Plan;
use super::tensors::{SMALL, TensorPlan};

impl Plan {
    /// The number of output tensors.
    pub fn tensors(&self) -> usize {
        self.matched.tensors.len()
    }

    /// Bytes of input tensors, each counted once.
    pub fn bytes_in(&self) -> u64 {
        self.matched
            .tensors
            .iter()
            .map(|t| self.tensor_bytes(t))
            .sum()
    }

    /// Bytes that are read, passes counted.
    pub fn bytes_read(&self) -> u64 {
        let read = |t: &TensorPlan| self.tensor_bytes(t) * t.kernel.passes().max(1);
        self.matched.tensors.iter().map(read).sum()
    }

    /// Bytes of the output's weights.
    pub fn bytes_written(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes of a tensor's inputs.
    pub(in crate::merge) fn tensor_bytes(&self, tensor: &TensorPlan) -> u64 {
        let inputs = tensor.inputs();
        inputs
            .filter_map(|(number, name)| self.models[*number].info(name))
            .map(|info| (info.end - info.begin) as u64)
            .sum()
    }

    /// Most anonymous memory that the merge takes beyond the program itself.
    pub fn memory(&self) -> u64 {
        let tensors = &self.matched.tensors;
        // Placements of rows that tensors share, and the tokenizer's file.
        let placements = tensors.iter().filter_map(|t| t.placement.as_ref());
        let mut placements: Vec<_> = placements.collect();
        placements.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let placements: u64 = placements.iter().map(|placement| placement.bytes()).sum();
        let files = self.tokenizer.as_ref();
        let json = files.and_then(|files| files.json.as_ref());
        let json = json.map_or(0, |json| json.len() as u64);
        placements + json + tensors.iter().map(memory).max().unwrap_or(0)
    }
}

/// Most anonymous memory that merging a tensor takes.
fn memory(t: &TensorPlan) -> u64 {
    let threads = rayon::current_num_threads() as u64;
    let models = t.models.len() as u64 + 2;
    let len = t.shape.iter().product::<usize>() as u64;
    // What a thread works on: a tile of every model and a block of output.
    let row = t.shape.last().copied().unwrap_or(1) as u64;
    let row = row.min(len).max(1 << 10);
    let tiles = models * row * 12 + (1 << 19);
    let blocks = len / (1 << 16) * models * 80;
    // What a selection remembers (twice, as growing vectors leave behind as much), or its
    // histograms.
    let remembered = (len / 8).clamp(1 << 16, 1 << 21).min(len) * 2 * (32 + 4 * models);
    let histograms = threads * models * (1 << 19);
    let selection = match t.kernel.passes() > 1 && t.kernel.selects() {
        true => remembered.max(histograms),
        false => 0,
    };
    match len <= SMALL as u64 {
        true => threads * (tiles + blocks + selection),
        false => threads * tiles + blocks + selection,
    }
}
