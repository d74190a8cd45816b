//! The recipe: the YAML that describes a run.
//!
//! Sections are the option structs of the stages, so a recipe and the single commands take the
//! same keys. Unknown keys are errors that name the line and the nearest known key.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::file::File;
use super::variants;
use crate::align::AlignOptions;
use crate::artifact::check_name;
use crate::checkpoint::is_gguf;
use crate::corpus::{CorpusOptions, files_of};
use crate::error::{Context, Error, Result};
use crate::eval::Task;
use crate::fuse::FuseOptions;
use crate::lora::split;
use crate::mapping::MapOptions;
use crate::model::LoraSave;
use crate::project::ProjectOptions;
use crate::score::ScoreOptions;
use crate::train::{Method, TrainOptions};

/// Keys at the top of a recipe.
const KEYS: [&str; 16] = [
    "run",
    "seed",
    "corpus",
    "pivot",
    "sources",
    "score",
    "align",
    "map",
    "project",
    "fuse",
    "train",
    "baselines",
    "merge",
    "eval",
    "variants",
    "grid",
];

/// Names that the run gives to checkpoints of its own.
const RESERVED: [&str; 3] = ["clm", "merged", "mean"];

/// What names of such checkpoints begin with.
const OWN: [&str; 3] = ["target-", "clm-", "merged-"];

/// A model of the run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name in the run.
    pub name: String,
    /// Hugging Face model folder (relative to the recipe's) or hub id; for a source, a GGUF file.
    pub model: String,
    /// Folder or hub id with its tokenizer; the model's own unless given.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// Type of weights and activations when it is scored.
    #[serde(default)]
    pub dtype: Dtype,
    /// Distributions of another run that are used instead of scoring it.
    #[serde(default)]
    pub topk: Option<Reused>,
}

/// Distributions that another run has made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reused {
    /// The run folder, relative to the recipe's folder or the current one.
    pub from: PathBuf,
    /// The model's name there; the same as here if not set.
    pub name: Option<String>,
}

/// Floating-point type in which a model is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the range of `f32`.
    Bf16,
}

impl From<Dtype> for candle_core::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => candle_core::DType::F32,
            Dtype::F16 => candle_core::DType::F16,
            Dtype::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// What the fused model is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The pivot trained on the same text for as many steps, without targets.
    Clm,
    /// As many such models as there are targets, with other seeds, merged in the same way.
    ClmMerged,
}

/// One merge of the trained models.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeSpec {
    /// Its name, where the recipe has several: the checkpoint is `merged-NAME`.
    pub name: Option<String>,
    /// mergekit's keys.
    pub config: Value,
}

impl MergeSpec {
    /// The name of a checkpoint that is made in this way.
    pub fn named(&self, first: &str) -> String {
        match &self.name {
            Some(name) => format!("{first}-{name}"),
            None => first.to_owned(),
        }
    }
}

/// A recipe, validated, with its paths resolved.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// The run folder, relative to the current folder.
    pub run: Option<PathBuf>,
    /// Seed of everything random.
    pub seed: u64,
    /// What is learnt from.
    pub corpus: CorpusOptions,
    /// The model that the result will be like.
    pub pivot: ModelSpec,
    /// The models that are fused into it.
    pub sources: Vec<ModelSpec>,
    /// Options of `score`.
    pub score: ScoreOptions,
    /// Options of `align`.
    pub align: AlignOptions,
    /// Options of `map`.
    pub map: MapOptions,
    /// Options of `project`.
    pub project: ProjectOptions,
    /// Options of `fuse`.
    pub fuse: FuseOptions,
    /// Options of `train`; without the section nothing is trained.
    pub train: Option<TrainOptions>,
    /// What the fused model is compared with.
    pub baselines: Vec<Baseline>,
    /// How the trained models are merged; nothing is without the section.
    pub merge: Vec<MergeSpec>,
    /// What the models are evaluated on.
    pub eval: Vec<Task>,
    /// The same with other options: sub-runs.
    pub variants: Vec<Variant>,
}

/// A recipe with some options set differently.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name, and that of its folder below `variants/`.
    pub name: String,
    /// The whole recipe.
    pub recipe: Recipe,
}

