//! The decoder from elementary differentiable operations only, in the parameters' dtype.
//!
//! Joined matrices are cut into one for each projection, so that all families run the same steps.
//! Names are those of the family; `layouts` spells them out.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};

use crate::model::config::{
    Activation, Config, Experts, FeedForwardNames, Names, NormKind, QkvNames, Rope,
};

type Params = BTreeMap<String, Tensor>;

/// Logits (batch · len, vocab) of `ids` (batch, len).
pub(super) fn logits(c: &Config, params: &Params, ids: &Tensor) -> Tensor {
    let (batch, len) = ids.dims2().unwrap();
    let mut x = params[c.embedding_name()]
        .index_select(&ids.flatten_all().unwrap(), 0)
        .unwrap();
    x = (x * c.embedding_scale).unwrap();
    if let Some(table) = c.names().positions {
        let rows = params[table].narrow(0, 0, len).unwrap();
        x = (x + Tensor::cat(&vec![rows; batch], 0).unwrap()).unwrap();
    }
    for index in 0..c.num_hidden_layers {
        let layer = Layer {
            c,
            params,
            names: c.names(),
            experts: c.experts[index],
            scale: c.attention_scale_of(index),
            prefix: format!("{}{index}.", c.names().layers),
        };
        let y = layer.attention(&layer.norm(&x, 0), (batch, len), c.windows[index]);
        let sum = (&x + layer.after(y, c.names().attention_norm)).unwrap();
        let y = layer.feed_forward(&layer.norm(if c.parallel { &x } else { &sum }, 1));
        x = (sum + layer.after(y, c.names().feed_forward_norm)).unwrap();
    }
    let bias = params.get(&c.names().final_norm_bias());
    let x = norm(c, &x, &params[c.names().final_norm], bias);
    cap(matmul(&x, &params[c.head_name()]), c.final_softcap)
}

fn matmul(x: &Tensor, weight: &Tensor) -> Tensor {
    x.matmul(&weight.t().unwrap()).unwrap()
}

fn cap(x: Tensor, cap: Option<f64>) -> Tensor {
    match cap {
        Some(cap) => ((x / cap).unwrap().tanh().unwrap() * cap).unwrap(),
        None => x,
    }
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let root = (mean + eps).unwrap().sqrt().unwrap();
    let x = x.broadcast_div(&root).unwrap();
    x.broadcast_mul(weight).unwrap()
}

fn norm(c: &Config, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    match c.norm {
        NormKind::Rms => rms_norm(x, weight, c.norm_eps),
        NormKind::RmsPlusOne => rms_norm(x, &(weight + 1.0).unwrap(), c.norm_eps),
        NormKind::Layer => {
            let mean = x.mean_keepdim(D::Minus1).unwrap();
            let x = x.broadcast_sub(&mean).unwrap();
            let variance = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let root = (variance + c.norm_eps).unwrap().sqrt().unwrap();
            let x = x.broadcast_div(&root).unwrap();
            let x = x.broadcast_mul(weight).unwrap();
            match bias {
                Some(bias) => x.broadcast_add(bias).unwrap(),
                None => x,
            }
        }
    }
}

struct Layer<'a> {
    c: &'a Config,
    params: &'a Params,
    names: &'a Names,
    experts: Option<Experts>,
    scale: f64,
    prefix: String,
}

