//! Every parameter of a decoder with its name and shape: the one list that loading, random
//! initialisation, counting and saving follow.

use super::names::{FeedForwardNames, QkvNames};
use super::settings::{Config, Experts, NormKind};

/// How a parameter starts in a model that is initialised at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with standard deviation `initializer_range`.
    Normal,
    /// All ones (norm weights).
    Ones,
    /// All zeros (biases).
    Zeros,
}

/// One parameter: its Hugging Face name, shape and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Dimensions, outermost first; weights are (out, in), or (in, out) where the family stores them so.
    pub shape: Vec<usize>,
    /// Start of the random initialisation.
    pub init: Init,
}

impl Config {
    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.checked_parameters().unwrap_or(u64::MAX)
    }

    /// [`Config::parameters`]; none where they are more than can be addressed.
    pub(crate) fn checked_parameters(&self) -> Option<u64> {
        let sum = |specs: Vec<TensorSpec>| {
            let mut elements = specs.iter().map(TensorSpec::elements);
            elements.try_fold(0u64, |sum, elements| sum.checked_add(elements?))
        };
        let mut total = sum(self.outer_tensors())?;
        for (layer, count) in self.kinds_of_layers() {
            let layers = sum(self.layer_tensors(layer))?.checked_mul(count)?;
            total = total.checked_add(layers)?;
        }
        (total <= u64::MAX / 16).then_some(total)
    }

    /// Every parameter of the model: embedding, layers in order, final norm, head unless tied.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut outer = self.outer_tensors().into_iter();
        let mut all: Vec<TensorSpec> = outer.by_ref().take(1).collect();
        all.extend((0..self.num_hidden_layers).flat_map(|layer| self.layer_tensors(layer)));
        all.extend(outer);
        all
    }

    /// The parameter that looks up tokens.
    pub(crate) fn embedding_tensor(&self) -> TensorSpec {
        let shape = [self.vocab_size, self.hidden_size];
        TensorSpec::new(self.embedding_name(), &shape, Init::Normal)
    }

    /// The table of learned positions, if the model has one.
    pub(crate) fn positions_tensor(&self) -> Option<TensorSpec> {
        let shape = [self.max_position_embeddings, self.hidden_size];
        let name = self.names().positions?;
        Some(TensorSpec::new(name, &shape, Init::Normal))
    }

    /// The parameters that belong to no layer.
    pub(crate) fn outer_tensors(&self) -> Vec<TensorSpec> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let names = self.names();
        let mut all = vec![
            self.embedding_tensor(),
            TensorSpec::new(names.final_norm, &[hidden], self.norm_init()),
        ];
        if self.norm_bias {
            let name = names.final_norm_bias();
            all.push(TensorSpec::new(&name, &[hidden], Init::Zeros));
        }
        all.extend(self.positions_tensor());
        if !self.tie_word_embeddings {
            all.push(TensorSpec::new(names.head, &[vocab, hidden], Init::Normal));
        }
        all
    }

    /// A layer of each kind, as far as parameters go, with the number of its kind.
    pub(crate) fn kinds_of_layers(&self) -> Vec<(usize, u64)> {
        let mut kinds: Vec<(usize, u64)> = Vec::new();
        for (layer, experts) in self.experts.iter().enumerate() {
            let mut known = kinds.iter_mut();
            match known.find(|(known, _)| self.experts[*known] == *experts) {
                Some((_, count)) => *count += 1,
                None => kinds.push((layer, 1)),
            }
        }
        kinds
    }

    fn norm_init(&self) -> Init {
        match self.norm {
            NormKind::RmsPlusOne => Init::Zeros,
            NormKind::Rms | NormKind::Layer => Init::Ones,
        }
    }

    /// The parameters of one layer.
    pub(crate) fn layer_tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let mut list = LayerList {
            prefix: format!("{}{layer}.", self.names().layers),
            norm: self.norm_init(),
            transposed: self.names().transposed,
            all: Vec::with_capacity(16),
        };
        self.list_attention(&mut list);
        self.list_feed_forward(layer, &mut list);
        self.list_norms(&mut list);
        list.all
    }

    fn list_attention(&self, list: &mut LayerList) {
        let (hidden, names) = (self.hidden_size, self.names());
        let query = self.num_attention_heads.saturating_mul(self.head_dim);
        let key = self.num_key_value_heads.saturating_mul(self.head_dim);
        match &names.qkv {
            QkvNames::Separate([q, k, v]) => {
                list.linear(q, [query, hidden], self.qkv_bias);
                list.linear(k, [key, hidden], self.qkv_bias);
                list.linear(v, [key, hidden], self.qkv_bias);
            }
            QkvNames::Joined(name) | QkvNames::Grouped(name) => {
                let joined = key.saturating_mul(2).saturating_add(query);
                list.linear(name, [joined, hidden], self.qkv_bias);
            }
        }
        list.linear(names.output, [hidden, query], self.output_bias);
    }

    fn list_feed_forward(&self, layer: usize, list: &mut LayerList) {
        let (hidden, inner, bias) = (self.hidden_size, self.intermediate_size, self.mlp_bias);
        match &self.names().feed_forward {
            FeedForwardNames::Gated(names) => list.gated(*names, [inner, hidden], bias),
            FeedForwardNames::Joined([gate_up, down]) => {
                list.linear(gate_up, [inner.saturating_mul(2), hidden], bias);
                list.linear(down, [hidden, inner], bias);
            }
            FeedForwardNames::Plain([up, down]) => {
                list.linear(up, [inner, hidden], bias);
                list.linear(down, [hidden, inner], bias);
            }
            FeedForwardNames::Experts {
                router,
                experts,
                gated,
                dense,
            } => {
                let Some(Experts { count, width, .. }) = self.experts[layer] else {
                    return list.gated(*dense, [inner, hidden], bias);
                };
                list.linear(router, [count, hidden], false);
                for expert in 0..count {
                    let names = gated.map(|part| format!("{experts}{expert}.{part}"));
                    list.gated(names.each_ref().map(String::as_str), [width, hidden], bias);
                }
            }
        }
    }

    fn list_norms(&self, list: &mut LayerList) {
        let names = self.names();
        let after = [names.attention_norm, names.feed_forward_norm];
        let before = [names.input_norm, names.middle_norm];
        for name in before.into_iter().chain(after.into_iter().flatten()) {
            list.norm(name, self.hidden_size, self.norm_bias);
        }
        if self.qk_norm {
            for name in names.head_norms {
                list.norm(name, self.head_dim, false);
            }
        }
    }
}

