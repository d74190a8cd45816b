//! The models of a run, opened once: folder, configuration, tokenizer, vocabulary.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::schema::{ModelSpec, Recipe};
use crate::artifact::models::{self, ModelRow};
use crate::checkpoint::{has_weights, is_gguf, locate, model_digest, tokenizer_dir};
use crate::error::{Error, Result};
use crate::model::{Config, check_weights};
use crate::vocab::{Tokenizer, check_tokens};

/// A model of the run.
pub struct Model {
    /// What the recipe says of it.
    pub spec: ModelSpec,
    /// Its folder, or its GGUF file.
    pub dir: PathBuf,
    /// The folder of its tokenizer and chat template.
    pub tokenizer_dir: PathBuf,
    /// Its `config.json`.
    pub config: Config,
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
        let dir = locate(&spec.model)?;
        if models.is_empty() && is_gguf(&dir) {
            return Err(Error::file(&dir, "the pivot cannot be a GGUF file")
                .remedy("give the folder of the model that it was made from"));
        }
        let config = Config::load(&dir)?;
        let tokenizer_dir = tokenizer_dir(&dir, spec.tokenizer.as_deref())?;
        let tokenizer = Rc::new(Tokenizer::load(&tokenizer_dir)?);
        check_tokens(&dir, tokenizer.vocabulary())?;
        tokenizer.fits(&spec.name, config.vocab_size)?;
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
        if has_weights {
            check_weights(&dir, &config)?;
        }
        models.push(Model {
            spec: spec.clone(),
            dir,
            tokenizer_dir,
            config,
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
            true => model_digest(&self.dir)?,
            false => String::new(),
        };
        Ok(ModelRow {
            name: self.name().to_owned(),
            is_pivot,
            vocabulary: self.vocab.clone(),
            location: self.dir.display().to_string(),
            digest,
            architecture: self.config.architecture.name().to_owned(),
            parameters: self.config.parameters(),
        })
    }
}

/// Writes the `models` artifact; the first model is the pivot.
pub fn write(models: &[Model], dir: &Path) -> Result<()> {
    let rows = models.iter().enumerate();
    let rows: Vec<ModelRow> = rows
        .map(|(index, model)| model.row(index == 0))
        .collect::<Result<_>>()?;
    models::write(dir, &rows)
}