impl Layer<'_> {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.params.get(&format!("{}{name}", self.prefix))
    }

    fn get(&self, name: &str) -> &Tensor {
        let found = self.find(&format!("{name}.weight"));
        found.unwrap_or_else(|| panic!("{name}"))
    }

    /// The norm before the attention (0) or the feed-forward block (1).
    fn norm(&self, x: &Tensor, place: usize) -> Tensor {
        let names = [self.names.input_norm, self.names.middle_norm];
        let bias = self.find(&format!("{}.bias", names[place]));
        norm(self.c, x, self.get(names[place]), bias)
    }

    /// What Gemma 2 does to the output of a block.
    fn after(&self, y: Tensor, name: Option<&str>) -> Tensor {
        match name {
            Some(name) => norm(self.c, &y, self.get(name), None),
            None => y,
        }
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let y = matmul(x, &self.matrix(name));
        match self.find(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias).unwrap(),
            None => y,
        }
    }

    /// A weight as (out, in).
    fn matrix(&self, name: &str) -> Tensor {
        match self.names.transposed {
            true => self.get(name).t().unwrap(),
            false => self.get(name).clone(),
        }
    }

    /// Weights and biases of queries, keys and values.
    fn qkv(&self) -> [(Tensor, Option<Tensor>); 3] {
        let c = self.c;
        let (groups, d) = (c.num_key_value_heads, c.head_dim);
        let share = c.num_attention_heads / groups;
        let joined = |name: &str, cut: &dyn Fn(&Tensor, usize) -> Tensor| {
            let bias = self.find(&format!("{name}.bias"));
            [0, 1, 2].map(|part| {
                let bias = bias.map(|bias| cut(bias, part));
                (cut(&self.matrix(name), part), bias)
            })
        };
        let rows = |tensor: &Tensor, part: usize| {
            let sizes = [share * groups * d, groups * d, groups * d];
            let begin = sizes[..part].iter().sum();
            tensor.narrow(0, begin, sizes[part]).unwrap()
        };
        let by_group = |tensor: &Tensor, part: usize| {
            let columns = tensor.elem_count() / tensor.dim(0).unwrap();
            let (begin, count) = [(0, share), (share, 1), (share + 1, 1)][part];
            let shape = (groups, share + 2, d, columns);
            let found = tensor.reshape(shape).unwrap().narrow(1, begin, count);
            let found = found.unwrap().contiguous().unwrap();
            match tensor.rank() {
                1 => found.flatten_all().unwrap(),
                _ => found.reshape((groups * count * d, columns)).unwrap(),
            }
        };
        match self.names.qkv {
            QkvNames::Joined(name) => joined(name, &rows),
            QkvNames::Grouped(name) => joined(name, &by_group),
            QkvNames::Separate(names) => names.map(|name| {
                let bias = self.find(&format!("{name}.bias"));
                (self.matrix(name), bias.cloned())
            }),
        }
    }

    fn attention(&self, x: &Tensor, (batch, len): (usize, usize), window: Option<usize>) -> Tensor {
        let c = self.c;
        let (heads, groups, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let split = |(weight, bias): &(Tensor, Option<Tensor>), count: usize| {
            let mut y = matmul(x, weight);
            if let Some(bias) = bias {
                y = y.broadcast_add(bias).unwrap();
            }
            if let Some(clip) = c.qkv_clip {
                y = y.clamp(-clip, clip).unwrap();
            }
            y.reshape((batch, len, count, d)).unwrap()
        };
        let turn = |y: Tensor| y.transpose(1, 2).unwrap().contiguous().unwrap();
        let head_norm = |y: Tensor, name: &str| match self.find(&format!("{name}.weight")) {
            Some(weight) => norm(c, &y, weight, None),
            None => y,
        };
        let repeat = |y: Tensor| {
            let shape = (batch, groups, heads / groups, len, d);
            let y = y.unsqueeze(2).unwrap().broadcast_as(shape).unwrap();
            let y = y.contiguous().unwrap();
            y.reshape((batch, heads, len, d)).unwrap()
        };
        let [q, k, v] = self.qkv();
        let q = head_norm(split(&q, heads), self.names.head_norms[0]);
        let k = head_norm(split(&k, groups), self.names.head_norms[1]);
        let own = window.and(c.window_rope.as_ref());
        let rope = own.or(c.rope.as_ref());
        let q = rotate(rope, &turn(q));
        let k = repeat(rotate(rope, &turn(k)));
        let v = repeat(turn(split(&v, groups)));
        let scores = q.matmul(&k.t().unwrap()).unwrap();
        let scores = cap((scores * self.scale).unwrap(), c.attention_softcap);
        let scores = scores.broadcast_add(&mask(c, len, window, x.dtype()));
        let mixed = candle_nn::ops::softmax(&scores.unwrap(), D::Minus1).unwrap();
        let mixed = turn(mixed.matmul(&v).unwrap());
        let mixed = mixed.reshape((batch * len, heads * d)).unwrap();
        self.linear(&mixed, self.names.output)
    }

    fn feed_forward(&self, x: &Tensor) -> Tensor {
        let c = self.c;
        match self.names.feed_forward {
            FeedForwardNames::Plain([up, down]) => {
                let y = activate(c, &self.linear(x, up));
                self.linear(&y, down)
            }
            FeedForwardNames::Joined([gate_up, down]) => {
                let both = self.matrix(gate_up).chunk(2, 0).unwrap();
                let gate = activate(c, &matmul(x, &both[0]));
                let inner = (gate * matmul(x, &both[1])).unwrap();
                self.linear(&inner, down)
            }
            FeedForwardNames::Gated(names) => self.gated(x, names, ""),
            FeedForwardNames::Experts {
                router,
                experts,
                gated,
                dense,
            } => match self.experts {
                None => self.gated(x, dense, ""),
                Some(shape) => self.mixture(x, shape, router, |expert| {
                    self.gated(x, gated, &format!("{experts}{expert}."))
                }),
            },
        }
    }

    fn gated(&self, x: &Tensor, names: [&str; 3], prefix: &str) -> Tensor {
        let [gate, up, down] = names.map(|name| format!("{prefix}{name}"));
        let inner = activate(self.c, &self.linear(x, &gate)) * self.linear(x, &up);
        self.linear(&inner.unwrap(), &down)
    }

    /// All experts for all tokens, with weight 0 for those not chosen: softmax over all, the
    /// largest kept and, in most families, divided by their sum.
    fn mixture(
        &self,
        x: &Tensor,
        experts: Experts,
        router: &str,
        expert: impl Fn(usize) -> Tensor,
    ) -> Tensor {
        let logits = self.linear(x, router);
        let all = candle_nn::ops::softmax(&logits, D::Minus1).unwrap();
        let wide = all.detach().to_dtype(DType::F64).unwrap();
        let chosen = wide.to_vec2::<f64>().unwrap().into_iter().flat_map(|row| {
            let larger = |p: f64| row.iter().filter(|other| **other > p).count();
            let keep = row.iter().map(|p| larger(*p) < experts.per_token);
            keep.map(f64::from).collect::<Vec<f64>>()
        });
        let chosen: Vec<f64> = chosen.collect();
        let chosen = Tensor::from_vec(chosen, all.shape(), &Device::Cpu).unwrap();
        let kept = (all * chosen.to_dtype(x.dtype()).unwrap()).unwrap();
        let weights = match experts.normalised {
            true => kept.broadcast_div(&kept.sum_keepdim(1).unwrap()).unwrap(),
            false => kept,
        };
        let mut y = x.zeros_like().unwrap();
        for index in 0..experts.count {
            let weight = weights.narrow(1, index, 1).unwrap();
            y = (y + expert(index).broadcast_mul(&weight).unwrap()).unwrap();
        }
        y
    }
}

