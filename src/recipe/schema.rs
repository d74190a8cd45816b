//! The recipe: the YAML that describes a run.
//!
//! Sections are the option structs of the stages, so a recipe and the single commands take the
//! same keys. Unknown keys are errors that name the line and the nearest known key.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::variants;
use crate::align::AlignOptions;
use crate::artifact::check_name;
use crate::checkpoint::is_gguf;
use crate::corpus::CorpusOptions;
use crate::error::{Context, Error, Result, did_you_mean};
use crate::eval::Task;
use crate::files::{Place, places};
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
const RESERVED: [&str; 4] = ["clm", "clm-merged", "merged", "mean"];

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
    /// mergekit's keys; without the section nothing is merged.
    pub merge: Option<Value>,
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
    /// [`Error::Usage`] naming the line and key, what was expected and what was found.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).at(path)?;
        let places = places(&text);
        let file = File { path, places };
        let value: Value = serde_saphyr::from_str(&text)
            .map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
        let Value::Object(mut map) = value else {
            return Err(Error::usage(format!(
                "{}: expected keys and values",
                path.display()
            )));
        };
        let variants = variants::take(&mut map, &file)?;
        let mut recipe = Self::from_map(map.clone(), &file)?;
        for (name, set) in variants {
            let mut changed = map.clone();
            for (key, value) in set {
                variants::set(&mut changed, &key, value, &file)?;
            }
            let variant = Self::from_map(changed, &file)
                .map_err(|error| error.within(format!("variant `{name}`")))?;
            recipe.variants.push(Variant {
                name,
                recipe: variant,
            });
        }
        Ok(recipe)
    }

    fn from_map(mut map: Map<String, Value>, file: &File<'_>) -> Result<Self> {
        let path = file.path;
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(file.unknown_key(None, key, KEYS.into_iter()));
        }
        if let Some(Value::Object(project)) = map.get("project")
            && project.contains_key("inside")
        {
            let place = file.place(file.line("project", "inside"));
            return Err(Error::usage(format!(
                "{place}: `project.inside` is gone: the source's readings are carried through its tokens"
            ))
            .remedy("leave it out; `project.short` and `project.min_read` say how far they are trusted"));
        }
        let baselines = file.section(&mut map, "baselines")?.unwrap_or_default();
        // Before `seed` is taken out.
        let train = with_seed(&mut map, file)?;
        let mut recipe = Self {
            path: path.to_path_buf(),
            run: file.section(&mut map, "run")?,
            seed: file.section(&mut map, "seed")?.unwrap_or(42),
            corpus: file.required(&mut map, "corpus")?,
            pivot: file.required(&mut map, "pivot")?,
            sources: file.section(&mut map, "sources")?.unwrap_or_default(),
            score: file.section(&mut map, "score")?.unwrap_or_default(),
            align: file.section(&mut map, "align")?.unwrap_or_default(),
            map: file.section(&mut map, "map")?.unwrap_or_default(),
            project: file.section(&mut map, "project")?.unwrap_or_default(),
            fuse: file.section(&mut map, "fuse")?.unwrap_or_default(),
            train,
            baselines,
            merge: file.section(&mut map, "merge")?,
            eval: file.section(&mut map, "eval")?.unwrap_or_default(),
            variants: Vec::new(),
        };
        recipe.resolve_paths();
        recipe
            .validate()
            .map_err(|error| error.within(path.display()))?;
        Ok(recipe)
    }

    /// The pivot and the sources.
    pub fn models(&self) -> impl Iterator<Item = &ModelSpec> {
        std::iter::once(&self.pivot).chain(&self.sources)
    }

    fn resolve_paths(&mut self) {
        let dir = match self.path.parent() {
            Some(dir) if dir != Path::new("") => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        for path in &mut self.corpus.inputs {
            *path = dir.join(&path);
        }
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
    }

    fn validate(&self) -> Result<()> {
        self.corpus.validate()?;
        self.score.validate()?;
        self.align.validate()?;
        self.map.validate()?;
        self.project.validate()?;
        self.fuse.validate()?;
        if let Some(train) = &self.train {
            train.validate()?;
            if train.method == Method::Lora && train.lora.save == LoraSave::Adapter {
                return Err(
                    Error::usage("a run merges and evaluates whole models, not adapters")
                        .remedy("set `train.lora.save` to `merged` or `both`"),
                );
            }
        }
        if self.pivot.tokenizer.is_some() && !self.pivot.model.ends_with(".gguf") {
            return Err(Error::usage(
                "the pivot has a `tokenizer`, which only sources and GGUF files may have",
            )
            .remedy("put the tokenizer's files into the pivot's folder"));
        }
        let mut names: Vec<&str> = self.models().map(|spec| spec.name.as_str()).collect();
        for name in &names {
            check_name("model", name)?;
            if RESERVED.contains(name) || name.starts_with("target-") || name.starts_with("clm-") {
                return Err(Error::usage(format!(
                    "the name `{name}` is one that the run gives itself"
                ))
                .remedy("call the model something else"));
            }
        }
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::usage(format!("two models are called `{}`", pair[0])));
        }
        let mut tasks: Vec<&str> = self.eval.iter().map(|task| task.name.as_str()).collect();
        tasks.sort_unstable();
        if let Some(pair) = tasks.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::usage(format!(
                "two tasks of `eval` are called `{}`",
                pair[0]
            )));
        }
        if self.train.is_none() && (self.merge.is_some() || !self.baselines.is_empty()) {
            return Err(
                Error::usage("`merge` and `baselines` need something trained")
                    .remedy("add a `train` section"),
            );
        }
        if self.baselines.contains(&Baseline::ClmMerged) && self.merge.is_none() {
            return Err(
                Error::usage("the baseline `clm-merged` is merged as `merge` says")
                    .remedy("add a `merge` section, or leave the baseline out"),
            );
        }
        Ok(())
    }
}

