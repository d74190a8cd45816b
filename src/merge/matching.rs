//! Which tensors of which models become which output tensor, checked over all models.

use std::collections::HashSet;
use std::sync::Arc;

use super::config::{MergeConfig, Scalar, Setting, Settings, Slice};
use super::inputs::{HEAD, Model};
use super::kernels::Values;
use super::methods::{Base, DefaultValue, Family, Method};
use super::shapes::{check_shapes, place_rows};
use super::vocabulary::{Placement, Vocabulary};
use crate::error::{Error, Result};
use crate::tensors::{Dtype, layer};

/// One output tensor.
#[derive(Clone, Debug)]
pub(super) struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its dtype.
    pub dtype: Dtype,
    /// The dtype that mergekit would compute in.
    pub compute_dtype: Dtype,
    /// The base's number and tensor, where the method has a base.
    pub base: Option<(usize, String)>,
    /// The models' numbers and tensors.
    pub models: Vec<(usize, String)>,
    /// Parameters for all models.
    pub values: Values,
    /// Parameters of each model.
    pub per_model: Vec<Values>,
    /// Copied from the first model as it is (a tensor of integers).
    pub copy: bool,
    /// How the rows of the base and the models are rearranged, where they are.
    pub placement: Option<Arc<Placement>>,
}

impl TensorPlan {
    /// The numbers and tensors of the base, if there is one, and of the models.
    pub fn inputs(&self) -> impl Iterator<Item = &(usize, String)> {
        self.base.iter().chain(&self.models)
    }
}

/// The output's tensors and what else follows from the slices.
pub(super) struct Matched {
    /// In the order in which they are written.
    pub tensors: Vec<TensorPlan>,
    /// The model whose config and tokenizer the output has by default.
    pub reference: usize,
    /// For each output layer the reference's layer; empty where the layers are unchanged.
    pub layers: Vec<usize>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Whether a tensor outside the layers comes before them.
fn is_before_layers(name: &str) -> bool {
    ["embed", "wte", "wpe"]
        .iter()
        .any(|part| name.contains(part))
}

fn number_of(models: &[Model], name: &str) -> Result<usize> {
    models
        .iter()
        .position(|model| model.name == name)
        .ok_or_else(|| Error::usage(format!("model `{name}` was not opened")))
}

/// A slice with everything looked up.
struct Prepared<'a> {
    slice: &'a Slice,
    base: Option<usize>,
    /// (model, first layer) of the sources besides the base.
    models: Vec<(usize, usize)>,
    base_first: usize,
    reference: usize,
    reference_first: usize,
    layers: usize,
}

fn prepare<'a>(config: &MergeConfig, models: &[Model], slice: &'a Slice) -> Result<Prepared<'a>> {
    let method = config.method;
    let base_name = match method.base {
        Base::Listed => None,
        _ => slice.base_model.as_ref().or(config.base_model.as_ref()),
    };
    let base = base_name.map(|name| number_of(models, name)).transpose()?;
    let mut layers = None;
    let mut prepared = Vec::new();
    let mut base_first = None;
    for source in &slice.sources {
        let number = number_of(models, &source.model)?;
        let has = models[number].layers();
        let (first, end) = source.layers.unwrap_or((0, has));
        if end > has {
            return Err(Error::usage(format!(
                "`layer_range: [{first}, {end}]` of model `{}`, which has {has} layers",
                source.model
            )));
        }
        match layers {
            None => layers = Some(end - first),
            Some(layers) if layers != end - first => {
                return Err(Error::usage(format!(
                    "model `{}` brings {} layers, the models before it {layers}",
                    source.model,
                    end - first
                )));
            }
            Some(_) => {}
        }
        if Some(number) == base {
            base_first = Some(first);
        } else {
            prepared.push((number, first));
        }
    }
    let layers = layers.unwrap_or(0);
    if let (Some(base), None) = (base, base_first) {
        let has = models[base].layers();
        if slice.sources.iter().any(|source| source.layers.is_some()) {
            return Err(Error::usage(format!(
                "a slice lacks the base model `{}`",
                models[base].name
            ))
            .remedy("list it in `sources` with its `layer_range`"));
        }
        if has != layers {
            return Err(Error::usage(format!(
                "base model `{}` has {has} layers, the models have {layers}",
                models[base].name
            )));
        }
    }
    let (reference, reference_first) = match base {
        Some(base) => (base, base_first.unwrap_or(0)),
        None => prepared[0],
    };
    Ok(Prepared {
        slice,
        base,
        models: prepared,
        base_first: base_first.unwrap_or(0),
        reference,
        reference_first,
        layers,
    })
}