impl Recipe {
    /// Reads and validates a recipe. Input paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`Error::Usage`] with all mistakes: line and key, what was expected and what was found.
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_with(path, &[])
    }

    /// [`Recipe::load`] with some keys set to other values, each as `train.lr=1e-4`.
    ///
    /// # Errors
    /// Also a key that cannot be set, and a value that is no YAML.
    pub fn load_with(path: &Path, settings: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).at(path)?;
        let (mut file, mut map) = File::read(path, &text)?;
        for setting in settings {
            let (key, value) = variants::parse(setting)?;
            let place = format!("`--set {key}`");
            variants::set(&mut map, &key, value).map_err(|error| error.within(&place))?;
            file.sets(&key, place);
        }
        let variants = variants::take(&mut map, &file);
        let recipe = Self::from_map(map.clone(), &file);
        file.finish()?;
        let mut recipe = recipe.ok_or_else(|| Error::internal("a recipe was not read"))?;
        for variant in variants {
            let mut changed = map.clone();
            file.forget_sets(settings.len());
            for (key, value) in variant.set {
                let place = file.place(&format!("{}.{key}", variant.path));
                variants::set_shared(&mut changed, &key, value)
                    .map_err(|error| error.within(&place))?;
                file.sets(&key, place);
            }
            let name = variant.name;
            let recipe_of_it = Self::from_map(changed, &file);
            file.finish()
                .map_err(|error| error.within(format!("variant `{name}`")))?;
            if let Some(changed) = recipe_of_it {
                recipe.variants.push(Variant {
                    name,
                    recipe: changed,
                });
            }
        }
        Ok(recipe)
    }

    /// The recipe, unless it has mistakes, which `file` then knows.
    fn from_map(mut map: Map<String, Value>, file: &File<'_>) -> Option<Self> {
        let unknown = |key: &&String| !KEYS.contains(&key.as_str());
        for key in map.keys().filter(unknown) {
            file.mistake(file.unknown_key("", key, KEYS.into_iter()));
        }
        if let Some(Value::Object(project)) = map.get_mut("project")
            && project.remove("inside").is_some()
        {
            let place = file.place("project.inside");
            file.mistake(Error::usage(format!(
                "{place}: `project.inside` is gone: the source's readings are carried through its tokens"
            ))
            .remedy("leave it out; `project.short` and `project.min_read` say how far they are trusted"));
        }
        // Before `seed` is taken out.
        let train = with_seed(&mut map, file);
        let baselines = file.section(&mut map, "baselines").unwrap_or_default();
        let run = file.section(&mut map, "run");
        let seed = file.section(&mut map, "seed").unwrap_or(42);
        let corpus = file.required(&mut map, "corpus");
        let pivot = file.required(&mut map, "pivot");
        let mut recipe = Self {
            path: file.path().to_path_buf(),
            run,
            seed,
            sources: file.section(&mut map, "sources").unwrap_or_default(),
            score: file.section(&mut map, "score").unwrap_or_default(),
            align: file.section(&mut map, "align").unwrap_or_default(),
            map: file.section(&mut map, "map").unwrap_or_default(),
            project: file.section(&mut map, "project").unwrap_or_default(),
            fuse: file.section(&mut map, "fuse").unwrap_or_default(),
            train,
            baselines,
            merge: merges(&mut map, file),
            eval: file.section(&mut map, "eval").unwrap_or_default(),
            variants: Vec::new(),
            corpus: corpus?,
            pivot: pivot?,
        };
        file.check(recipe.resolve_paths());
        recipe.validate(file);
        Some(recipe)
    }

    /// The pivot and the sources.
    pub fn models(&self) -> impl Iterator<Item = &ModelSpec> {
        std::iter::once(&self.pivot).chain(&self.sources)
    }

    fn resolve_paths(&mut self) -> Result<()> {
        let dir = match self.path.parent() {
            Some(dir) if dir != Path::new("") => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        self.corpus.inputs = files_of(&self.corpus.inputs, &dir)?;
        for task in &mut self.eval {
            task.data = dir.join(&task.data);
        }
        if let Some(valid) = self.train.as_mut().and_then(|train| train.valid.as_mut()) {
            *valid = dir.join(&valid);
        }
        for spec in std::iter::once(&mut self.pivot).chain(&mut self.sources) {
            // What does not lie beside the recipe is a hub id.
            let beside = |name: &str| {
                let path = dir.join(name);
                let found = path.is_dir() || is_gguf(&path);
                found.then(|| path.to_string_lossy().into_owned())
            };
            let place = |name: &str| beside(name).unwrap_or_else(|| name.to_owned());
            spec.tokenizer = spec.tokenizer.take().map(|name| place(&name));
            let (base, adapter) = split(&spec.model, |name| beside(name).is_some());
            spec.model = match adapter {
                Some(adapter) => format!("{}+{}", place(base), place(adapter)),
                None => place(base),
            };
            if let Some(reused) = &mut spec.topk {
                let beside = dir.join(&reused.from);
                if beside.is_dir() {
                    reused.from = beside;
                }
            }
        }
        Ok(())
    }

    /// Notes everything that is wrong with the values.
    fn validate(&self, file: &File<'_>) {
        let stages = [
            self.corpus.validate(),
            self.score.validate(),
            self.align.validate(),
            self.map.validate(),
            self.project.validate(),
            self.fuse.validate(),
            self.train.as_ref().map_or(Ok(()), TrainOptions::validate),
            self.check_adapters(),
            self.check_tokenizer(),
            self.check_names(),
            self.check_tasks(),
            self.check_trained(),
        ];
        stages.into_iter().for_each(|checked| file.check(checked));
    }

    fn check_adapters(&self) -> Result<()> {
        match &self.train {
            Some(train)
                if train.method == Method::Lora && train.lora.save == LoraSave::Adapter =>
            {
                Err(Error::usage(
                    "`train.lora.save` is `adapter`, but a run merges and evaluates whole models, not adapters",
                )
                .remedy("set it to `merged` or `both`"))
            }
            _ => Ok(()),
        }
    }

    fn check_tokenizer(&self) -> Result<()> {
        match self.pivot.tokenizer.is_some() && !self.pivot.model.ends_with(".gguf") {
            true => Err(Error::usage(
                "the pivot has a tokenizer (`pivot.tokenizer`), which only sources and GGUF files may have",
            )
            .remedy("put the tokenizer's files into the pivot's folder")),
            false => Ok(()),
        }
    }

    fn check_names(&self) -> Result<()> {
        let mut names: Vec<&str> = self.models().map(|spec| spec.name.as_str()).collect();
        for name in &names {
            check_name("model", name)?;
            if RESERVED.contains(name) || OWN.iter().any(|begin| name.starts_with(begin)) {
                return Err(Error::usage(format!(
                    "the name `{name}` is one that the run gives itself"
                ))
                .remedy("call the model something else"));
            }
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::usage(format!("two models are called `{}`", pair[0]))),
            None => Ok(()),
        }
    }

    fn check_tasks(&self) -> Result<()> {
        let mut tasks: Vec<&str> = self.eval.iter().map(|task| task.name.as_str()).collect();
        tasks.sort_unstable();
        match tasks.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::usage(format!(
                "two tasks of `eval` are called `{}`",
                pair[0]
            ))),
            None => Ok(()),
        }
    }

    fn check_trained(&self) -> Result<()> {
        if self.train.is_none() && !(self.merge.is_empty() && self.baselines.is_empty()) {
            return Err(
                Error::usage("`merge` and `baselines` need something trained")
                    .remedy("add a `train` section"),
            );
        }
        if self.baselines.contains(&Baseline::ClmMerged) && self.merge.is_empty() {
            return Err(
                Error::usage("the baseline `clm-merged` is merged as `merge` says")
                    .remedy("add a `merge` section, or leave the baseline out"),
            );
        }
        Ok(())
    }
}

