//! `fuselm generate`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::Args;
use fuselm::checkpoint::tokenizer_dir;
use fuselm::error::{Context, Error, Result};
use fuselm::lora;
use fuselm::model::{self, Decoder, GenerateOptions, LoadOptions, Mode, generate};
use fuselm::progress::{forget_interrupt, note, warn};
use fuselm::text::{self, ChatTemplate, Message};
use fuselm::vocab::{Role, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::Global;

/// Chat with a checkpoint, for a look.
///
/// Without a prompt, each line of stdin is a message, and the chat goes on until its end. An
/// answer ends at the tokenizer's EOS or end of turn, or at an `eos_token_id` of `config.json`
/// or `generation_config.json`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm generate --model runs/demo/checkpoints/merged --prompt \"How far is Grugfell?\""
)]
pub struct Command {
    /// Model folder, GGUF file or hub id; with a LoRA adapter: `MODEL+ADAPTER`
    #[arg(long)]
    model: String,
    /// Folder of a LoRA adapter of this model, as `train` or PEFT wrote it: `--model MODEL+DIR`
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The user's message
    #[arg(long)]
    prompt: Option<String>,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long)]
    raw: bool,
    /// Most tokens to generate
    #[arg(long, default_value_t = GenerateOptions::default().max_new_tokens)]
    max_new_tokens: usize,
    /// Softmax temperature; 0 takes the most probable token
    #[arg(long, default_value_t = GenerateOptions::default().temperature)]
    temperature: f64,
    /// Only the most probable tokens that together have this mass
    #[arg(long)]
    top_p: Option<f64>,
    /// Only this many most probable tokens
    #[arg(long)]
    top_k: Option<usize>,
    /// Seed of the sampling
    #[arg(long, default_value_t = GenerateOptions::default().seed)]
    seed: u64,
    /// Type of weights and activations: f32, f16, bf16
    #[arg(long, default_value = "f32")]
    dtype: String,
}

struct Chat {
    decoder: Decoder,
    tokenizer: Tokenizer,
    options: GenerateOptions,
    raw: bool,
    chat: text::Chat,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    let mut model = lora::locate(&command.model)?;
    if let Some(adapter) = &command.adapter {
        if model.adapter.is_some() {
            return Err(Error::usage(format!("`{model}` has an adapter already"))
                .remedy("leave out `--adapter`"));
        }
        model.adapter = Some(adapter.clone());
    }
    let dir = &model.base;
    let dtype: DType = model::dtype(&command.dtype)?;
    let tokenizer = Tokenizer::of_model(dir)?;
    let raw = command.raw || tokenizer.template().is_none();
    if raw && !command.raw {
        note("this model has no chat template; continuing the prompt as plain text");
    }
    let stop = stops(dir, &tokenizer)?;
    let options = GenerateOptions {
        max_new_tokens: command.max_new_tokens,
        temperature: command.temperature,
        top_p: command.top_p,
        top_k: command.top_k,
        seed: command.seed,
        stop,
    };
    options.validate()?;
    let load = LoadOptions {
        device: model::device(&global.device)?,
        dtype,
        mode: Mode::Inference,
    };
    let mut chat = Chat {
        decoder: Decoder::load(&model, &load)?,
        tokenizer,
        options,
        raw,
        chat: text::Chat::default(),
    };
    if let Some(prompt) = &command.prompt {
        return chat.answer(prompt);
    }
    match io::stdin().is_terminal() {
        true => chat.at_terminal(),
        false => io::stdin().lock().lines().try_for_each(|line| {
            let line = line.map_err(|error| Error::io("stdin", error))?;
            match line.trim().is_empty() {
                true => Ok(()),
                false => chat.answer(line.trim_end_matches('\r')),
            }
        }),
    }
}