/// The model whose config and tokenizer the output has by default.
pub(super) fn reference(config: &MergeConfig, models: &[Model]) -> Result<usize> {
    match config.slices.first() {
        Some(slice) => Ok(prepare(config, models, slice)?.reference),
        None => Err(Error::usage("the merge configuration has no slice")),
    }
}

/// Pairs the tensors of all models. With a `vocabulary`, embeddings and heads are placed by token.
pub(super) fn match_tensors(
    config: &MergeConfig,
    models: &[Model],
    vocabulary: Option<&Vocabulary<'_>>,
) -> Result<Matched> {
    let slices: Vec<Prepared<'_>> = config
        .slices
        .iter()
        .map(|slice| prepare(config, models, slice))
        .collect::<Result<_>>()?;
    let (Some(first), Some(last)) = (slices.first(), slices.last()) else {
        return Err(Error::usage("the merge configuration has no slice"));
    };
    same_architecture(models)?;
    let reference = &models[first.reference];
    let mut tensors = Vec::new();
    let mut notes = Vec::new();

    let outside = |slice: &Prepared<'_>, before: bool| -> Vec<String> {
        let tensors = models[slice.reference].checkpoint.tensors();
        tensors
            .filter(|t| layer(&t.name).is_none() && is_before_layers(&t.name) == before)
            .filter(|t| !models[slice.reference].ignores(&t.name))
            .map(|t| t.name.clone())
            .collect()
    };
    let mut push = |slice: &Prepared<'_>, name: String, at: Option<(usize, &str, &str)>, t: f64| {
        let mut planned = plan_tensor(config, models, slice, name, at, t)?;
        if let Some(vocabulary) = vocabulary {
            let base = slice
                .slice
                .base_model
                .as_ref()
                .or(config.base_model.as_ref());
            let base = base.map(|name| number_of(models, name)).transpose()?;
            place_rows(&mut planned, base, models, vocabulary, &tensors)?;
        }
        check_shapes(&planned, models)?;
        tensors.push(planned);
        Result::Ok(())
    };
    for name in outside(first, true) {
        push(first, name, None, 0.0)?;
    }
    let mut output_layer = 0;
    let mut source_layers = Vec::new();
    for slice in &slices {
        let checkpoint = &models[slice.reference].checkpoint;
        for index in 0..slice.layers {
            let t = match slice.layers {
                1 => 1.0,
                layers => index as f64 / (layers - 1) as f64,
            };
            let wanted = slice.reference_first + index;
            source_layers.push(wanted);
            let mut found = false;
            for tensor in checkpoint.tensors() {
                if let Some((prefix, number, suffix)) = layer(&tensor.name)
                    && number == wanted
                    && !models[slice.reference].ignores(&tensor.name)
                {
                    let name = format!("{prefix}{output_layer}{suffix}");
                    push(slice, name, Some((index, prefix, suffix)), t)?;
                    found = true;
                }
            }
            if !found {
                return Err(Error::file(
                    checkpoint.dir(),
                    format!(
                        "layer {wanted} has no tensors, config.json promises {}",
                        slice.layers
                    ),
                ));
            }
            output_layer += 1;
        }
    }
    for name in outside(last, false) {
        push(last, name, None, 0.0)?;
    }
    let used: HashSet<(usize, String)> = tensors
        .iter()
        .flat_map(|t: &TensorPlan| t.base.iter().chain(&t.models).cloned())
        .collect();
    no_extras(models, &slices, &used)?;
    if reference.ties_embeddings() && reference.checkpoint.info(HEAD).is_some() {
        notes.push(format!(
            "`{HEAD}` is tied to the embedding and is not written"
        ));
    }
    notes.extend(models.iter().filter_map(quantised));
    let unchanged = source_layers.iter().enumerate().all(|(i, l)| i == *l)
        && output_layer == reference.layers();
    Ok(Matched {
        tensors,
        reference: first.reference,
        layers: if unchanged { Vec::new() } else { source_layers },
        notes,
    })
}

