//! CPU and GPU compute the same: logits, the best next tokens, loss, gradients, ten steps.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use fuselm::error::{Context, Result};
use fuselm::model::{Config, Decoder, Listed, LoadOptions, Mode, Wanted, next_token};
use fuselm::train::Tail;
use fuselm::train::data::MicroBatch;
use fuselm::train::gradient::{MicroGradient, micro_gradient, micro_nll};
use fuselm::train::gradients::Gradients;
use fuselm::train::loss::Weights;
use fuselm::train::optim::{AdamW, Group, Settings};
use fuselm::train::rows::{Rows, Target};

use crate::families;

/// What may differ, relative to the largest or the norm of what is compared.
struct Tolerance {
    logits: f64,
    loss: f64,
    gradient: f64,
    steps: f64,
}

const F32: Tolerance = Tolerance {
    logits: 1e-4,
    loss: 1e-5,
    gradient: 1e-3,
    steps: 1e-3,
};
/// 8 bits of mantissa, against f32 on the CPU.
const BF16: Tolerance = Tolerance {
    logits: 0.06,
    loss: 0.02,
    gradient: 0.15,
    steps: 0.05,
};
/// Rounding may give a token to another expert, so that all of it differs.
const BF16_EXPERTS: Tolerance = Tolerance {
    logits: 0.6,
    gradient: 0.6,
    ..BF16
};

/// Prints one line for each family and type; whether all agree.
pub fn run(device: &Device, only: Option<&str>) -> Result<bool> {
    println!("| model | type | logits | loss | gradient | 10 steps | |");
    println!("|---|---|---|---|---|---|---|");
    let mut all = true;
    let wanted = |name: &str| only.is_none_or(|only| name.starts_with(only));
    for (name, config) in families::all()? {
        if !wanted(name) {
            continue;
        }
        let rough = if name == "mixtral" {
            BF16_EXPERTS
        } else {
            BF16
        };
        for (dtype, limits) in [(DType::F32, F32), (DType::BF16, rough)] {
            all &= report(name, &config, device, ((3, 33), false), dtype, &limits)?;
        }
        let name = format!("{name}, packed");
        all &= report(&name, &config, device, ((3, 33), true), DType::F32, &F32)?;
    }
    // Long enough for several blocks of queries.
    for (name, config) in families::all()? {
        if wanted(name) && ["llama", "mistral, window", "gemma2", "mpt"].contains(&name) {
            let name = format!("{name}, 600 tokens");
            all &= report(&name, &config, device, ((2, 600), false), DType::F32, &F32)?;
        }
    }
    println!(
        "Differences relative to the CPU in f32; {}.",
        match all {
            true => "all within the limits",
            false => "SOME BEYOND THE LIMITS",
        }
    );
    Ok(all)
}

fn report(
    name: &str,
    config: &Config,
    device: &Device,
    shape: ((usize, usize), bool),
    dtype: DType,
    limits: &Tolerance,
) -> Result<bool> {
    let found = compare(config, device, shape, dtype)?;
    let most = [limits.logits, limits.loss, limits.gradient, limits.steps];
    let good = found.iter().zip(most).all(|(found, most)| *found <= most);
    let cells: Vec<String> = found.iter().map(|value| format!("{value:.1e}")).collect();
    println!(
        "| {name} | {} | {} | {} |",
        dtype.as_str(),
        cells.join(" | "),
        if good { "agree" } else { "DIFFER" }
    );
    Ok(good)
}

/// The largest differences in logits, loss, gradient and in ten losses of a training.
fn compare(
    config: &Config,
    device: &Device,
    (shape, packed): ((usize, usize), bool),
    dtype: DType,
) -> Result<[f64; 4]> {
    let cpu = model(config, &Device::Cpu, DType::F32)?;
    let gpu = model(config, device, dtype)?;
    let micro = micro_batch(config, shape, packed);
    let weights = Weights::new(0.7, micro.rows.len(), micro.rows.targets());

    let logits = [logits(&cpu, &micro)?, logits(&gpu, &micro)?];
    let difference = distance(&logits[0], &logits[1], largest(&logits[0])?)?;
    let best = best_differ(&cpu, &gpu, &micro, dtype)?;

    let [a, b] = [&cpu, &gpu].map(|decoder| micro_gradient(decoder, &micro, weights, 0, false));
    let (a, b) = (a?, b?);
    let loss =
        |found: &MicroGradient| weights.clm * found.sums.clm + weights.fusion * found.sums.fusion;
    let nll = micro_nll(&gpu, &micro)?;
    let loss = relative(loss(&a), loss(&b)).max(relative(a.sums.clm, nll));
    let gradient = gradients_differ(&a, &b)?;
    let steps = steps_differ(&cpu, &gpu, &micro, weights)?;
    Ok([difference.max(best), loss, gradient, steps])
}

