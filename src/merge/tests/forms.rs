//! Configurations in the forms that mergekit runs: those of `cases/merge/yaml-forms` in the shared
//! folder run, and what they say is what the plain form says.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::fixtures::{Zoo, folders, values};
use crate::checkpoint::Checkpoint;
use crate::merge::{MergeConfig, MergeOptions, Setting, Slice, plan, run};
use crate::tensors::{Dtype, TensorSpec};

/// Models of four layers under the names that the cases use.
fn models() -> Zoo {
    let zoo = Zoo::new(Dtype::F32, 8);
    let spec = |name: String, shape: &[usize]| TensorSpec {
        name,
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let mut specs = vec![spec("model.embed_tokens.weight".into(), &[8, 4])];
    for layer in 0..4 {
        for part in ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"] {
            specs.push(spec(format!("model.layers.{layer}.{part}.weight"), &[4, 4]));
        }
    }
    specs.push(spec("model.norm.weight".into(), &[4]));
    specs.push(spec("lm_head.weight".into(), &[8, 4]));
    for (seed, name) in [(1, "base"), (2, "ma"), (3, "mb"), (4, "my model")] {
        let scale = if seed == 1 { 0.0 } else { 0.05 };
        zoo.write(name, &specs, seed, scale);
        let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "num_hidden_layers": 4, "torch_dtype": "float32"});
        std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    }
    zoo
}