/// What is said about a model with 8-bit weights.
fn quantised(model: &Model) -> Option<String> {
    let f8 = |dtype: Dtype| dtype.is_f8();
    let count = model.checkpoint.tensors().filter(|t| f8(t.dtype)).count();
    if count == 0 {
        return None;
    }
    let scaled = model.scales.len();
    let mut note = format!(
        "{count} tensors of `{}` are 8-bit floats ({scaled} with scales): they are merged as the \
         numbers they stand for, and the result is \
         not quantised (`quantization_config` is left out of config.json)",
        model.name
    );
    match model.scales.others() {
        0 => {}
        others => note += &format!("; {others} scales of activations or caches are left out"),
    }
    Some(note)
}

fn plan_tensor(
    config: &MergeConfig,
    models: &[Model],
    slice: &Prepared<'_>,
    name: String,
    at: Option<(usize, &str, &str)>,
    t: f64,
) -> Result<TensorPlan> {
    let source = |number: usize, first: usize| -> Result<(usize, String)> {
        let wanted = match at {
            None => name.clone(),
            Some((index, prefix, suffix)) => format!("{prefix}{}{suffix}", first + index),
        };
        let model = &models[number];
        model
            .find(&wanted)
            .map(|found| (number, found))
            .ok_or_else(|| {
                Error::input(
                    model.dir.display(),
                    format!(
                        "tensor `{wanted}` is missing; model `{}` has it",
                        models[slice.reference].name
                    ),
                )
                .remedy("only models of one architecture can be merged")
            })
    };
    let base = slice
        .base
        .map(|base| source(base, slice.base_first))
        .transpose()?;
    let inputs = slice
        .models
        .iter()
        .map(|(number, first)| source(*number, *first))
        .collect::<Result<Vec<_>>>()?;

    // The reference is the base or, without one, the first model.
    let (expected, expected_name) = base.as_ref().unwrap_or(&inputs[0]);
    let reference = models[*expected].checkpoint.tensor(expected_name)?;
    for (number, tensor) in base.iter().chain(&inputs) {
        let model = &models[*number];
        let view = model.checkpoint.tensor(tensor)?;
        if view.dtype.is_float() != reference.dtype.is_float() {
            return Err(Error::input(
                model.dir.display(),
                format!(
                    "tensor `{tensor}` is {}, model `{}` has {}",
                    view.dtype, models[*expected].name, reference.dtype
                ),
            ));
        }
    }
    let copy = !reference.dtype.is_float();
    // What has 8 bits because it was quantised is not quantised again.
    let own = match reference.dtype.is_f8() {
        true => Dtype::BF16,
        false => reference.dtype,
    };
    let stored = config.output_dtype().unwrap_or(own);
    let method = config.method;
    let values = values(method, false, &name, t, None, slice.slice, config)?;
    let per_model = inputs
        .iter()
        .map(|(number, tensor)| {
            let model = models[*number].name.as_str();
            values_of(method, tensor, t, model, slice.slice, config)
        })
        .collect::<Result<Vec<_>>>()?;
    check_values(method, &name, &values, &per_model)?;
    Ok(TensorPlan {
        shape: reference.shape.to_vec(),
        dtype: if copy { reference.dtype } else { stored },
        compute_dtype: config.dtype.unwrap_or(own),
        copy,
        base,
        models: inputs,
        values,
        per_model,
        name,
        placement: None,
    })
}

/// The parameters of a tensor outside the layers, for all models and for each of `models`.
pub(super) fn parameters(
    config: &MergeConfig,
    tensor: &str,
    models: &[&str],
) -> Result<(Values, Vec<Values>)> {
    let slice = config
        .slices
        .first()
        .ok_or_else(|| Error::usage("the merge configuration has no slice"))?;
    let values = values(config.method, false, tensor, 0.0, None, slice, config)?;
    let per_model = models
        .iter()
        .map(|model| values_of(config.method, tensor, 0.0, model, slice, config))
        .collect::<Result<Vec<_>>>()?;
    check_values(config.method, tensor, &values, &per_model)?;
    Ok((values, per_model))
}

fn values_of(
    method: &Method,
    tensor: &str,
    t: f64,
    model: &str,
    slice: &Slice,
    config: &MergeConfig,
) -> Result<Values> {
    values(method, true, tensor, t, Some(model), slice, config)
}

