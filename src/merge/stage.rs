//! The stage.

use std::path::PathBuf;

use serde_json::Value;

use super::{MergeConfig, MergeOptions, Plan, plan, run, write_stats};
use crate::artifact::{Existing, Kind, Writing};
use crate::error::Result;
use crate::progress::warn;
use crate::stage::{self, Item, Reads, Size, Stage};
use crate::units::{Bytes, Count};

/// The stage: a configuration, and what the merge is written to.
pub struct Merge {
    /// Models, method and parameters.
    pub config: MergeConfig,
    /// The configuration as it was written.
    pub written: Value,
    /// Model folder to write.
    pub out: PathBuf,
    /// Folder of the `merge_stats` to write, if they are kept.
    pub stats: Option<PathBuf>,
    /// How it is carried out; whether `out` is replaced is said by [`Existing`].
    pub options: MergeOptions,
}

impl Merge {
    /// What will be done; everything is checked.
    ///
    /// # Errors
    /// Those of [`plan()`].
    pub fn plan(&self, existing: Existing) -> Result<Plan> {
        let options = MergeOptions {
            force: existing == Existing::Replace,
            ..self.options.clone()
        };
        plan(&self.config, &self.out, &options)
    }

    /// Carries a plan out, says what there is to warn of, and writes the statistics.
    ///
    /// # Errors
    /// Those of [`run()`] and of writing the statistics.
    pub fn perform(&self, plan: &Plan, existing: Existing) -> Result<String> {
        let stats = self.stats.as_ref();
        let stats = stats.map(|dir| stage::writer(self, Kind::MergeStats, dir, existing));
        let stats = stats.transpose()?;
        let summary = run(plan)?;
        for warning in &summary.warnings {
            warn(warning);
        }
        if let Some(writer) = stats {
            write_stats(&summary.stats, writer)?;
        }
        Ok(format!(
            "{} tensors, {} read, {} written",
            Count(summary.tensors as u64),
            Bytes(summary.bytes_read),
            Bytes(summary.bytes_written)
        ))
    }
}

impl Stage for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn reads(&self) -> Result<Reads> {
        let mut reads = Reads::new();
        for (index, name) in self.config.models().into_iter().enumerate() {
            let (model, adapter) = self.config.folders(name);
            reads = reads
                .input(format!("model {index}"), Item::model(&model))
                .input(format!("model {index} companions"), Item::Companions(model))
                .maybe(
                    &format!("model {index} adapter"),
                    adapter.map(Item::Adapter),
                );
        }
        let tokenizer = self.config.tokenizer_folder();
        Ok(reads.maybe("tokenizer", tokenizer.map(Item::Companions)))
    }

    fn writes(&self) -> Vec<Item> {
        let stats = self.stats.as_ref();
        let stats = stats.map(|dir| Item::artifact(Kind::MergeStats, dir));
        std::iter::once(Item::model(&self.out))
            .chain(stats)
            .collect()
    }

    fn changing(&self, _: Kind) -> Value {
        self.written.clone()
    }

    fn size(&self) -> Size {
        let models = self.config.models();
        let base = models.first().map(|name| self.config.folders(name).0);
        base.map_or(Size::Small, |dir| Size::Like(Item::model(dir)))
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        self.perform(&self.plan(existing)?, existing)
    }
}