/// The YAML files of the cases whose models are those of [`models`].
fn cases() -> Vec<PathBuf> {
    let shared = std::env::var("FUSELM_TEST_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let root = shared.join("cases/merge");
    if !root.is_dir() {
        eprintln!("skipped: no cases/merge in {}", shared.display());
        return Vec::new();
    }
    let files = folders(&root).into_iter().filter(|path| path.is_dir());
    let files = files.flat_map(|dir| folders(&dir));
    files
        .filter(|path| path.extension().is_some_and(|e| e == "yml"))
        .collect()
}

#[test]
fn what_mergekit_runs_is_run() {
    let zoo = models();
    let mut failures = Vec::new();
    let mut count = 0;
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let config = MergeConfig::from_yaml(&text, zoo.dir.path());
        let is_ours = |config: &MergeConfig| {
            let mut names = config.models().into_iter();
            names.all(|name| zoo.out(name).is_dir())
        };
        let outcome = match config {
            Ok(config) if is_ours(&config) => {
                count += 1;
                plan(
                    &config,
                    &zoo.out(&format!("out{count}")),
                    &MergeOptions::default(),
                )
                .and_then(|plan| run(&plan))
                .map(|_| ())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // Where a parameter is lacking for some tensors mergekit refuses as well.
        if let Err(error) = outcome
            && !error.to_string().contains("needs the parameter")
        {
            failures.push(format!("{}: {error}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count == 0 || count >= 20, "{count}");
}

/// What a configuration says about weights.
fn meaning(text: &str) -> (Vec<Slice>, Option<String>, Vec<(String, Setting)>) {
    let config = MergeConfig::from_yaml(text, Path::new(""));
    let config = config.unwrap_or_else(|error| panic!("{text}: {error}"));
    (config.slices, config.base_model, config.parameters)
}

#[test]
fn forms_mean_what_the_plain_form_means() {
    let ties = |more: &str| format!("merge_method: ties\nbase_model: p\nmodels: [a]\n{more}");
    let slices = |range: &str| {
        format!(
            "merge_method: passthrough\nslices: [{{sources: [{{model: a, layer_range: {range}}}]}}]"
        )
    };
    let of = |model: &str| format!("merge_method: linear\nmodels: [{{model: {model}}}]");
    for (plain, forms) in [
        (
            ties("parameters: {weight: 0.5, normalize: true}"),
            vec![
                ties("parameters: {weight: '0.5', normalize: 1.0}"),
                ties("parameters: {weight: 5e-1, normalize: 1}"),
                ties("parameters: {weight: \" 0_0.5 \", normalize: 'YES'}"),
                ties("parameters: {weight: .5, normalize: on}"),
                ties("parameters: {weight: 0.1, weight: 0.5, normalize: True}"),
                ties("parameters: &x {weight: 0.5, normalize: y}\nname: *x"),
                ties("x: &x {weight: 0.5}\nparameters: {<<: *x, normalize: t}"),
                ties("parameters: {weight: 0.5, normalize: true, int8_mask: 1.0}\nslices:\n"),
                format!(
                    "\u{feff}{}",
                    ties("parameters: {weight: 0.5, normalize: yes}").replace('\n', "\r\n")
                ),
            ],
        ),
        (
            ties("parameters: {weight: [0.0, 1.0], normalize: false}"),
            vec![
                ties("parameters: {weight: [false, '1'], normalize: off}"),
                ties("parameters: {weight: ['0e0', true], normalize: 0.0}"),
                ties("parameters:\n  weight:\n  - 0\n  - 1\n  normalize: 'n'"),
            ],
        ),
        (
            ties("parameters: {weight: 1.0}"),
            vec![
                ties("parameters: {weight: true}"),
                ties("parameters: {weight: 1, t: 0.5, embed_slerp: true}"),
            ],
        ),
        (
            slices("[0, 3]"),
            vec![
                slices("['0', '3']"),
                slices("[0.0, 3.0]"),
                slices("[false, \"3.0\"]"),
                slices("[ 0x0, 03 ]"),
            ],
        ),
        (
            of("a"),
            vec![
                of("{model: a}"),
                of("{model: {path: a}}"),
                of("{model: {path: a, revision: null}, lora: null, override_architecture:}"),
            ],
        ),
        (
            of("a+b"),
            vec![
                of("{model: a, lora: b}"),
                of("{model: {path: a}, lora: {path: b}}"),
            ],
        ),
    ] {
        let expected = meaning(&plain);
        for form in forms {
            assert_eq!(meaning(&form), expected, "{form}");
        }
    }
}

#[test]
fn gradients_of_flags_take_the_last_that_is_reached() {
    let text = "merge_method: ties\nbase_model: p\nmodels: [a]\n\
        parameters: {weight: 1, normalize: [true, 'off', 1.0]}";
    let (_, _, parameters) = meaning(text);
    let setting = &parameters
        .iter()
        .find(|(key, _)| key == "normalize")
        .unwrap()
        .1;
    let at = |t: f64| format!("{:?}", setting.at("x", t).unwrap());
    assert_eq!(
        [0.0, 0.4, 0.5, 0.9, 1.0].map(at),
        [
            "Flag(true)",
            "Flag(true)",
            "Flag(false)",
            "Flag(false)",
            "Flag(true)"
        ]
    );
}

#[test]
fn an_empty_list_sets_nothing() {
    let zoo = models();
    let value = |density: serde_json::Value| {
        json!({"merge_method": "ties", "base_model": "base",
            "models": [{"model": "ma", "parameters": {"density": density}}],
            "parameters": {"weight": 1, "density": 0.5}})
    };
    let (a, _) = zoo.merge(value(json!([])), "a");
    let (b, _) = zoo.merge(value(json!(0.5)), "b");
    assert_eq!(values(&a), values(&b));
}

#[test]
fn keys_without_effect_are_said_and_mistakes_refused() {
    let warnings = |text: &str| {
        let config = MergeConfig::from_yaml(text, Path::new(""));
        config
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .warnings
    };
    for (text, part) in [
        (
            "merge_method: slerp\nbase_model: p\nmodels: [a]\nparameters: {t: 0.5, normalize: true}",
            "`normalize`",
        ),
        (
            "merge_method: slerp\nbase_model: p\nmodels: [a]\nparameters: {t: 0.5, embed_slerp: true}",
            "`embed_slerp`",
        ),
        (
            "merge_method: linear\nconst_tag: x\nmodels: [{model: a, parameters: {weight: 1}}]",
            "`const_tag`",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, layer_range: [0, 1], parameters: {weight: 1}}]",
            "`layer_range`",
        ),
        (
            "merge_method: passthrough\nslices: [{residual_weight: 1, sources: [{model: a, layer_range: [0, 1]}]}]",
            "`residual_weight`",
        ),
        (
            "merge_method: passthrough\nbase_model: p\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]",
            "`base_model: p`",
        ),
        (
            "merge_method: passthrough\nbase_model: p\nmodels: [a]",
            "`base_model: p`",
        ),
        (
            "merge_method: linear\nbase_model: p\nmodels: [{model: a, parameters: {weight: 1}}]",
            "`base_model: p`",
        ),
        (
            "merge_method: linear\nmodels: [{model: {model: {path: a, revision: main}}, parameters: {weight: 1}}]",
            "revision",
        ),
    ] {
        let found = warnings(text);
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{text}: {found:?}"
        );
    }
    for (text, part) in [
        (
            "merge_method: linear\nmodels: [{model: a, weight: 1}]",
            "under `parameters`",
        ),
        (
            "merge_method: linear\nmodel: [a]\nmodels: [a]",
            "did you mean `models`?",
        ),
        (
            "merge_method: linear\nmodels: [{model: {path: a}}]",
            "unknown key `path`",
        ),
        (
            "merge_method: linear\nmodels: [{model: {model: a, override_architecture: X}}]",
            "not supported",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: inf}}]",
            "found `inf`",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: .inf}}]",
            "found `.inf`",
        ),
        (
            "merge_method: ties\nbase_model: p\nmodels: [a]\nparameters: {normalize: 2}",
            "found `2`",
        ),
        (
            "merge_method: linear\nmodels: [a]\n---\nx: 1",
            "second document",
        ),
        ("merge_method: linear\nmodels: [a]\nmodels2: !x [a]", "`!x`"),
    ] {
        let error = MergeConfig::from_yaml(text, Path::new("")).err();
        let error = error
            .unwrap_or_else(|| panic!("accepted: {text}"))
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_base_that_is_not_listed_takes_part_where_there_is_no_base() {
    let zoo = models();
    let value = |method: &str, models: &[&str], parameters: serde_json::Value| {
        json!({"merge_method": method, "models": models, "base_model": "base",
            "parameters": parameters})
    };
    let all = |checkpoint: Checkpoint| values(&checkpoint);
    for (method, parameters) in [
        ("linear", json!({"weight": 1.0})),
        ("karcher", json!({"max_iter": 100})),
    ] {
        let added = zoo.merge(
            value(method, &["ma", "mb"], parameters.clone()),
            &format!("{method}1"),
        );
        let listed = zoo.merge(
            value(method, &["ma", "mb", "base"], parameters),
            &format!("{method}2"),
        );
        assert!(added.1.warnings.is_empty(), "{:?}", added.1.warnings);
        assert_eq!(all(added.0), all(listed.0), "{method}");
    }
    // Its own weight is lacking: it is left out, and said so.
    let own = |model: &str| json!({"model": model, "parameters": {"weight": 0.5}});
    let with =
        json!({"merge_method": "linear", "models": [own("ma"), own("mb")], "base_model": "base"});
    let mut without = with.clone();
    without.as_object_mut().unwrap().remove("base_model");
    let (with, without) = (zoo.merge(with, "with"), zoo.merge(without, "without"));
    assert!(
        with.1.warnings[0].contains("no effect on the weights"),
        "{:?}",
        with.1.warnings
    );
    assert_eq!(all(with.0), all(without.0));
}

#[test]
fn revisions_of_folders_are_cut_off() {
    let zoo = models();
    std::fs::rename(zoo.out("mb"), zoo.out("m@b")).unwrap();
    let text = "merge_method: linear\nmodels: [ma@main, m@b]\nparameters: {weight: 1}";
    let config = MergeConfig::from_yaml(text, zoo.dir.path()).unwrap();
    assert_eq!(config.models(), ["ma", "m@b"]);
    assert!(
        config.warnings[0].contains("`main`"),
        "{:?}",
        config.warnings
    );
}