/// The parameters of a tensor: at the model, then the slice, then the top.
fn values(
    method: &Method,
    per_model: bool,
    tensor: &str,
    t: f64,
    model: Option<&str>,
    slice: &Slice,
    config: &MergeConfig,
) -> Result<Values> {
    fn find<'a>(settings: &'a Settings, name: &str) -> Option<&'a Setting> {
        settings.iter().find(|(key, _)| key == name).map(|(_, s)| s)
    }
    let source = slice
        .sources
        .iter()
        .find(|s| Some(s.model.as_str()) == model);
    let levels = source
        .map(|source| &source.parameters)
        .into_iter()
        .chain([&slice.parameters, &config.parameters]);
    let mut all = Vec::new();
    for parameter in method
        .parameters
        .iter()
        .filter(|p| p.per_model == per_model)
    {
        let name = parameter.name;
        let configured = levels
            .clone()
            .find_map(|settings| find(settings, name)?.at(tensor, t));
        let value = match (configured, parameter.default) {
            (Some(value), _) => value,
            (None, DefaultValue::Number(value)) => Scalar::Number(value),
            (None, DefaultValue::Flag(value)) => Scalar::Flag(value),
            (None, DefaultValue::Word(value)) => Scalar::Word(value.to_owned()),
            (None, DefaultValue::Required) => {
                let place = match model {
                    Some(model) => format!("model `{model}`"),
                    None => format!("`{}`", method.name),
                };
                return Err(Error::usage(format!(
                    "{place} needs the parameter `{name}` (for tensor `{tensor}`)"
                ))
                .remedy("give it under `parameters`"));
            }
        };
        all.push((name, value));
    }
    Ok(Values(all))
}

/// Combinations of values that no kernel could use.
fn check_values(method: &Method, tensor: &str, values: &Values, models: &[Values]) -> Result<()> {
    if method.parameter("epsilon").is_some() {
        for values in models {
            let (density, epsilon) = (values.number("density"), values.number("epsilon"));
            let inside = density - epsilon > 0.0 && density + epsilon < 1.0;
            if density > 0.0 && density < 1.0 && !inside {
                return Err(Error::usage(format!(
                    "density {density} ± epsilon {epsilon} leaves 0..1 (tensor `{tensor}`)"
                ))
                .remedy("choose a smaller `epsilon`"));
            }
        }
    }
    let divides = match method.family {
        Family::Linear => values.flag("normalize"),
        Family::MultiSlerp => values.flag("normalize_weights") && models.len() > 1,
        _ => false,
    };
    let total: f64 = models.iter().map(|values| values.number("weight")).sum();
    if divides && total.abs() < 1e-12 {
        return Err(Error::usage(format!(
            "the weights of tensor `{tensor}` sum to zero and cannot be normalised"
        )));
    }
    Ok(())
}

/// Fails where the models' architectures differ.
fn same_architecture(models: &[Model]) -> Result<()> {
    let Some((first, others)) = models.split_first() else {
        return Ok(());
    };
    for model in others {
        for key in ["architectures", "model_type"] {
            let (a, b) = (first.config.get(key), model.config.get(key));
            if let (Some(a), Some(b)) = (a, b)
                && a != b
            {
                let path = model.dir.join("config.json");
                return Err(Error::file(
                    &path,
                    format!("`{key}` is {b}, model `{}` has {a}", first.name),
                )
                .remedy("only models of one architecture can be merged"));
            }
        }
    }
    Ok(())
}

/// Fails where a model has tensors that no output tensor uses.
fn no_extras(
    models: &[Model],
    slices: &[Prepared<'_>],
    used: &HashSet<(usize, String)>,
) -> Result<()> {
    // With layer ranges, tensors outside the ranges are left out on purpose.
    if slices
        .iter()
        .any(|s| s.slice.sources.iter().any(|source| source.layers.is_some()))
    {
        return Ok(());
    }
    for (number, model) in models.iter().enumerate() {
        for tensor in model.checkpoint.tensors() {
            let name = &tensor.name;
            if !used.contains(&(number, name.clone())) && !model.ignores(name) {
                let takes_part = slices.iter().any(|slice| {
                    slice.base == Some(number) || slice.models.iter().any(|(m, _)| *m == number)
                });
                if takes_part {
                    return Err(Error::input(
                        model.dir.display(),
                        format!("tensor `{name}` is in model `{}` only", model.name),
                    )
                    .remedy("only models of one architecture can be merged"));
                }
            }
        }
    }
    Ok(())
}
