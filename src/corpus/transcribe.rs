//! Samples to transcripts of another template.

use std::path::PathBuf;

use chrono::NaiveDate;
use rayon::prelude::*;
use serde_json::Value;

use super::rows::read_chats;
use crate::artifact::{Artifact, Existing, Kind, Part, Writing};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt, warn};
use crate::stage::{self, Item, Reads, Size, Stage};
use crate::text::{self, ChatTemplate, SampleTranscript, check_text_size, transcripts_to_batch};
use crate::units::{Count, SampleId};
use crate::vocab::Tokenizer;

/// A part of the stage: the artifact `transcripts` by a model's own template (`template: native`).
#[derive(Clone, Debug)]
pub struct Transcribe<'a> {
    /// The `samples` to read.
    pub samples: PathBuf,
    /// The tokenizer whose template is followed.
    pub tokenizer: &'a Tokenizer,
    /// The date that the template sees.
    pub date: NaiveDate,
    /// Folder of the `transcripts` to write.
    pub out: PathBuf,
}

impl Transcribe<'_> {
    fn template(&self) -> Option<ChatTemplate> {
        let mut template = self.tokenizer.template().cloned();
        if let Some(template) = &mut template {
            template.set_date(self.date);
        }
        template
    }

    /// Renders samples again, part by part as they are. Returns how many assistant's turns are not
    /// learnt, because the template changes them or what is around them.
    ///
    /// # Errors
    /// A tokenizer without a chat template where the samples are chats, messages that the template
    /// refuses (naming the sample), a sample in which the template leaves nothing to learn from.
    ///
    /// # Memory
    /// One part of samples and their transcripts.
    pub fn perform(&self, existing: Existing) -> Result<u64> {
        let samples = Artifact::open(&self.samples, Kind::Samples)?;
        let template = self.template();
        let writer = stage::writer(self, Kind::Transcripts, &self.out, existing)?;
        let bar = Bar::new("transcribe", samples.samples(), "samples");
        let mut unplaced = 0;
        for part in samples.parts() {
            let info = part.info();
            if !writer.is_done(info.index) {
                check_interrupt()?;
                let (rendered, lost) = self.render(part, template.as_ref())?;
                unplaced += lost;
                let mut part = writer.part(info)?;
                part.write(&transcripts_to_batch(&rendered)?)?;
                part.finish()?;
            }
            bar.advance(info.samples);
        }
        Ok(unplaced)
    }

    fn render(
        &self,
        part: &Part,
        template: Option<&ChatTemplate>,
    ) -> Result<(Vec<SampleTranscript>, u64)> {
        let place = |id: SampleId| format!("{} sample {id}", self.samples.display());
        let rendered = read_chats(part)?
            .into_par_iter()
            .map(|(sample_id, chat)| {
                let found = text::transcript(&chat, template).map_err(|e| {
                    Error::input(place(sample_id), e.to_string())
                        .remedy("use `template: pivot`, or remove such samples")
                })?;
                let transcript = found.transcript;
                let sample = SampleTranscript {
                    sample_id,
                    transcript,
                };
                Ok((sample, found.unplaced.len() as u64))
            })
            .collect::<Result<Vec<_>>>()?;
        let unplaced = rendered.iter().map(|(_, unplaced)| unplaced).sum();
        let rendered: Vec<SampleTranscript> =
            rendered.into_iter().map(|(sample, _)| sample).collect();
        check_text_size(rendered.iter().map(|sample| sample.transcript.text.len()))?;
        Ok((rendered, unplaced))
    }
}

impl Stage for Transcribe<'_> {
    fn name(&self) -> &'static str {
        "corpus"
    }

    fn reads(&self) -> Result<Reads> {
        Ok(Reads::new().input("samples", Item::artifact(Kind::Samples, &self.samples)))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Transcripts, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        serde_json::json!({
            "template": self.template().as_ref().map(ChatTemplate::digest),
            "date": self.date.to_string(),
        })
    }

    fn size(&self) -> Size {
        Size::PerToken(2)
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let unplaced = self.perform(existing)?;
        if unplaced > 0 {
            warn(format!(
                "{}: {} assistant's turns are not learnt: the template changes them, or what is around them",
                self.out.display(),
                Count(unplaced)
            ));
        }
        Ok("by its own template".to_owned())
    }
}