fn activate(c: &Config, x: &Tensor) -> Tensor {
    match c.activation {
        Activation::Silu => {
            let one = (x.neg().unwrap().exp().unwrap() + 1.0).unwrap();
            (x / one).unwrap()
        }
        Activation::Gelu => x.gelu_erf().unwrap(),
        Activation::GeluTanh => x.gelu().unwrap(),
    }
}

/// `x` (batch, heads, len, d) with its first dimensions rotated.
fn rotate(rope: Option<&Rope>, x: &Tensor) -> Tensor {
    let Some(rope) = rope else {
        return x.clone();
    };
    let (_, _, len, d) = x.dims4().unwrap();
    let half = rope.dims / 2;
    let factor = f64::from(rope.attention_factor());
    let frequencies = rope.frequencies();
    let angles: Vec<f64> = (0..len)
        .flat_map(|position| {
            frequencies
                .iter()
                .map(move |f| f64::from(position as f32 * f))
        })
        .collect();
    let angles = Tensor::from_vec(angles, (len, half), &Device::Cpu).unwrap();
    let angles = angles.to_dtype(x.dtype()).unwrap();
    let cos = (angles.cos().unwrap() * factor).unwrap();
    let sin = (angles.sin().unwrap() * factor).unwrap();
    let a = x.narrow(3, 0, half).unwrap();
    let b = x.narrow(3, half, half).unwrap();
    let times = |x: &Tensor, y: &Tensor| x.broadcast_mul(y).unwrap();
    let first = (times(&a, &cos) - times(&b, &sin)).unwrap();
    let second = (times(&a, &sin) + times(&b, &cos)).unwrap();
    let mut parts = vec![first, second];
    if rope.dims < d {
        parts.push(x.narrow(3, rope.dims, d - rope.dims).unwrap());
    }
    Tensor::cat(&parts, 3).unwrap()
}

/// What is added to the scores: (heads, len, len).
fn mask(c: &Config, len: usize, window: Option<usize>, dtype: DType) -> Tensor {
    let window = window.unwrap_or(len);
    let heads = c.num_attention_heads;
    let slopes = c.alibi_slopes().unwrap_or(vec![0.0; heads]);
    let mut mask = Vec::new();
    for slope in slopes {
        for i in 0..len {
            for j in 0..len {
                let seen = j <= i && i - j < window;
                let bias = -f64::from(slope) * (i as f64 - j as f64);
                mask.push(if seen { bias } else { f64::NEG_INFINITY });
            }
        }
    }
    let mask = Tensor::from_vec(mask, (heads, len, len), &Device::Cpu).unwrap();
    mask.to_dtype(dtype).unwrap()
}
