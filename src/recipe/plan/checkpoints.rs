//! Steps that make checkpoints and measure them.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};

use super::inputs::valid_dir;
use super::{Run, Target, action, model_item};
use crate::artifact::{Existing, Kind};
use crate::error::Result;
use crate::eval::{self, EvalInputs};
use crate::lora::ModelPath;
use crate::merge::{self, MergeConfig, MergeOptions};
use crate::progress::warn;
use crate::recipe::step::{Item, Step};
use crate::train::{self, Init, TrainInputs};
use crate::units::{Bytes, Count};

pub(super) fn train_step(run: &Rc<Run>, target: &Target) -> Step {
    let pivot = run.pivot();
    let init = match pivot.has_weights {
        true => Init::Model(pivot.dir.clone()),
        false => Init::Random {
            config: pivot.config.raw.clone(),
            tokenizer: pivot.dir.clone(),
        },
    };
    let valid = target
        .options
        .valid
        .as_ref()
        .map(|_| valid_dir(run).artifact(Kind::Tokens, &[&pivot.vocab, run.template()]));
    let targets = target
        .fusion
        .as_ref()
        .map(|fusion| run.dir.artifact(Kind::Targets, &[fusion]));
    let inputs = TrainInputs {
        pivot: init,
        tokens: run.tokens(0).path().to_path_buf(),
        targets: targets.clone(),
        valid_tokens: valid.clone(),
        out: run.dir.checkpoint(&target.name),
        steps_out: run.dir.artifact(Kind::Steps, &[&target.name]),
        name: target.name.clone(),
        device: run.device.clone(),
        overwrite: true,
    };
    let mut read = vec![
        model_item(pivot),
        Item::Companions(pivot.dir.clone()),
        run.tokens(0),
    ];
    let changing = target.options.changing(targets.is_some());
    read.extend(targets.map(|dir| Item::Artifact(Kind::Targets, dir)));
    read.extend(valid.map(|dir| Item::Artifact(Kind::Tokens, dir)));
    let options = target.options.clone();
    Step {
        stage: "train",
        subject: target.name.clone(),
        inputs: read,
        outputs: vec![
            Item::Model(inputs.out.clone()),
            Item::Artifact(Kind::Steps, inputs.steps_out.clone()),
        ],
        options: changing,
        action: action(run, move |_| {
            let summary = train::run(&inputs, &options)?;
            Ok(format!(
                "{} steps, loss {:.4}, {:.0} tokens/s, {:.1} % waiting{}",
                Count(summary.steps),
                summary.loss,
                summary.tokens_per_second,
                100.0 * summary.waiting,
                if summary.resumed { ", continued" } else { "" }
            ))
        }),
    }
}

pub(super) fn merge_step(
    run: &Rc<Run>,
    name: &str,
    members: &[&str],
    section: &Value,
) -> Result<Step> {
    let members: Vec<PathBuf> = members
        .iter()
        .map(|name| run.dir.checkpoint(name))
        .collect();
    let recipe = run.recipe.path.parent().unwrap_or(Path::new(""));
    let config = MergeConfig::from_recipe(section, &members, &run.pivot().dir, recipe)?;
    let out = run.dir.checkpoint(name);
    let stats = run.dir.artifact(Kind::MergeStats, &[name]);
    let mut inputs = Vec::new();
    for name in config.models() {
        let (model, adapter) = config.folders(name);
        inputs.extend([Item::Model(model.clone()), Item::Companions(model)]);
        inputs.extend(adapter.map(Item::Adapter));
    }
    inputs.extend(config.tokenizer_folder().map(Item::Companions));
    Ok(Step {
        stage: "merge",
        subject: name.to_owned(),
        inputs,
        outputs: vec![
            Item::Model(out.clone()),
            Item::Artifact(Kind::MergeStats, stats.clone()),
        ],
        options: section.clone(),
        action: action(run, move |_| {
            let options = MergeOptions {
                force: true,
                ..MergeOptions::default()
            };
            let plan = merge::plan(&config, &out, &options)?;
            let summary = merge::run(&plan)?;
            for warning in &summary.warnings {
                warn(warning);
            }
            merge::write_stats(
                &summary.stats,
                &stats,
                plan.provenance()?,
                Existing::Replace,
            )?;
            Ok(format!(
                "{} tensors, {} written",
                Count(summary.tensors as u64),
                Bytes(summary.bytes_written)
            ))
        }),
    })
}

pub(super) fn eval_step(run: &Rc<Run>, name: String, path: ModelPath) -> Step {
    let out = run.dir.artifact(Kind::EvalItems, &[&name]);
    let model = run.models.iter().find(|model| model.name() == name);
    let tokenizer = model.map_or_else(|| path.base.clone(), |model| model.tokenizer_dir.clone());
    let mut inputs = vec![
        Item::Model(path.base.clone()),
        Item::Tokenizer(tokenizer.clone()),
    ];
    inputs.extend(path.adapter.clone().map(Item::Adapter));
    inputs.extend(
        run.recipe
            .eval
            .iter()
            .map(|task| Item::File(task.data.clone())),
    );
    let dtype = model.map_or(run.pivot().spec.dtype, |model| model.spec.dtype);
    let mut tasks = json!(run.recipe.eval);
    for task in tasks.as_array_mut().into_iter().flatten() {
        task["data"] = Value::Null;
    }
    Step {
        stage: "eval",
        subject: name.clone(),
        inputs,
        outputs: vec![Item::Artifact(Kind::EvalItems, out.clone())],
        options: json!([
            tasks,
            run.recipe.corpus.date,
            eval::changing(dtype.into(), run.recipe.corpus.special_tokens)
        ]),
        action: action(run, move |run| {
            let inputs = EvalInputs {
                name: name.clone(),
                model: path.clone(),
                tokenizer: tokenizer.clone(),
                tasks: run.recipe.eval.clone(),
                out: out.clone(),
                batch_tokens: run.recipe.score.batch_tokens,
                offload: run.recipe.score.offload(),
                dtype: dtype.into(),
                device: run.device.clone(),
                date: Some(run.recipe.corpus.date()?),
                special_tokens: run.recipe.corpus.special_tokens,
            };
            let results = eval::run(&inputs, Existing::Replace)?;
            let shown: Vec<String> = results
                .iter()
                .map(|result| format!("{} {:.4}", result.name, result.bits_per_byte()))
                .collect();
            Ok(format!("bits per byte: {}", shown.join(", ")))
        }),
    }
}
