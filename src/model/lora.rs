//! Low-rank adapters in training, where A and B stay apart.
//!
//! An adapted projection computes y = x Wᵀ + b + s · (x Aᵀ) Bᵀ, where only A (rank, in) and B
//! (out, rank) are trained. B starts at zero, so that a fresh adapter changes nothing. W + s · B A
//! is the projection that computes the same without an adapter.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::attach::attach3;
use super::config::{Config, TensorSpec};
use super::options::Mode;
use super::random::mix;
use super::source::numbers;
use crate::checkpoint::FolderRecord;
use crate::error::{Context, Error, Result, did_you_mean};
use crate::lora::{AdapterWriter, LoraConfig, Module, Update, halves, names_module};

/// Which files a model with adapters is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LoraSave {
    /// A checkpoint of the whole model, with W + s · B A in the place of W.
    #[default]
    Merged,
    /// The adapter alone, as PEFT writes it.
    Adapter,
    /// The whole model, and the adapter in a folder `adapter` within.
    Both,
}

/// The projections of all layers of a model: what can have an adapter.
pub fn modules(config: &Config) -> Vec<Module> {
    let names = [config.embedding_name(), config.head_name()].map(Some);
    let outer = [names[0], names[1], config.names().positions];
    let module = |spec: TensorSpec| {
        let name = spec.name.strip_suffix(".weight")?;
        match spec.shape[..] {
            [first, second] if !outer.contains(&Some(spec.name.as_str())) => {
                let (rows, columns) = match config.names().transposed {
                    true => (second, first),
                    false => (first, second),
                };
                Some(Module {
                    name: name.to_owned(),
                    rows,
                    columns,
                })
            }
            _ => None,
        }
    };
    config.tensors().into_iter().filter_map(module).collect()
}

/// The last parts of the names of all projections: the shortest list of targets that adapts all.
pub fn all_linear(config: &Config) -> Vec<String> {
    let mut names = Vec::new();
    for module in modules(config) {
        let last = module.last_part();
        if !names.iter().any(|name| name == last) {
            names.push(last.to_owned());
        }
    }
    names
}

/// The projections that `targets` name.
///
/// # Errors
/// A target that names none, with those that there are.
pub fn targeted(config: &Config, targets: &[String]) -> Result<Vec<Module>> {
    let all = modules(config);
    for target in targets {
        if !all.iter().any(|module| names_module(target, &module.name)) {
            let known = all_linear(config);
            let error = Error::usage(format!(
                "`lora.targets`: the model has no projection `{target}`"
            ));
            let hint = did_you_mean(target, known.iter().map(String::as_str));
            let known = format!("its projections are `{}`", known.join("`, `"));
            return Err(error.remedy(match hint {
                Some(hint) => format!("{hint} ({known})"),
                None => known,
            }));
        }
    }
    let names = |module: &Module, target: &String| names_module(target, &module.name);
    let wanted = |module: &Module| targets.iter().any(|target| names(module, target));
    Ok(all.into_iter().filter(wanted).collect())
}

/// The adapters of a model, f32.
#[derive(Debug)]
pub struct Adapters {
    lora: LoraConfig,
    modules: Vec<Module>,
    params: BTreeMap<String, Var>,
}

impl Adapters {
    /// Fresh adapters: A uniform within ±1/√in as in PEFT, B zero.
    ///
    /// The same seed gives the same numbers on every machine.
    ///
    /// # Errors
    /// Those of [`targeted`]; a rank of zero; not enough memory on the device.
    pub fn random(config: &Config, lora: LoraConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut params = BTreeMap::new();
        let modules = targeted(config, &lora.targets)?;
        if lora.rank == 0 {
            return Err(Error::usage("`lora.rank` must be at least 1, found 0"));
        }
        for (index, module) in modules.iter().enumerate() {
            let [a, b] = halves(&module.name);
            let values = uniform(seed, index as u64, 1.0 / (module.columns as f64).sqrt());
            let values: Vec<f32> = values.take(lora.rank * module.columns).collect();
            let fresh = || -> CandleResult<[Var; 2]> {
                let first = Tensor::from_vec(values, (lora.rank, module.columns), device)?;
                let second = Tensor::zeros((module.rows, lora.rank), DType::F32, device)?;
                Ok([Var::from_tensor(&first)?, Var::from_tensor(&second)?])
            };
            let [first, second] =
                fresh().during(|| format!("initialising the adapter of `{}`", module.name))?;
            params.insert(a, first);
            params.insert(b, second);
        }
        Ok(Self {
            lora: LoraConfig {
                transposed: config.names().transposed,
                ..lora
            },
            modules,
            params,
        })
    }

