//! Tokens a second and peak memory of scoring and training, on models with random weights.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor, Var};
use fuselm::error::{Context, Error, Result};
use fuselm::model::{
    Config, Decoder, Init, Listed, LoadOptions, Mode, Wanted, device_memory, next_token,
};
use fuselm::train::Tail;
use fuselm::train::data::MicroBatch;
use fuselm::train::gradient::micro_gradient;
use fuselm::train::gradients::Gradients;
use fuselm::train::loss::Weights;
use fuselm::train::optim::{AdamW, Settings};
use fuselm::train::rows::{Rows, Target};
use serde_json::json;

/// Entries of each target, and best next tokens to find.
const K: usize = 10;
/// Time for one figure, after one run to warm up.
const ENOUGH: Duration = Duration::from_secs(4);

/// A model of the table.
struct Size {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    groups: usize,
    inner: usize,
    /// Sequences and length in scoring.
    scoring: (usize, usize),
    /// In training.
    training: (usize, usize),
    /// Whether layers are computed again on the way back.
    recompute: bool,
}

const VOCABULARY: usize = 32000;
const SIZES: [Size; 3] = [
    Size {
        name: "100 M",
        hidden: 768,
        layers: 8,
        heads: 12,
        groups: 12,
        inner: 2048,
        scoring: (16, 1024),
        training: (16, 1024),
        recompute: false,
    },
    Size {
        name: "1.1 B",
        hidden: 2048,
        layers: 22,
        heads: 32,
        groups: 4,
        inner: 5632,
        scoring: (8, 2048),
        training: (4, 2048),
        recompute: false,
    },
    Size {
        name: "7 B",
        hidden: 4096,
        layers: 32,
        heads: 32,
        groups: 32,
        inner: 11008,
        scoring: (4, 2048),
        training: (1, 2048),
        recompute: true,
    },
];

/// Prints the sizes, for the same in PyTorch.
pub fn list() -> Result<bool> {
    for s in &SIZES {
        println!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{VOCABULARY}\t{}\t{}\t{}\t{}\t{}",
            s.name.replace(' ', ""),
            s.hidden,
            s.layers,
            s.heads,
            s.groups,
            s.inner,
            s.scoring.0,
            s.scoring.1,
            s.training.0,
            s.training.1,
            u8::from(s.recompute),
        );
    }
    Ok(true)
}

/// Tokens a second and bytes, or what went wrong.
type Figure = std::result::Result<(f64, u64), String>;

/// Prints the table, beside the figures of PyTorch in `beside`.
pub fn run(device: &Device, beside: Option<&str>) -> Result<bool> {
    if device.is_cpu() {
        return Err(Error::usage("the table is for a GPU"));
    }
    let others = read(beside)?;
    println!(
        "| model | work | batch | fuselm, tokens/s (peak) | PyTorch eager | PyTorch SDPA | of SDPA |"
    );
    println!("|---|---|---|---|---|---|---|");
    for size in &SIZES {
        let work = [("scoring", size.scoring), ("training", size.training)];
        for (name, (batch, len)) in work {
            let figure = match name {
                "scoring" => scoring(size, device),
                _ => training(size, device),
            };
            let figure = figure.map_err(|error| first_line(&error.to_string()));
            let key = |with: &str| format!("{}\t{name}\t{with}", size.name.replace(' ', ""));
            let other = |with: &str| others.get(&key(with)).cloned();
            let (eager, sdpa) = (other("eager"), other("sdpa"));
            let share = match (&figure, &sdpa) {
                (Ok((ours, _)), Some(Ok((theirs, _)))) => format!("{:.2}", ours / theirs),
                _ => "-".to_owned(),
            };
            let note = match size.recompute && name == "training" {
                true => ", layers recomputed",
                false => "",
            };
            println!(
                "| {} | {name}{note} | {batch} x {len} | {} | {} | {} | {share} |",
                size.name,
                cell(Some(figure)),
                cell(eager),
                cell(sdpa),
            );
        }
    }
    Ok(true)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "/")
}

fn cell(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Ok((rate, bytes))) => format!("{rate:.0} ({:.1} GB)", bytes as f64 / 1e9),
        Some(Err(problem)) => problem,
    }
}

