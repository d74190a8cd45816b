//! The models of a run, opened once: folder, configuration, tokenizer, vocabulary.

use std::path::PathBuf;
use std::rc::Rc;

use serde_json::Value;

use super::schema::{ModelSpec, Recipe};
use crate::artifact::models::{self, ModelRow};
use crate::artifact::{Kind, Writing};
use crate::checkpoint::{has_weights, is_gguf, tokenizer_dir};
use crate::error::{Error, Result};
use crate::lora::{ModelPath, locate};
use crate::model::{Config, Outline, check_weights, open_adapter};
use crate::stage::{Item, Reads, Stage};
use crate::vocab::{Tokenizer, check_tokens};

/// A model of the run.
pub struct Model {
    /// What the recipe says of it.
    pub spec: ModelSpec,
    /// Its folder, or its GGUF file.
    pub dir: PathBuf,
    /// The folder of an adapter on top of it; a pivot has none.
    pub adapter: Option<PathBuf>,
    /// The folder of its tokenizer and chat template.
    pub tokenizer_dir: PathBuf,
    /// Its `config.json`; none for a source that cannot be run here, whose distributions another run
    /// has.
    pub config: Option<Config>,
    /// What is known of it in any case.
    pub outline: Outline,
    /// Its tokenizer; models with the same tokenizer files share one.
    pub tokenizer: Rc<Tokenizer>,
    /// Name of its vocabulary in the run: that of the first model that has it.
    pub vocab: String,
    /// Whether the folder has weights; a pivot without is trained from scratch.
    pub has_weights: bool,
}

impl Model {
    /// The name in the run.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it is quantised in a form that can be scored only.
    pub fn is_gguf(&self) -> bool {
        is_gguf(&self.dir)
    }

    /// Where it is.
    pub fn path(&self) -> ModelPath {
        ModelPath {
            base: self.dir.clone(),
            adapter: self.adapter.clone(),
        }
    }
}

/// Opens the models of a recipe, the pivot first. Weights are not read.
///
/// # Errors
/// A model that cannot be found, an architecture that is not known, a tokenizer that does not
/// belong to the model, a source without weights.
pub fn open(recipe: &Recipe) -> Result<Vec<Model>> {
    let mut models: Vec<Model> = Vec::new();
    let pairing = !recipe.sources.is_empty();
    for spec in recipe.models() {
        let path = locate(&spec.model)?;
        if models.is_empty() {
            path.clone().plain("the pivot")?;
        }
        let dir = path.base.clone();
        let (config, outline) = match Config::load(&dir) {
            Ok(config) => {
                let outline = Outline::from(&config);
                (Some(config), outline)
            }
            Err(_) if !models.is_empty() && spec.topk.is_some() => (None, Outline::of(&dir)?),
            Err(error) => return Err(error),
        };
        let tokenizer_dir = tokenizer_dir(&dir, spec.tokenizer.as_deref())?;
        let tokenizer = Rc::new(Tokenizer::load(&tokenizer_dir)?);
        check_tokens(&dir, tokenizer.vocabulary())?;
        if let Some(rows) = outline.rows {
            tokenizer.fits(&spec.name, rows)?;
        }
        let same = models
            .iter()
            .find(|model| model.tokenizer.vocabulary().digest == tokenizer.vocabulary().digest);
        let vocab = same.map_or_else(|| spec.name.clone(), |model| model.vocab.clone());
        let has_weights = has_weights(&dir);
        let needed = match models.is_empty() {
            true => pairing,
            false => spec.topk.is_none(),
        };
        if !has_weights && needed {
            return Err(Error::file(
                &dir,
                format!("model `{}` has no `*.safetensors` file", spec.name),
            )
            .remedy(
                "only a pivot without sources can be trained from scratch, and only a source \
                 with `topk: { from: RUN }` needs no weights",
            ));
        }
        if has_weights && let Some(config) = &config {
            check_weights(&dir, config)?;
            open_adapter(&path, config)?;
        }
        models.push(Model {
            spec: spec.clone(),
            dir,
            adapter: path.adapter,
            tokenizer_dir,
            config,
            outline,
            tokenizer,
            vocab,
            has_weights,
        });
    }
    Ok(models)
}

impl Model {
    /// Its row of `models`.
    fn row(&self, is_pivot: bool) -> Result<ModelRow> {
        let digest = match self.has_weights {
            true => self.path().digest()?,
            false => String::new(),
        };
        Ok(ModelRow {
            name: self.name().to_owned(),
            is_pivot,
            vocabulary: self.vocab.clone(),
            location: self.path().to_string(),
            digest,
            architecture: self.outline.architecture.clone(),
            parameters: self.outline.parameters,
        })
    }
}

/// A stage that notes who takes part; the first model is the pivot.
pub struct Register<'a> {
    /// The models.
    pub models: &'a [Model],
    /// Folder of the artifact `models` to write.
    pub out: PathBuf,
}

impl Stage for Register<'_> {
    fn name(&self) -> &'static str {
        "models"
    }

    fn reads(&self) -> Result<Reads> {
        let item = |model: &Model| match model.has_weights {
            true => Item::model(model.path()),
            false => Item::File(model.dir.join("config.json")),
        };
        let named = |reads: Reads, model| reads.input(Model::name(model), item(model));
        Ok(self.models.iter().fold(Reads::new(), named))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Models, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        let place = |model: &Model| {
            serde_json::json!([model.name(), model.path().to_string(), model.vocab])
        };
        self.models.iter().map(place).collect()
    }

    fn run(&self, _: Writing) -> Result<String> {
        let rows = self.models.iter().enumerate();
        let rows: Vec<ModelRow> = rows
            .map(|(index, model)| model.row(index == 0))
            .collect::<Result<_>>()?;
        models::write(&self.out, &rows)?;
        Ok(format!("{} models", rows.len()))
    }
}
