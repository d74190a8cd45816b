//! What a corpus is made from, and how.

use std::path::PathBuf;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::text::{DEFAULT_DATE, Fields, Format, Reading};
use crate::vocab::SpecialTokens;

/// Whose chat template the transcripts follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TemplateMode {
    /// One transcript for all models, by the pivot's template.
    #[default]
    Pivot,
    /// One transcript per template, each model's own.
    Native,
}

/// What to do with a piece that is longer than some model's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TooLong {
    /// Stop before anything is written.
    #[default]
    Error,
    /// Leave it out, and count it.
    Skip,
}

/// What to do with a record that is of no use: broken, of no known shape, refused by a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BadRecords {
    /// Stop before anything is written.
    #[default]
    Error,
    /// Leave it out, and count it by reason.
    Skip,
}

/// Options of the `corpus` stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct CorpusOptions {
    /// Chat or text files, folders of them or patterns (`data/*.jsonl`), in this order.
    #[arg(long = "input", value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// The shape of every record; without it, each record shows its own.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Names of fields, where they are not the published ones.
    #[arg(skip)]
    pub fields: Fields,
    /// What happens to a record that is broken, has no known shape, or is refused by a template.
    #[arg(long, value_enum, default_value_t = CorpusOptions::default().bad_records)]
    pub bad_records: BadRecords,
    /// Whose chat template is followed.
    #[arg(long = "template-mode", value_enum, default_value_t = CorpusOptions::default().template)]
    pub template: TemplateMode,
    /// The date that templates see, `YYYY-MM-DD`; fixed, so that a run can be repeated.
    #[arg(long, default_value_t = CorpusOptions::default().date)]
    pub date: String,
    /// What special tokens are that a content spells out (`</s>` in HTML): `text`, or `tokens`, as
    /// transformers reads them.
    #[arg(long, value_enum, default_value_t = CorpusOptions::default().special_tokens)]
    pub special_tokens: SpecialTokens,
    /// The most tokens in a sample, BOS included, counted by the pivot's tokenizer; longer
    /// samples are split. At least 16.
    #[arg(long, default_value_t = CorpusOptions::default().max_tokens)]
    pub max_tokens: usize,
    /// What happens to a piece that is longer than some model's context.
    #[arg(long, value_enum, default_value_t = CorpusOptions::default().too_long)]
    pub too_long: TooLong,
    /// Samples in a part, the unit of resume and of cluster work.
    #[arg(long, default_value_t = CorpusOptions::default().part_samples)]
    pub part_samples: u64,
    /// Whether a sample without an assistant's turn is an error, and a field or a role that is
    /// not known; if not, the first is left out, and the others are only said.
    #[arg(long)]
    pub strict: bool,
    /// The name in the column `split`.
    #[arg(long, default_value_t = CorpusOptions::default().split)]
    pub split: String,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            format: None,
            fields: Fields::default(),
            bad_records: BadRecords::default(),
            template: TemplateMode::default(),
            date: DEFAULT_DATE.to_owned(),
            special_tokens: SpecialTokens::default(),
            max_tokens: 2048,
            too_long: TooLong::default(),
            part_samples: 4096,
            strict: false,
            split: "train".to_owned(),
        }
    }
}

impl CorpusOptions {
    /// Checks what can be known without reading a file.
    ///
    /// # Errors
    /// No inputs, a date that is none, `max_tokens` under 16, `part_samples` of 0.
    pub fn validate(&self) -> Result<()> {
        if self.inputs.is_empty() {
            return Err(Error::usage("`corpus.inputs` names no file")
                .remedy("name at least one chat or text file"));
        }
        if self.max_tokens < 16 {
            return Err(Error::usage(format!(
                "`corpus.max_tokens` is {}, expected at least 16",
                self.max_tokens
            )));
        }
        if self.part_samples == 0 {
            return Err(Error::usage(
                "`corpus.part_samples` is 0, expected at least 1",
            ));
        }
        self.date().map(|_| ())
    }

    /// How records are read.
    pub fn reading(&self) -> Reading {
        Reading {
            format: self.format,
            fields: self.fields.clone(),
        }
    }

    /// The date that templates see.
    ///
    /// # Errors
    /// Not of the form `YYYY-MM-DD`.
    pub fn date(&self) -> Result<NaiveDate> {
        NaiveDate::parse_from_str(&self.date, "%Y-%m-%d").map_err(|_| {
            Error::usage(format!("`corpus.date` is `{}`, no date", self.date))
                .remedy("expected a date like 2024-07-26")
        })
    }
}