    /// Size and strength.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// The adapted projections.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// `<module>.lora_A.weight` (rank, in) and `<module>.lora_B.weight` (out, rank) of each.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// The adapter of `module`, if it has one.
    pub(super) fn of(&self, module: &str, mode: Mode) -> Option<Adapter> {
        let tensor = |name: &String| {
            self.params.get(name).map(|var| match mode {
                Mode::Training => var.as_tensor().clone(),
                Mode::Inference => var.as_detached_tensor(),
            })
        };
        let [a, b] = halves(module);
        Some(Adapter {
            a: tensor(&a)?,
            b: tensor(&b)?,
            scale: self.lora.scale(),
            transposed: self.lora.transposed,
        })
    }

    /// Writes the adapters to the folder `dir`, which exists, and returns what was written; `base`
    /// is where PEFT finds the model.
    pub(super) fn write(&self, dir: &Path, base: &Path) -> Result<FolderRecord> {
        let mut modules = self.modules.clone();
        modules.sort_by(|a, b| a.name.cmp(&b.name));
        let writer = AdapterWriter::create(dir, &modules, &self.lora, base)?;
        for (at, module) in modules.iter().enumerate() {
            let Some(adapter) = self.of(&module.name, Mode::Inference) else {
                let problem = format!("the adapter of `{}` is missing", module.name);
                return Err(Error::usage(problem));
            };
            let [a, b] = adapter
                .numbers()
                .during(|| format!("reading the adapter of `{}`", module.name))?;
            writer.write(at, [&a, &b])?;
        }
        writer.finish()
    }
}

/// The adapter of one projection.
pub(crate) struct Adapter {
    /// (rank, in), f32.
    a: Tensor,
    /// (out, rank), f32.
    b: Tensor,
    scale: f64,
    /// Whether the projection is stored as in × out.
    transposed: bool,
}

impl Adapter {
    /// x Wᵀ + b + s · (x Aᵀ) Bᵀ for `x` (rows, in) and W (out, in), in the dtype of x.
    ///
    /// Differentiable in x, A and B; the graph keeps nothing but x and the result.
    pub fn forward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> CandleResult<Tensor> {
        let (weight, scale) = (weight.detach(), self.scale);
        let low = move |x: &Tensor, a: &Tensor| x.to_dtype(DType::F32)?.matmul(&a.t()?)? * scale;
        let y = x.detach().matmul(&weight.t()?)?;
        let y = match bias {
            Some(bias) => y.broadcast_add(&bias.detach())?,
            None => y,
        };
        let change = low(&x.detach(), &self.a.detach())?.matmul(&self.b.detach().t()?)?;
        let y = (&y + change.to_dtype(y.dtype())?)?;
        if !(x.track_op() || self.a.track_op() || self.b.track_op()) {
            return Ok(y);
        }
        let x_matters = x.track_op();
        attach3([x, &self.a, &self.b], &y, move |[x, a, b], grad| {
            let wide = grad.to_dtype(DType::F32)?;
            // ∂L/∂(x Aᵀ)
            let inner = (wide.matmul(b)? * scale)?;
            let db = wide.t()?.matmul(&low(x, a)?)?;
            let da = inner.t()?.matmul(&x.to_dtype(DType::F32)?)?;
            let dx = match x_matters {
                true => (grad.matmul(&weight)? + inner.matmul(a)?.to_dtype(grad.dtype())?)?,
                false => x.zeros_like()?,
            };
            Ok([dx, da, db])
        })
    }

    /// W + s · B A, computed in f32 on the CPU, as the projection is stored.
    pub fn merged(&self, weight: &Tensor) -> CandleResult<Tensor> {
        let (scale, rank) = (self.scale as f32, self.a.dim(0)?);
        let update = Update::new(scale, rank, self.numbers()?, self.transposed);
        let mut values = numbers(weight)?;
        update.apply_to_all(&mut values);
        Tensor::from_vec(values, weight.shape(), &Device::Cpu)
    }

    /// The elements of A and B.
    fn numbers(&self) -> CandleResult<[Vec<f32>; 2]> {
        Ok([numbers(&self.a)?, numbers(&self.b)?])
    }
}

/// Uniform numbers of `stream` in (−`bound`, `bound`).
fn uniform(seed: u64, stream: u64, bound: f64) -> impl Iterator<Item = f32> {
    // Another start than that of the weights, which may be drawn from the same seed.
    let key = mix(mix(seed ^ 0x6c6f_7261) ^ mix(stream.wrapping_add(1)));
    (0u64..).map(move |counter| {
        let bits = mix(key.wrapping_add(counter)) >> 40;
        let unit = (bits as f64 + 0.5) / f64::from(1 << 23) - 1.0;
        (unit * bound) as f32
    })
}