fn relative(a: f64, b: f64) -> f64 {
    // NaN is a difference too.
    let difference = (a - b).abs() / a.abs().max(1e-9);
    if difference.is_nan() {
        f64::INFINITY
    } else {
        difference
    }
}

fn model(config: &Config, device: &Device, dtype: DType) -> Result<Decoder> {
    let options = |device: &Device, dtype| LoadOptions {
        device: device.clone(),
        dtype,
        mode: Mode::Training,
    };
    // Weights that both types can hold, norms and biases away from their defaults.
    let decoder = Decoder::random(config.clone(), &options(&Device::Cpu, DType::F32), 5)?;
    let mut params = BTreeMap::new();
    for (index, (name, var)) in decoder.params().iter().enumerate() {
        let moved = || -> candle_core::Result<Var> {
            let noise =
                Tensor::from_vec(numbers(var.elem_count(), index), var.shape(), &Device::Cpu)?;
            let values = (var.as_detached_tensor() + noise)?.to_dtype(DType::BF16)?;
            Var::from_tensor(&values.to_dtype(dtype)?.to_device(device)?)
        };
        params.insert(name.clone(), moved().during(|| format!("moving `{name}`"))?);
    }
    Decoder::from_params(config.clone(), params, &options(device, dtype))
}

/// Numbers in [-0.1, 0.1).
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 * 0.2 - 0.1
    };
    (0..count).map(|_| next()).collect()
}

/// Positions of all kinds: with target and without, the label listed and not.
fn micro_batch(config: &Config, (batch, len): (usize, usize), packed: bool) -> MicroBatch {
    let vocabulary = config.vocab_size;
    let id = |i: usize| (i * i * 7 + i / 5 + 3) as u32 % vocabulary as u32;
    let ids: Vec<u32> = (0..batch * len).map(id).collect();
    let mut rows = Rows::new(vocabulary);
    for index in 0..batch * len {
        if index % len == len - 1 || index % 7 == 2 {
            continue;
        }
        let label = ids[index + 1];
        let listed = [
            (label + 1) % 131,
            (label + u32::from(index % 2 == 0) * 5) % 131,
        ];
        let target = Target {
            ids: &listed,
            probs: &[0.5, 0.3],
            tail: 0.2,
        };
        let tail = if index % 2 == 0 {
            Tail::Uniform
        } else {
            Tail::Label
        };
        let target = (index % 3 > 0).then_some(target);
        rows.push(index as u32, label, target, tail).unwrap();
    }
    // Two samples in each row.
    let start = |i: usize| if i % len < len / 3 { 0 } else { len / 3 };
    let starts = (0..batch * len).map(|i| start(i) as u32).collect();
    MicroBatch {
        ids,
        sequences: batch,
        len,
        starts: packed.then_some(starts),
        rows,
        samples: (0..batch as u64).collect(),
    }
}

fn hidden(decoder: &Decoder, micro: &MicroBatch) -> Result<Tensor> {
    let shape = (micro.sequences, micro.len);
    let ids = Tensor::from_slice(&micro.ids, shape, decoder.device()).during(|| "ids".into())?;
    decoder.hidden(&ids)?.flatten_to(1).during(|| "ids".into())
}

fn logits(decoder: &Decoder, micro: &MicroBatch) -> Result<Tensor> {
    decoder.logits(&hidden(decoder, micro)?)
}

