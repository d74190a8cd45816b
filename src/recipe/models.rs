//! The models of a run, opened once: folder, configuration, tokenizer, vocabulary.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};

use super::schema::{ModelSpec, Recipe};
use crate::artifact::{Existing, Kind, Provenance, Writer, digest};
use crate::error::{Context, Error, Result};
use crate::model::{Config, check_tokens, check_weights, is_gguf, locate, tokenizer_dir};
use crate::vocab::Tokenizer;

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
        let has_weights = digest::model(&dir).is_ok();
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

/// Writes the `models` artifact.
pub fn write(models: &[Model], dir: &std::path::Path) -> Result<()> {
    let mut rows: Vec<(&Model, &str, String)> = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let role = if index == 0 { "pivot" } else { "source" };
        let weights = match model.has_weights {
            true => digest::model(&model.dir)?,
            false => String::new(),
        };
        rows.push((model, role, weights));
    }
    rows.sort_by(|(a, ..), (b, ..)| a.name().cmp(b.name()));
    let mut provenance = Provenance::new(Kind::Models);
    for (model, role, weights) in &rows {
        let place = model.dir.display();
        provenance = provenance.input(model.name(), format!("{role} {weights} {place}"));
    }
    let texts = |value: &dyn Fn(&(&Model, &str, String)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
    };
    let parameters = rows.iter().map(|(model, ..)| model.config.parameters());
    let columns: Vec<ArrayRef> = vec![
        texts(&|(model, ..)| model.name().to_owned()),
        texts(&|(_, role, _)| (*role).to_owned()),
        texts(&|(model, ..)| model.vocab.clone()),
        texts(&|(model, ..)| model.dir.display().to_string()),
        texts(&|(.., weights)| weights.clone()),
        texts(&|(model, ..)| model.config.architecture.name().to_owned()),
        Arc::new(UInt64Array::from_iter_values(parameters)),
    ];
    let batch = RecordBatch::try_new(Kind::Models.schema(), columns)
        .during(|| "building `models` rows".into())?;
    Writer::create(dir, provenance, Existing::Replace)?.write_only(&batch)
}
