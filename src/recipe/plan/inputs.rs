//! Steps that prepare what is learnt from: models, corpus, vocabularies.

use super::Run;
use crate::artifact::{Kind, RunDir};
use crate::corpus::{self, Corpus, CorpusOptions, Tokenise, Transcribe, WriteVocab};
use crate::error::Result;
use crate::recipe::models::{Model, Register};
use crate::recipe::step::Step;

impl<'a> Run<'a> {
    pub(super) fn register_models(&self) -> Step<'a> {
        let register = Register {
            models: self.models,
            out: self.dir.artifact(Kind::Models, &[]),
        };
        Step::new("", register)
    }

    /// The samples; and the held-out file of `train.valid`, as a small corpus of its own.
    pub(super) fn corpus_steps(&self) -> Vec<Step<'a>> {
        let options = &self.recipe.corpus;
        let mut steps = vec![self.corpus_step("samples", options.clone(), &self.dir)];
        let train = self.recipe.train.as_ref();
        if let Some(valid) = train.and_then(|train| train.valid.as_ref()) {
            let options = CorpusOptions {
                inputs: vec![valid.clone()],
                split: "valid".to_owned(),
                ..options.clone()
            };
            let dir = self.valid_dir();
            steps.push(self.corpus_step("valid", options, &dir));
            steps.push(self.tokens_step("valid tokens", 0, &dir));
        }
        steps
    }

    fn corpus_step(&self, subject: &str, options: CorpusOptions, dir: &RunDir) -> Step<'a> {
        let model = |model: &'a Model| corpus::Model {
            name: model.name(),
            tokenizer: &model.tokenizer,
            context: model.outline.context,
            rows: model
                .outline
                .rows
                .unwrap_or(model.tokenizer.vocabulary().len()),
        };
        let corpus = Corpus {
            options,
            models: self.models.iter().map(model).collect(),
            samples: dir.artifact(Kind::Samples, &[]),
            transcripts: dir.artifact(Kind::Transcripts, &[&self.templates[0]]),
        };
        Step::new(subject, corpus)
    }

    /// For each distinct vocabulary: itself; for each distinct pair of vocabulary and template: the
    /// transcripts, if the template is not the pivot's, and the tokens.
    pub(super) fn vocabulary_steps(&self) -> Result<Vec<Step<'a>>> {
        let mut steps = Vec::new();
        for (index, model) in self.models.iter().enumerate() {
            if model.vocab == model.name() {
                let vocab = WriteVocab {
                    vocabulary: model.tokenizer.vocabulary(),
                    out: self.vocab(index),
                };
                steps.push(Step::new(format!("vocab {}", model.vocab), vocab));
            }
            let reads = |other: usize| (&self.models[other].vocab, &self.templates[other]);
            if (0..index).any(|before| reads(before) == reads(index)) {
                continue;
            }
            if index > 0 && self.is_native(index) {
                let transcribe = Transcribe {
                    samples: self.dir.artifact(Kind::Samples, &[]),
                    tokenizer: &model.tokenizer,
                    date: self.recipe.corpus.date()?,
                    out: self.transcripts(index),
                };
                let subject = format!("transcripts {}", model.name());
                steps.push(Step::new(subject, transcribe));
            }
            let subject = format!("tokens {}", model.name());
            steps.push(self.tokens_step(&subject, index, &self.dir));
        }
        Ok(steps)
    }

    /// Whether the transcripts of model `index` are by its own template.
    fn is_native(&self, index: usize) -> bool {
        self.templates[index] == self.models[index].name()
    }

    fn tokens_step(&self, subject: &str, index: usize, dir: &RunDir) -> Step<'a> {
        let template = &self.templates[index];
        let tokenise = Tokenise {
            transcripts: dir.artifact(Kind::Transcripts, &[template]),
            tokenizer: &self.models[index].tokenizer,
            made_by: (!self.is_native(index)).then(|| &*self.pivot().tokenizer),
            special_tokens: self.recipe.corpus.special_tokens,
            out: self.tokens_in(dir, index),
        };
        Step::new(subject, tokenise)
    }
}