/// What ends an answer beside the ids that `config.json` names: the tokenizer's EOS and end of
/// turn, and what `generation_config.json` lists, as transformers and vLLM have it.
fn stops(model: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let roles = [Role::Eos, Role::TurnEnd];
    let ids = roles.map(|role| tokenizer.vocabulary().id_with_role(role));
    let mut stops: Vec<u32> = ids.into_iter().flatten().collect();
    // Beside a GGUF file, where its tokenizer is.
    stops.extend(model::generation_stops(&tokenizer_dir(model, None)?)?);
    Ok(stops)
}

impl Chat {
    /// Reads messages, with lines that can be edited, until the user leaves.
    fn at_terminal(&mut self) -> Result<()> {
        let during = || "reading from the terminal".to_owned();
        let mut editor = DefaultEditor::new().during(during)?;
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).during(during),
            };
            if line.trim().is_empty() {
                continue;
            }
            let _ = editor.add_history_entry(line.as_str());
            let before = self.chat.messages.len();
            if let Err(error) = self.answer(&line) {
                // The chat goes on as if this had not been said.
                self.chat.messages.truncate(before);
                match error {
                    Error::Interrupted => {
                        forget_interrupt();
                        note("\n(stopped)");
                    }
                    error => warn(error.to_string()),
                }
            }
        }
    }

    /// The ids of the chat so far, which end where the answer begins. Where they leave no room for
    /// it, the oldest turns are dropped.
    fn ids(&mut self, template: &ChatTemplate) -> Result<Vec<u32>> {
        let context = self.decoder.config().max_position_embeddings;
        let room = self.options.max_new_tokens.min(context / 4);
        let mut dropped = 0;
        loop {
            let ids = self.encode(&template.render(&self.chat, true)?)?;
            let messages = &mut self.chat.messages;
            let first = usize::from(messages.first().is_some_and(|m| m.role == "system"));
            // A question goes with its answer.
            if ids.len() + room <= context || messages.len() < first + 3 {
                if dropped > 0 {
                    note(format!(
                        "(the context of {context} tokens is full: the {dropped} oldest messages are forgotten)"
                    ));
                }
                return Ok(ids);
            }
            messages.drain(first..first + 2);
            dropped += 2;
        }
    }

    /// The ids of a text, after what every text begins with.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let vocabulary = self.tokenizer.vocabulary();
        // Templates may spell BOS out; position 0 has it already.
        let bos = vocabulary
            .id_with_role(Role::Bos)
            .and_then(|id| vocabulary.token(id));
        let text = match bos {
            Some(token) => text.strip_prefix(token.display.as_str()).unwrap_or(text),
            None => text,
        };
        let mut ids = vec![self.tokenizer.first_id()?];
        ids.extend(self.tokenizer.encode(text)?.ids);
        Ok(ids)
    }

    /// Writes the continuation to stdout as it grows.
    fn answer(&mut self, prompt: &str) -> Result<()> {
        let template = self.tokenizer.template().filter(|_| !self.raw).cloned();
        let ids = match template {
            Some(template) => {
                self.chat.messages.push(Message::new("user", prompt));
                self.ids(&template)?
            }
            None => self.encode(prompt)?,
        };
        let mut stdout = io::stdout().lock();
        let mut shown = 0;
        let mut answer: Vec<u32> = Vec::new();
        let vocab_len = self.tokenizer.vocabulary().len();
        let tokenizer = &self.tokenizer;
        generate(&self.decoder, &ids, vocab_len, &self.options, |token| {
            answer.push(token);
            // A character may need several tokens; only whole ones are shown.
            let text = tokenizer.decode(&answer);
            let whole = text.trim_end_matches('\u{fffd}');
            let new = whole.get(shown..).unwrap_or_default();
            shown = shown.max(whole.len());
            let written = stdout
                .write_all(new.as_bytes())
                .and_then(|()| stdout.flush());
            written.map_err(|error| Error::io("stdout", error))
        })?;
        writeln!(stdout).at(std::path::Path::new("stdout"))?;
        if !self.raw {
            let answer = self.tokenizer.decode(&answer);
            self.chat.messages.push(Message::new("assistant", answer));
        }
        Ok(())
    }
}