/// Lines of: model, work, attention, tokens a second or a problem, bytes.
fn read(path: Option<&str>) -> Result<BTreeMap<String, Figure>> {
    let mut figures = BTreeMap::new();
    let Some(path) = path else {
        return Ok(figures);
    };
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    for line in text.lines() {
        if let [model, work, with, rate, bytes] = line.split('\t').collect::<Vec<_>>()[..] {
            let figure = match (rate.parse(), bytes.parse()) {
                (Ok(rate), Ok(bytes)) => Ok((rate, bytes)),
                _ => Err(rate.to_owned()),
            };
            figures.insert(format!("{model}\t{work}\t{with}"), figure);
        }
    }
    Ok(figures)
}

fn decoder(size: &Size, device: &Device, mode: Mode) -> Result<Decoder> {
    let config: Config = crate::config(json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY,
        "hidden_size": size.hidden, "intermediate_size": size.inner,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.groups, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }))?;
    let options = LoadOptions {
        device: device.clone(),
        dtype: DType::BF16,
        mode,
    };
    let mut params = BTreeMap::new();
    for spec in config.tensors() {
        let shape = spec.shape.as_slice();
        let values = match spec.init {
            Init::Ones => Tensor::ones(shape, DType::BF16, device),
            Init::Zeros => Tensor::zeros(shape, DType::BF16, device),
            Init::Normal => Tensor::randn(0f32, 0.02, shape, device)
                .and_then(|values| values.to_dtype(DType::BF16)),
        };
        let var = values.and_then(|values| Var::from_tensor(&values));
        let var = var.during(|| format!("making `{}`", spec.name))?;
        params.insert(spec.name, var);
    }
    Decoder::from_params(config, params, &options)
}

fn ids(batch: usize, len: usize) -> Vec<u32> {
    let id = |i: usize| (i * 7919 + i / 3) as u32 % VOCABULARY as u32;
    (0..batch * len).map(id).collect()
}

/// Tokens a second of `work`, which does `tokens`, and the peak of memory meanwhile.
fn measure(
    device: &Device,
    tokens: usize,
    mut work: impl FnMut() -> Result<()>,
) -> Result<(f64, u64)> {
    work()?;
    device_memory(device)?;
    let (started, mut runs) = (Instant::now(), 0);
    while started.elapsed() < ENOUGH {
        work()?;
        runs += 1;
    }
    let memory = device_memory(device)?;
    let seconds = started.elapsed().as_secs_f64();
    let peak = memory.map_or(0, |memory| memory.peak);
    Ok(((runs * tokens) as f64 / seconds, peak))
}

fn scoring(size: &Size, device: &Device) -> Result<(f64, u64)> {
    let (batch, len) = size.scoring;
    let decoder = decoder(size, device, Mode::Inference)?;
    let ids = ids(batch, len);
    measure(device, batch * len, || {
        let input = Tensor::from_slice(&ids, (batch, len), device).during(|| "ids".into())?;
        let rows = decoder
            .hidden(&input)?
            .flatten_to(1)
            .during(|| "ids".into())?;
        let mut found = 0;
        let wanted = Wanted {
            targets: &ids,
            vocab_len: VOCABULARY,
            listed: Listed::Best(K),
        };
        next_token(decoder.head(), &rows, &wanted, |_, next| {
            found += next.ids.len();
            Ok(())
        })
    })
}

fn training(size: &Size, device: &Device) -> Result<(f64, u64)> {
    let (batch, len) = size.training;
    let decoder = decoder(size, device, Mode::Training)?;
    let ids = ids(batch, len);
    let mut rows = Rows::new(VOCABULARY);
    let probs = [0.1; K];
    for index in (0..batch * len).filter(|index| index % len < len - 1) {
        let listed: Vec<u32> = ids[index..].iter().chain(&ids).take(K).copied().collect();
        let target = Target {
            ids: &listed,
            probs: &probs,
            tail: 0.0,
        };
        let label = ids[index + 1];
        rows.push(index as u32, label, Some(target), Tail::Renormalise)
            .map_err(Error::usage)?;
    }
    let micro = MicroBatch {
        ids,
        sequences: batch,
        len,
        starts: None,
        rows,
        samples: vec![0; batch],
    };
    let weights = Weights::new(0.9, micro.rows.len(), micro.rows.targets());
    let settings = Settings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        clip: 1.0,
    };
    let mut optimiser = AdamW::new(decoder.params(), crate::agree::groups(&decoder), settings)?;
    let mut gradients = Gradients::zeros(decoder.params(), device);
    let mut step = 0;
    measure(device, batch * len, || {
        gradients.clear();
        let found = micro_gradient(&decoder, &micro, weights, step, size.recompute)?;
        gradients.add(&found.params)?;
        drop(found);
        step += 1;
        optimiser.step(decoder.params(), &gradients, 1e-5).map(drop)
    })
}