/// The parameters of a layer, as they are listed.
struct LayerList {
    /// What is before the names of the layer's parts.
    prefix: String,
    /// Start of the norms' weights.
    norm: Init,
    /// Whether weights are (in, out).
    transposed: bool,
    all: Vec<TensorSpec>,
}

impl LayerList {
    /// The weight of a projection to `out` from `inner` numbers, and a bias where there is one.
    fn linear(&mut self, name: &str, [out, inner]: [usize; 2], bias: bool) {
        let shape = match self.transposed {
            true => [inner, out],
            false => [out, inner],
        };
        self.push(name, "weight", &shape, Init::Normal);
        if bias {
            self.push(name, "bias", &[out], Init::Zeros);
        }
    }

    /// Gate, up and down of a feed-forward block that is `inner` wide.
    fn gated(&mut self, [gate, up, down]: [&str; 3], [inner, hidden]: [usize; 2], bias: bool) {
        self.linear(gate, [inner, hidden], bias);
        self.linear(up, [inner, hidden], bias);
        self.linear(down, [hidden, inner], bias);
    }

    fn norm(&mut self, name: &str, width: usize, bias: bool) {
        self.push(name, "weight", &[width], self.norm);
        if bias {
            self.push(name, "bias", &[width], Init::Zeros);
        }
    }

    fn push(&mut self, part: &str, kind: &str, shape: &[usize], init: Init) {
        let name = format!("{}{part}.{kind}", self.prefix);
        self.all.push(TensorSpec::new(&name, shape, init));
    }
}

impl TensorSpec {
    fn new(name: &str, shape: &[usize], init: Init) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            init,
        }
    }

    /// Product of the dimensions, if it fits.
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))
    }
}
