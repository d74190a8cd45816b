//! A model's tensors with an adapter, while they are read.
//!
//! The weight of an adapted module is W + s · B A, with s = lora_alpha / r, or lora_alpha / √r with
//! `use_rslora`; an embedding's is W + s · (B A)ᵀ. It is computed in `f32` and not rounded to the
//! dtype of W.

use super::adapter::Adapter;
use super::low_rank::{LowRank, Update, of_expert};
use super::parts::Kind;
use crate::checkpoint::ADAPTER_WEIGHTS as WEIGHTS;
use crate::error::{Error, Result};
use crate::tensors::Elements;

impl Adapter {
    /// The adapter's tensor that takes the place of the model's tensor `name`, if there is one.
    pub fn whole(&self, name: &str) -> Option<&str> {
        self.replaced.get(name).map(String::as_str)
    }

    /// The shape of the tensor `name`, if it is not the model's.
    pub fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.rows()?;
        self.whole(name).map(|stored| self.shape(stored))
    }

    /// The update of the tensor `name`, which is `weight` without it, if the adapter has one.
    /// Memory: 4 bytes for each element of A and B.
    ///
    /// # Errors
    ///
    /// A weight that a training cannot have begun with; else none that [`Adapter::open`] did not
    /// have.
    pub fn update(&self, name: &str, weight: &dyn Elements) -> Result<Option<Update>> {
        if let Some(rows) = self.tokens.get(name) {
            let lines = self.checkpoint.tensor(&rows.tensor)?;
            let columns = lines.shape[1];
            return Ok(Some(Update::rows(columns, &rows.ids, lines.to_f32())));
        }
        let Some(parts) = self.modules.get(name) else {
            return Ok(None);
        };
        let half = |half: &Option<String>| match half {
            Some(name) => Ok(self.checkpoint.tensor(name)?.to_f32()),
            None => Ok(vec![1.0]),
        };
        let (a, b) = (half(&parts.a)?, half(&parts.b)?);
        let (scale, rank) = (parts.scale as f32, parts.rank);
        let flips = parts.kind.flips();
        let product = match parts.kind {
            // A row of numbers: the factor is A, as a column of one.
            Kind::Bias => LowRank::new(scale, 1, b, a, false),
            Kind::Experts(count) => LowRank::experts(scale, rank, count, [a, b], false),
            Kind::TransposedExperts(count) => LowRank::experts(scale, rank, count, [a, b], true),
            Kind::Expert {
                expert,
                experts,
                halves,
                second,
            } => {
                let rows = self.shape(parts.b.as_deref().unwrap_or_default())[0] / halves;
                let first = if second { rows } else { 0 };
                let [a, b] = of_expert([&a, &b], rank, (expert, experts), first..first + rows);
                LowRank::new(scale, rank, a, b, false)
            }
            Kind::Linear | Kind::Transposed | Kind::Embedding => {
                LowRank::new(scale, rank, a, b, flips)
            }
        };
        let mut update = Update::of(product);
        if let Some(removed) = self.begun(name, parts, weight)? {
            update = update.and(removed);
        }
        Ok(Some(match &parts.magnitude {
            None => update,
            Some(lengths) => {
                let lengths = self.checkpoint.tensor(lengths)?.to_f32();
                update.with_lengths(weight, &lengths, flips)
            }
        }))
    }

    /// Whether the tensor `name` is another one with the adapter.
    pub fn changes(&self, name: &str) -> bool {
        self.modules.contains_key(name)
            || self.replaced.contains_key(name)
            || self.tokens.contains_key(name)
    }

    /// The tensor `name` with the adapter; `read` reads the model's own.
    ///
    /// # Errors
    ///
    /// Those of `read`; a number that is infinite or NaN.
    pub fn adapted(&self, name: &str, read: impl FnOnce() -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut values = match self.whole(name) {
            Some(stored) => self.checkpoint.tensor(stored)?.to_f32(),
            None => read()?,
        };
        if let Some(update) = self.update(name, &values)? {
            update.apply_to_all(&mut values);
        }
        self.finite(name, values, |at| at)
    }

    /// Some rows, of `width` numbers, of the matrix `name` with the adapter; `read` reads those of
    /// the model's own, or all where there is no choice.
    ///
    /// # Errors
    ///
    /// Those of `read`; a number that is infinite or NaN.
    pub fn adapted_rows(
        &self,
        name: &str,
        width: usize,
        rows: &[u32],
        read: impl Fn(Option<&[u32]>) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let starts = || rows.iter().map(|row| *row as usize * width);
        let chosen = |all: &dyn Elements| {
            let mut values = vec![0.0; rows.len() * width];
            let pieces = values.chunks_exact_mut(width);
            starts().zip(pieces).for_each(|(at, out)| all.read(at, out));
            values
        };
        // DoRA's factor of a row depends on its own row alone, but is computed for all.
        let rescales = self
            .modules
            .get(name)
            .is_some_and(|m| m.magnitude.is_some());
        let mut values = match self.whole(name) {
            _ if rescales => return Ok(chosen(&self.adapted(name, || read(None))?)),
            Some(stored) => chosen(&self.checkpoint.tensor(stored)?),
            None => read(Some(rows))?,
        };
        if let Some(update) = self.update(name, &values)? {
            let pieces = values.chunks_exact_mut(width);
            starts()
                .zip(pieces)
                .for_each(|(at, row)| update.apply(at, row));
        }
        self.finite(name, values, |at| {
            rows[at / width] as usize * width + at % width
        })
    }

    /// Fails at a number that is infinite or NaN; `place` is where it is in the whole tensor.
    fn finite(
        &self,
        name: &str,
        values: Vec<f32>,
        place: impl Fn(usize) -> usize,
    ) -> Result<Vec<f32>> {
        let Some(at) = values.iter().position(|value| !value.is_finite()) else {
            return Ok(values);
        };
        let (place, value) = (place(at), values[at]);
        if let Some(error) = self.blame(name) {
            return Err(error);
        }
        let problem = format!("tensor `{name}` with this adapter: number {place} is {value}");
        Err(Error::file(&self.dir.join(WEIGHTS), problem)
            .remedy("the model is damaged, or does not belong to the adapter; copy it again"))
    }

    /// An error about a number that is infinite or NaN in what the adapter has for the tensor
    /// `name`, if there is one.
    pub fn blame(&self, name: &str) -> Option<Error> {
        let parts = self.modules.get(name).into_iter();
        let parts = parts.flat_map(|parts| parts.tensors());
        let tokens = self.tokens.get(name).map(|rows| rows.tensor.as_str());
        let mut all = parts.chain(self.whole(name)).chain(tokens);
        all.find_map(|stored| {
            let values = self.checkpoint.tensor(stored).ok()?.to_f32();
            let at = values.iter().position(|value| !value.is_finite())?;
            let problem = format!("tensor `{stored}`: number {at} is {}", values[at]);
            let error = Error::file(&self.dir.join(WEIGHTS), problem);
            Some(error.remedy("the adapter is damaged, or its training went wrong; copy it again"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::{CheckpointWriter, Layout};
    use crate::lora::Base;
    use crate::tensors::{Dtype, TensorSpec};

    const NAME: &str = "embed.weight";
    const SHAPE: [usize; 2] = [5, 3];

    /// Opens an adapter of a model with one matrix of 5 x 3, from the ends of tensors' names.
    fn adapter(tensors: &[(&str, &[usize])], scale: f32) -> Result<Adapter> {
        let dir = tempfile::tempdir().unwrap();
        let dora = tensors.iter().any(|(end, _)| end.contains("magnitude"));
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": dora,
            "target_modules": ["embed"]});
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let specs = tensors.iter().map(|(end, shape)| TensorSpec {
            name: format!("base_model.model.embed{end}"),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        });
        let layout = Layout::single(specs.collect(), WEIGHTS).unwrap();
        let writer = CheckpointWriter::open(dir.path(), layout).unwrap();
        for (at, (_, shape)) in tensors.iter().enumerate() {
            let numbers = (1..=shape.iter().product()).map(|i| scale * (at + i) as f32);
            let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            writer.write(at, 0, &bytes).unwrap();
        }
        writer.finish(dir.path()).unwrap();
        let base = [(NAME.to_owned(), SHAPE.to_vec())];
        Adapter::open(dir.path(), &Base::new(base, &json!({}), None))
    }

    #[test]
    fn rows_are_those_of_the_whole() {
        let own: Vec<f32> = (0..15).map(|i| i as f32 * 0.5 - 3.0).collect();
        let plain: [(&str, &[usize]); 2] =
            [(".lora_A.weight", &[2, 3]), (".lora_B.weight", &[5, 2])];
        let embedding: [(&str, &[usize]); 2] = [
            (".lora_embedding_A", &[2, 5]),
            (".lora_embedding_B", &[3, 2]),
        ];
        let lengths: (&str, &[usize]) = (".lora_magnitude_vector", &[5]);
        let whole: (&str, &[usize]) = (".base_layer.weight", &[5, 3]);
        let rows = [4, 0, 4];
        for tensors in [
            plain.to_vec(),
            embedding.to_vec(),
            [&plain[..], &[lengths]].concat(),
            [&plain[..], &[whole]].concat(),
            [&embedding[..], &[whole]].concat(),
        ] {
            let adapter = adapter(&tensors, 0.1).unwrap();
            assert!(adapter.changes(NAME) && !adapter.changes("norm.weight"));
            let all = adapter.adapted(NAME, || Ok(own.clone())).unwrap();
            assert_ne!(all, own);
            let line = |row: u32| row as usize * 3..row as usize * 3 + 3;
            let read = |chosen: Option<&[u32]>| match chosen {
                None => Ok(own.clone()),
                Some(rows) => Ok(rows
                    .iter()
                    .flat_map(|row| own[line(*row)].to_vec())
                    .collect()),
            };
            let some = adapter.adapted_rows(NAME, 3, &rows, read).unwrap();
            let expected: Vec<f32> = rows
                .iter()
                .flat_map(|row| all[line(*row)].to_vec())
                .collect();
            assert_eq!(some, expected, "{tensors:?}");
        }
    }

    #[test]
    fn halves_alone_and_numbers_too_large_are_named() {
        let message = |result: Result<Adapter>| result.err().unwrap().to_string();
        let error = message(adapter(&[(".lora_B.weight", &[5, 2])], 1.0));
        assert!(
            error.contains("embed.lora_B.weight") && error.contains("A without B"),
            "{error}"
        );
        let shapes: [(&str, &[usize]); 2] =
            [(".lora_A.weight", &[2, 3]), (".lora_B.weight", &[4, 2])];
        let error = message(adapter(&shapes, 1.0));
        assert!(
            error.contains("expected shape [5, 2]") && error.contains("found [4, 2]"),
            "{error}"
        );
        let shapes: [(&str, &[usize]); 2] =
            [(".lora_A.weight", &[2, 3]), (".lora_B.weight", &[5, 2])];
        let large = adapter(&shapes, 1e30).unwrap();
        let error = large
            .adapted_rows(NAME, 3, &[2], |_| Ok(vec![0.0; 3]))
            .unwrap_err();
        assert!(error.to_string().contains("number 6 is inf"), "{error}");
    }
}