/// The largest difference of log-probabilities of the targets, the tails and the best ids.
fn best_differ(cpu: &Decoder, gpu: &Decoder, micro: &MicroBatch, dtype: DType) -> Result<f64> {
    let targets: Vec<u32> = micro.ids.iter().map(|id| (id + 1) % 129).collect();
    let vocabulary = cpu.config().vocab_size - 2;
    let found = [cpu, gpu].map(|decoder| {
        let mut all = Vec::new();
        let rows = hidden(decoder, micro)?;
        let wanted = Wanted {
            targets: &targets,
            vocab_len: vocabulary,
            listed: Listed::Best(5),
        };
        next_token(decoder.head(), &rows, &wanted, |_, next| {
            all.push(f64::from(next.target_logprob));
            all.push(f64::from(next.tail_logprob));
            all.extend(next.logprobs.iter().map(|p| f64::from(*p)));
            // Which id comes first among near equals is decided by rounding.
            if dtype == DType::F32 && next.logprobs[0] - next.logprobs[1] > 1e-3 {
                all.push(f64::from(next.ids[0]));
            }
            Ok(())
        })?;
        Ok(all)
    });
    let [a, b] = found;
    let (a, b): (Vec<f64>, Vec<f64>) = (a?, b?);
    if a.len() != b.len() {
        return Ok(f64::INFINITY);
    }
    let scale = 10.0;
    Ok(a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs() / scale)
        .fold(0.0, f64::max))
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = || {
        tensor
            .detach()
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()
    };
    flat().during(|| "reading a tensor".into())
}

fn largest(a: &Tensor) -> Result<f64> {
    Ok(flat(a)?
        .iter()
        .fold(0.0, |most, x| f64::from(x.abs()).max(most)))
}

/// The largest difference, relative to `scale`.
fn distance(a: &Tensor, b: &Tensor, scale: f64) -> Result<f64> {
    let (a, b) = (flat(a)?, flat(b)?);
    let differences = a
        .iter()
        .zip(&b)
        .map(|(a, b)| relative_to(f64::from(a - b), scale));
    Ok(differences.fold(0.0, f64::max))
}

fn relative_to(difference: f64, scale: f64) -> f64 {
    let value = difference.abs() / scale.max(1e-12);
    if value.is_nan() { f64::INFINITY } else { value }
}

/// The largest distance between gradients of a parameter, relative to the norm of its gradient, or
/// to a hundredth of that of all: some gradients are zero but for rounding.
fn gradients_differ(a: &MicroGradient, b: &MicroGradient) -> Result<f64> {
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut pairs = Vec::new();
    for (a, b) in a.params.iter().zip(&b.params) {
        let (Some(a), Some(b)) = (a, b) else {
            return Ok(f64::INFINITY);
        };
        pairs.push((flat(a)?, flat(b)?));
    }
    let all = pairs
        .iter()
        .map(|(a, _)| norm(a).powi(2))
        .sum::<f64>()
        .sqrt();
    let distance = |(a, b): &(Vec<f32>, Vec<f32>)| {
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        relative_to(norm(&difference), norm(a).max(all / 100.0))
    };
    Ok(pairs.iter().map(distance).fold(0.0, f64::max))
}

/// All parameters learn and decay alike.
pub fn groups(decoder: &Decoder) -> Vec<Group> {
    let alike = Group {
        lr_scale: 1.0,
        weight_decay: 0.1,
    };
    vec![alike; decoder.params().len()]
}

/// The largest difference of losses and gradient norms in ten steps, two micro batches each.
fn steps_differ(cpu: &Decoder, gpu: &Decoder, micro: &MicroBatch, weights: Weights) -> Result<f64> {
    let settings = Settings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-6,
        clip: 1.0,
    };
    let train = |decoder: &Decoder| -> Result<Vec<(f64, f64)>> {
        let mut optimiser = AdamW::new(decoder.params(), groups(decoder), settings)?;
        let mut gradients = Gradients::zeros(decoder.params(), decoder.device());
        let mut losses = Vec::new();
        for step in 0..10 {
            gradients.clear();
            let mut loss = 0.0;
            for again in [false, true] {
                let found = micro_gradient(decoder, micro, weights, step, again)?;
                loss += found.sums.clm;
                gradients.add(&found.params)?;
            }
            let norm = optimiser.step(decoder.params(), &gradients, 2e-3)?;
            losses.push((loss, norm));
        }
        Ok(losses)
    };
    let (a, b) = (train(cpu)?, train(gpu)?);
    let pairs = a.iter().zip(&b);
    Ok(pairs.map(|(a, b)| relative(a.0, b.0)).fold(0.0, f64::max))
}
