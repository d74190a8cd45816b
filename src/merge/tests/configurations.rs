//! Configurations.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::merge::MergeConfig;

#[test]
fn wrong_configurations_are_refused_with_a_remedy() {
    let refused = |text: &str, part: &str| {
        let error = MergeConfig::from_yaml(text, Path::new("")).err();
        let error = error.unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains(part),
            "expected `{part}`: {error}"
        );
    };
    let sce = "merge_method: sce\nbase_model: p\nmodels: [a, b]\n";
    assert!(MergeConfig::from_yaml(sce, Path::new("")).is_ok());
    let with = |more: &str| format!("{sce}{more}");
    assert!(MergeConfig::from_yaml(&with("parameters: {int8_mask: true}"), Path::new("")).is_ok());
    refused("models: [a", "merge configuration");
    refused("[]", "expected a mapping");
    refused("models: [a]", "lacks `merge_method`");
    refused("merge_method: scee\nmodels: [a]", "did you mean `sce`?");
    refused("merge_method: sce\nmodels: [a, b]", "needs a `base_model`");
    refused(
        "merge_method: sce\nbase_model: p\nmodels: [p]",
        "at least 1",
    );
    refused(
        "merge_method: slerp\nbase_model: p\nmodels: [a, b]",
        "exactly 1",
    );
    refused(
        "merge_method: linear",
        "exactly one of `models` and `slices`",
    );
    refused(&with("paramters: {}"), "did you mean `parameters`?");
    refused(
        &with("parameters: {select_topc: 1}"),
        "did you mean `select_topk`?",
    );
    refused(
        &with("parameters: {select_topk: 2}"),
        "a number from 0 to 1",
    );
    refused(
        &with("parameters: {select_topk: [0.1, 3]}"),
        "a number from 0 to 1",
    );
    refused(
        &with("parameters: {select_topk: yes please}"),
        "found `yes please`",
    );
    refused(
        &with("parameters: {normalize: 2}"),
        "expected true or false",
    );
    refused(
        &with("parameters: {compat: merge}"),
        "one of none, mergekit, fusechat",
    );
    refused(&with("dtype: int8"), "cannot be written");
    refused(&with("tokenizer: {source: [base]}"), "expected text");
    refused(&with("chat_template: chatml"), "is no template");
    let twice = "merge_method: sce\nbase_model: p\nmodels: [a, a]";
    refused(twice, "listed twice");
    let own = "merge_method: ties\nbase_model: p\nmodels: [{model: a, parameters: {lambda: 1}}]";
    refused(own, "one for all models");
    let backwards =
        "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]";
    refused(backwards, "first < end");
}

#[test]
fn fusechats_published_configurations_are_read() {
    for text in [
        "models:\n  - model: p\n  - model: a\n    parameters:\n      density: 0.6\n      weight: 0.2\nmerge_method: dare_linear\nbase_model: p\nparameters:\n  normalize: true\ndtype: bfloat16\n",
        "models:\n  - model: a\n    parameters:\n      weight: 0.2\nmerge_method: linear\ndtype: float16\n",
        "models:\n  - model: p\n  - model: a\nmerge_method: sce\nbase_model: p\nparameters:\n  select_topk: 0.1\ndtype: bfloat16\n",
        "models:\n  - model: p\n  - model: a\n    parameters:\n      weight: 0.3\nmerge_method: task_arithmetic\nbase_model: p\nparameters:\n  normalize: false\ndtype: bfloat16\n",
        "models:\n  - model: p\n  - model: a\n    parameters:\n      density: 0.6\n      weight: 0.2\nmerge_method: ties\nbase_model: p\nparameters:\n  normalize: true\ndtype: bfloat16\n",
    ] {
        MergeConfig::from_yaml(text, Path::new("")).unwrap();
    }
}

#[test]
fn a_recipe_brings_models_and_base() {
    let section = json!({"merge_method": "ties", "parameters": {"density": 0.5}});
    let models = [PathBuf::from("t1"), PathBuf::from("t2")];
    let config =
        MergeConfig::from_recipe(&section, &models, Path::new("p"), Path::new("")).unwrap();
    assert_eq!(config.base_model.as_deref(), Some("p"));
    let names: Vec<_> = config.slices[0]
        .sources
        .iter()
        .map(|s| s.model.as_str())
        .collect();
    assert_eq!(names, ["t1", "t2"]);
}