/// The `train` section, with the recipe's seed unless it names its own.
fn with_seed(map: &mut Map<String, Value>, file: &File<'_>) -> Result<Option<TrainOptions>> {
    let seed = map.get("seed").cloned();
    if let (Some(Value::Object(section)), Some(seed)) = (map.get_mut("train"), seed)
        && !section.contains_key("seed")
    {
        section.insert("seed".to_owned(), seed);
    }
    file.section(map, "train")
}

/// A recipe, to find the line of a key in.
pub(super) struct File<'a> {
    path: &'a Path,
    places: Vec<Place>,
}

impl File<'_> {
    pub(super) fn section<T: DeserializeOwned>(
        &self,
        map: &mut Map<String, Value>,
        key: &str,
    ) -> Result<Option<T>> {
        match map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.explain(key, &error.to_string())),
        }
    }

    fn required<T: DeserializeOwned>(&self, map: &mut Map<String, Value>, key: &str) -> Result<T> {
        self.section(map, key)?
            .ok_or_else(|| Error::usage(format!("{}: `{key}` is missing", self.path.display())))
    }

    /// Turns serde's word on a section into one that names the line and the nearest key.
    fn explain(&self, section: &str, problem: &str) -> Error {
        let quoted: Vec<&str> = problem.split('`').skip(1).step_by(2).collect();
        if problem.starts_with("unknown field") && !quoted.is_empty() {
            return self.unknown_key(Some(section), quoted[0], quoted[1..].iter().copied());
        }
        if problem.starts_with("unknown variant") && !quoted.is_empty() {
            let line = self.line(section, quoted[0]);
            let known = quoted[1..].join("`, `");
            let error = Error::usage(format!(
                "{}: `{section}` has the unknown value `{}`, known are `{known}`",
                self.place(line),
                quoted[0]
            ));
            return with_hint(error, did_you_mean(quoted[0], quoted[1..].iter().copied()));
        }
        Error::usage(format!(
            "{}: `{section}`: {problem}",
            self.place(self.line(section, section))
        ))
    }

    fn unknown_key<'k>(
        &self,
        section: Option<&str>,
        key: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Error {
        let known: Vec<&str> = known.collect();
        let whose = match section {
            Some(section) => format!("`{section}` has no key `{key}`"),
            None => format!("unknown key `{key}`"),
        };
        let line = self.line(section.unwrap_or(key), key);
        let error = Error::usage(format!("{}: {whose}", self.place(line)));
        let hint = did_you_mean(key, known.iter().copied())
            .unwrap_or_else(|| format!("known are `{}`", known.join("`, `")));
        error.remedy(hint)
    }

    pub(super) fn place(&self, line: Option<usize>) -> String {
        match line {
            Some(line) => format!("{} line {line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// The line of a key or value of a section, or of the dotted key that sets it in a variant;
    /// else that of the section.
    fn line(&self, section: &str, word: &str) -> Option<usize> {
        let sets = |place: &&Place| {
            let mut parts = place.word.split('.');
            parts.next() == Some(section) && parts.any(|part| part == word)
        };
        let set = || self.places.iter().find(sets).map(|place| place.line);
        let found = self.word(section, word).or_else(set);
        found.or_else(|| self.word(section, section))
    }

    /// The line of a key or value of a section.
    pub(super) fn word(&self, section: &str, word: &str) -> Option<usize> {
        let is_it = |place: &&Place| place.section == section && place.word == word;
        self.places.iter().find(is_it).map(|place| place.line)
    }
}

fn with_hint(error: Error, hint: Option<String>) -> Error {
    match hint {
        Some(hint) => error.remedy(hint),
        None => error,
    }
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
    fn mistakes_name_line_and_nearest_key() {
        assert_eq!(
            problem(&GOOD.replace("lambda", "lamda")),
            "r.yml line 6: `train` has no key `lamda`; did you mean `lambda`?"
        );
        assert_eq!(
            problem(&GOOD.replace("merge:", "merges:")),
            "r.yml line 7: unknown key `merges`; did you mean `merge`?"
        );
        assert_eq!(
            problem(&GOOD.replace("max_tokens: 128", "fields: { promt: q }")),
            "r.yml line 2: `corpus` has no key `promt`; did you mean `prompt`?"
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
        assert_eq!(hot.merge.as_ref().unwrap()["parameters"]["select_topk"], 1);
        let last = &recipe.variants[4].recipe;
        assert_eq!(last.align.spans, crate::align::Spans::Dtw);
        assert_eq!(last.map.method, crate::mapping::Method::Ms);
        assert_eq!(recipe.align.spans, crate::align::Spans::Offsets);
        assert!(last.variants.is_empty());
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
