//! `fuselm generate`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::Args;
use fuselm::checkpoint::{locate, tokenizer_dir};
use fuselm::error::{Context, Error, Result};
use fuselm::model::{self, Decoder, GenerateOptions, LoadOptions, Mode, generate};
use fuselm::progress::note;
use fuselm::text::{self, Message};
use fuselm::vocab::{Role, Tokenizer};

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
    /// Model folder, GGUF file or hub id
    #[arg(long)]
    model: String,
    /// Folder of a LoRA adapter of this model, as `train` or PEFT wrote it
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
    let dir = locate(&command.model)?;
    let dtype: DType = model::dtype(&command.dtype)?;
    let tokenizer = Tokenizer::of_model(&dir)?;
    let raw = command.raw || tokenizer.template().is_none();
    if raw && !command.raw {
        note("this model has no chat template; continuing the prompt as plain text");
    }
    let stop = stops(&dir, &tokenizer)?;
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
    let decoder = match &command.adapter {
        Some(adapter) => Decoder::load_with_adapter(&dir, adapter, &load)?,
        None => Decoder::load(&dir, &load)?,
    };
    let mut chat = Chat {
        decoder,
        tokenizer,
        options,
        raw,
        chat: text::Chat::default(),
    };
    if let Some(prompt) = &command.prompt {
        return chat.answer(prompt);
    }
    let terminal = io::stdin().is_terminal();
    loop {
        if terminal {
            let _ = write!(io::stderr(), "> ");
        }
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        if read.map_err(|error| Error::io("stdin", error))? == 0 {
            return Ok(());
        }
        if !line.trim().is_empty() {
            chat.answer(line.trim_end_matches(['\r', '\n']))?;
        }
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
    /// Writes the continuation to stdout as it grows.
    fn answer(&mut self, prompt: &str) -> Result<()> {
        let text = match (self.raw, self.tokenizer.template()) {
            (false, Some(template)) => {
                self.chat.messages.push(Message::new("user", prompt));
                template.render(&self.chat, true)?
            }
            _ => prompt.to_owned(),
        };
        let vocabulary = self.tokenizer.vocabulary();
        // Templates may spell BOS out; position 0 has it already.
        let bos = vocabulary
            .id_with_role(Role::Bos)
            .and_then(|id| vocabulary.token(id));
        let text = match bos {
            Some(token) => text.strip_prefix(token.display.as_str()).unwrap_or(&text),
            None => &text,
        };
        let mut ids = vec![self.tokenizer.first_id()?];
        ids.extend(self.tokenizer.encode(text)?.ids);
        let mut stdout = io::stdout().lock();
        let mut shown = 0;
        let mut answer: Vec<u32> = Vec::new();
        let vocab_len = vocabulary.len();
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