/// The `merge` section: mergekit's keys, or a list of them, each with a name.
fn merges(map: &mut Map<String, Value>, file: &File<'_>) -> Vec<MergeSpec> {
    let listed = match file.section::<Value>(map, "merge") {
        None => return Vec::new(),
        Some(Value::Array(listed)) => listed,
        Some(config) => return vec![MergeSpec { name: None, config }],
    };
    let mut merges: Vec<MergeSpec> = Vec::new();
    for (at, mut config) in listed.into_iter().enumerate() {
        let path = format!("merge[{at}]");
        let name = config.as_object_mut().and_then(|keys| keys.remove("name"));
        let name = name.as_ref().and_then(Value::as_str);
        let checked = match name {
            None => Err(Error::usage(format!(
                "`{path}` has no name, which each of several merges has"
            ))),
            Some(name) if merges.iter().any(|m| m.name.as_deref() == Some(name)) => {
                Err(Error::usage(format!("two merges are called `{name}`")))
            }
            Some(name) => check_name("merge", name),
        };
        if let Err(error) = checked {
            file.mistake(error.within(file.place(&path)));
            continue;
        }
        merges.push(MergeSpec {
            name: name.map(str::to_owned),
            config,
        });
    }
    merges
}

/// The `train` section, with the recipe's seed unless it names its own.
fn with_seed(map: &mut Map<String, Value>, file: &File<'_>) -> Option<TrainOptions> {
    let seed = map.get("seed").cloned();
    if let (Some(Value::Object(section)), Some(seed)) = (map.get_mut("train"), seed)
        && !section.contains_key("seed")
    {
        section.insert("seed".to_owned(), seed);
    }
    file.section(map, "train")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
run: runs/x
corpus: { inputs: [a.jsonl], max_tokens: 128 }
pivot: { name: pivot, model: p }
sources:
  - { name: math, model: m, dtype: bf16 }
train: { lambda: 0.5 }
merge: { merge_method: sce, parameters: { select_topk: 0.1 } }
baselines: [clm, clm-merged]
eval: [ { task: perplexity, name: valid, data: v.jsonl } ]
";

    fn load(text: &str) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.yml");
        fs::write(&path, text).unwrap();
        Recipe::load(&path)
    }

    fn problem(text: &str) -> String {
        let error = load(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        text[text.find("r.yml").unwrap()..].to_owned()
    }

    #[test]
    fn sections_are_the_options_of_the_stages() {
        let recipe = load(GOOD).unwrap();
        assert_eq!(recipe.corpus.max_tokens, 128);
        assert!(
            recipe.corpus.inputs[0].ends_with("a.jsonl") && recipe.corpus.inputs[0].is_absolute()
        );
        assert_eq!(recipe.train.unwrap().lambda, 0.5);
        assert_eq!(recipe.sources[0].dtype, Dtype::Bf16);
        assert_eq!(recipe.seed, 42);
        assert_eq!(
            load(&GOOD.replace("run:", "seed: 7\nrun:"))
                .unwrap()
                .train
                .unwrap()
                .seed,
            7
        );
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let text = GOOD
            .replace(
                "lambda: 0.5",
                "lamda: 0.5, lr: fast, epochs: -1, tail: lable",
            )
            .replace("max_tokens: 128", "max_tokens: 0")
            .replace("dtype: bf16", "dtype: bf16, topk: x");
        let found = problem(&format!("{text}scor: {{}}\n"));
        let expected = [
            "has 7 mistakes:",
            "line 10: unknown key `scor`; did you mean `score`?",
            "line 6: `train` has no key `lamda`; did you mean `lambda`?",
            "line 6: `train.lr`: found `fast`, expected a number",
            "line 6: `train.epochs`: found `-1`, expected a whole number, not negative",
            "line 6: `train.tail` has the unknown value `lable`",
            "line 5: `sources[0].topk`: found `x`, expected keys and values",
            "line 2: ",
        ];
        for part in expected {
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn the_command_line_sets_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.yml");
        fs::write(&path, GOOD).unwrap();
        let with = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
            Recipe::load_with(&path, &settings)
        };
        let recipe = with(&[
            "train.lr=1e-4",
            "sources[0].dtype=f16",
            "score.top_k=5",
            "run=runs/y",
        ])
        .unwrap();
        assert_eq!(recipe.train.unwrap().lr, 1e-4);
        assert_eq!(recipe.sources[0].dtype, Dtype::F16);
        assert_eq!(recipe.score.top_k, 5);
        assert_eq!(recipe.run, Some(PathBuf::from("runs/y")));
        for (setting, part) in [
            ("train.lrr=1", "`--set train.lrr`: `train` has no key `lrr`"),
            ("train.lr=x", "`--set train.lr`: `train.lr`: found `x`"),
            ("train.lr", "expected KEY=VALUE"),
            ("run.x=1", "`run` holds no keys"),
            ("sources[3].dtype=f16", "`sources` has no entry 3"),
            ("train={lr: [}", "`--set train`"),
        ] {
            let error = with(&[setting]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{setting}: {error}");
        }
    }

    #[test]
    fn mistakes_name_line_and_nearest_key() {
        assert_eq!(
            problem(&GOOD.replace("lambda", "lamda")),
            "r.yml line 6: `train` has no key `lamda`; did you mean `lambda`?"
        );
        let merges = problem(&GOOD.replace("merge:", "merges:"));
        assert!(merges.contains("r.yml line 7: unknown key `merges`; did you mean `merge`?"));
        assert!(merges.contains("the baseline `clm-merged`"), "{merges}");
        assert_eq!(
            problem(&GOOD.replace("max_tokens: 128", "fields: { promt: q }")),
            "r.yml line 2: `corpus.fields` has no key `promt`; did you mean `prompt`?"
        );
        let named = GOOD.replace("data: v.jsonl", "data: v.jsonl, fields: { ignore: 3 }");
        assert!(problem(&named).contains("`fields.ignore`"));
        assert!(problem(&GOOD.replace("bf16", "bf61")).contains("did you mean `bf16`?"));
        assert_eq!(
            problem("corpus: { inputs: [a] }\n"),
            "r.yml: `pivot` is missing"
        );
        assert!(problem(&GOOD.replace("name: math", "name: clm")).contains("gives itself"));
        assert!(problem(&GOOD.replace("name: math", "name: pivot")).contains("two models"));
        assert!(problem("a: [").contains("r.yml"));
        // Not in a comment, nor where another section has the word.
        let early = format!(
            "# lamda\n{}",
            GOOD.replace("max_tokens", "inputs: [lamda], max_tokens")
        );
        let early = early
            .replace("inputs: [a.jsonl], ", "")
            .replace("lambda", "lamda");
        assert_eq!(
            problem(&early),
            "r.yml line 7: `train` has no key `lamda`; did you mean `lambda`?"
        );
    }

    #[test]
    fn variants_are_recipes_with_other_options() {
        let more = "\
variants:
  - { name: hot, set: { train.lr: 1.0e-3, merge.parameters.select_topk: 1 } }
grid: { align.spans: [offsets, dtw], map.method: [em, ms] }
";
        let recipe = load(&format!("{GOOD}{more}")).unwrap();
        let names: Vec<&str> = recipe.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(
            names,
            ["hot", "offsets-em", "offsets-ms", "dtw-em", "dtw-ms"]
        );
        let hot = &recipe.variants[0].recipe;
        assert_eq!(hot.train.as_ref().unwrap().lr, 1e-3);
        assert_eq!(hot.train.as_ref().unwrap().lambda, 0.5);
        assert_eq!(hot.merge[0].config["parameters"]["select_topk"], 1);
        let last = &recipe.variants[4].recipe;
        assert_eq!(last.align.spans, crate::align::Spans::Dtw);
        assert_eq!(last.map.method, crate::mapping::Method::Ms);
        assert_eq!(recipe.align.spans, crate::align::Spans::Offsets);
        assert!(last.variants.is_empty());
    }

    #[test]
    fn several_merges_have_names() {
        let list = "merge: [ { name: a, merge_method: sce }, { name: b, merge_method: linear } ]";
        let text = |merge: &str| {
            let old = "merge: { merge_method: sce, parameters: { select_topk: 0.1 } }";
            assert!(GOOD.contains(old));
            GOOD.replace(old, merge)
        };
        let recipe = load(&text(list)).unwrap();
        let names: Vec<String> = recipe.merge.iter().map(|m| m.named("merged")).collect();
        assert_eq!(names, ["merged-a", "merged-b"]);
        assert_eq!(
            recipe.merge[1].config,
            serde_json::json!({"merge_method": "linear"})
        );
        assert!(problem(&text(&list.replace("b,", "a,"))).contains("two merges are called `a`"));
        let nameless = list.replace("name: b, ", "");
        assert!(problem(&text(&nameless)).contains("r.yml line 7: `merge[1]` has no name"));
        let own = text(list).replace("name: math", "name: merged-x");
        assert!(problem(&own).contains("gives itself"));
    }

    #[test]
    fn mistakes_in_variants_are_named() {
        let with = |more: &str| problem(&format!("{GOOD}{more}\n"));
        assert_eq!(
            with("variants: [ { name: x, set: { align.span: dtw } } ]"),
            "r.yml line 10: `align` has no key `span`; did you mean `spans`?"
        );
        assert!(with("variants: [ { name: x, set: { pivot.name: y } } ]").contains("`pivot`"));
        assert!(with("variants: [ { name: valid, set: {} } ]").contains("`valid`"));
        assert!(with("variants: [ { name: a/b, set: {} } ]").contains("folder name"));
        assert!(with("variants: [ { name: x, sets: {} } ]").contains("did you mean `set`"));
        assert!(with("grid: { seed: [1, 1] }").contains("two variants are called `1`"));
        assert!(with("grid: { seed: 1 }").contains("a list of values"));
        assert!(with("grid: { seed: [] }").contains("a list of values"));
        assert!(with("grid: { run.x: [1] }").contains("`run`"));
        assert!(
            with("variants: [ { name: x, set: { corpus.inputs.first: y } } ]")
                .contains("`corpus.inputs`")
        );
    }
}
