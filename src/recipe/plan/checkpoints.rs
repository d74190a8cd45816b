//! Steps that make checkpoints and measure them.

use std::path::{Path, PathBuf};

use super::{Merged, Run, Target};
use crate::artifact::Kind;
use crate::convert::Convert;
use crate::error::Result;
use crate::eval::Eval;
use crate::lora::ModelPath;
use crate::merge::{Merge, MergeConfig, MergeOptions};
use crate::recipe::step::Step;
use crate::train::{Init, Train};

impl<'a> Run<'a> {
    /// A pivot that is a GGUF file as a folder, which can be trained.
    pub(super) fn convert_step(&self) -> Option<Step<'a>> {
        let pivot = self.pivot();
        let convert = Convert {
            model: pivot.path(),
            tokenizer: pivot.tokenizer_dir.clone(),
            dtype: pivot.spec.dtype.into(),
            out: self.path(0).base,
        };
        pivot.is_gguf().then(|| Step::new(pivot.name(), convert))
    }

    pub(super) fn train_step(&self, target: &Target) -> Step<'a> {
        let pivot = self.pivot();
        let valid = target.options.valid.as_ref();
        let fusion = target.fusion.as_deref();
        let train = Train {
            pivot: match pivot.has_weights {
                true => Init::Model(self.path(0).base),
                false => Init::Random {
                    config: pivot
                        .config
                        .as_ref()
                        .map(|c| c.raw.clone())
                        .unwrap_or_default(),
                    tokenizer: pivot.dir.clone(),
                },
            },
            tokens: self.tokens(0),
            targets: fusion.map(|fusion| self.dir.artifact(Kind::Targets, &[fusion])),
            valid_tokens: valid.map(|_| self.tokens_in(&self.valid_dir(), 0)),
            out: self.dir.checkpoint(&target.name),
            steps_out: self.dir.artifact(Kind::Steps, &[&target.name]),
            name: target.name.clone(),
            device: self.device.clone(),
            options: target.options.clone(),
        };
        Step::new(&target.name, train)
    }

    pub(super) fn merge_step(&self, merged: &Merged<'_>) -> Result<Step<'a>> {
        let (name, written) = (merged.name.as_str(), merged.config.clone());
        let members: Vec<PathBuf> = merged
            .members
            .iter()
            .map(|name| self.dir.checkpoint(name))
            .collect();
        let beside = self.recipe.path.parent().unwrap_or(Path::new(""));
        let merge = Merge {
            config: MergeConfig::from_recipe(&written, &members, &self.path(0).base, beside)
                .map_err(|error| error.within(self.recipe.path.display()))?,
            written,
            out: self.dir.checkpoint(name),
            stats: Some(self.dir.artifact(Kind::MergeStats, &[name])),
            options: MergeOptions::default(),
        };
        Ok(Step::new(name, merge))
    }

    pub(super) fn eval_step(&self, name: String, path: ModelPath) -> Result<Step<'a>> {
        let (corpus, score) = (&self.recipe.corpus, &self.recipe.score);
        let model = self.models.iter().find(|model| model.name() == name);
        let dtype = model.unwrap_or(self.pivot()).spec.dtype;
        let eval = Eval {
            tokenizer: model.map_or_else(|| path.base.clone(), |model| model.tokenizer_dir.clone()),
            model: path,
            tasks: self.recipe.eval.clone(),
            out: self.dir.artifact(Kind::EvalItems, &[&name]),
            batch_tokens: score.batch_tokens,
            offload: score.offload(),
            dtype: dtype.into(),
            device: self.device.clone(),
            date: Some(corpus.date()?),
            special_tokens: corpus.special_tokens,
            name: name.clone(),
        };
        Ok(Step::new(name, eval))
    }
}
