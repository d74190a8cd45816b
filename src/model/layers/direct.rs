//! A layer forward and back without candle's graph, for training in f32 on the CPU.
//!
//! The graph's backward makes zeros for every tensor of a layer and adds each gradient to them in a
//! third one, all of it on one thread. Here gradients are computed where they belong and by all
//! threads, with the same kernels.

use candle_core::{DType, Result, Tensor};

use super::feed_forward::{FeedForward, Gated};
use super::layer::Layer;
use super::linear::Linear;
use super::norm::Norm;
use super::positions::Rotary;
use super::qkv::Qkv;
use crate::model::causal::Causal;
use crate::model::config::{Activation, Config, NormKind};
use crate::model::ops::{self, Sums};

/// A layer of the common kind: RMS norms before attention and a SwiGLU, separate projections.
pub(crate) struct Direct<'a> {
    config: &'a Config,
    window: Option<usize>,
    scale: f64,
    input_norm: &'a Norm,
    qkv: &'a [Linear; 3],
    output: &'a Linear,
    middle_norm: &'a Norm,
    feed_forward: &'a Gated,
}

/// What the backward of a layer needs; (rows, ..) but for `heads`, none with a graph.
pub(crate) struct Kept {
    x: Tensor,
    normed: Tensor,
    /// Queries and keys, rotated, and values: (batch, heads, len, d).
    heads: [Tensor; 3],
    mixed: Tensor,
    middle: Tensor,
    middle_normed: Tensor,
    gate: Tensor,
    up: Tensor,
    inner: Tensor,
}

impl Layer {
    /// The layer, if it is of the common kind.
    pub fn direct<'a>(&'a self, config: &'a Config) -> Option<Direct<'a>> {
        let (Qkv::Separate(qkv), FeedForward::Gated(feed_forward)) =
            (&self.qkv, &self.feed_forward)
        else {
            return None;
        };
        let more = [&self.attention_norm, &self.feed_forward_norm];
        let Gated { gate, up, down } = feed_forward;
        let common = more.iter().all(|norm| norm.is_none())
            && self.query_norm.is_none()
            && self.key_norm.is_none()
            && config.activation == Activation::Silu
            && config.qkv_clip.is_none()
            && config.rope.is_some()
            && !config.parallel
            && [&self.input_norm, &self.middle_norm]
                .iter()
                .all(|norm| is_plain(norm))
            && (qkv.iter().chain([&self.output, gate, up, down])).all(|linear| {
                linear.adapter.is_none() && !linear.transposed && is_f32(&linear.weight)
            });
        common.then_some(Direct {
            config,
            window: self.window,
            scale: self.scale,
            input_norm: &self.input_norm,
            qkv,
            output: &self.output,
            middle_norm: &self.middle_norm,
            feed_forward,
        })
    }
}

fn is_f32(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu()
}

/// Whether [`norm_backward`] is the gradient of `norm`.
pub(crate) fn is_plain(norm: &Norm) -> bool {
    norm.kind == NormKind::Rms && norm.bias.is_none() && is_f32(&norm.weight)
}

/// The gradient of `x`, given that of its norm; that of the weight is added to `sums`.
pub(crate) fn norm_backward(
    norm: &Norm,
    x: &Tensor,
    grad: &Tensor,
    sums: &mut Sums,
) -> Result<Tensor> {
    let (dx, dweight) = ops::rms_norm_backward(x, &norm.weight, grad, norm.eps as f32)?;
    sums.add(&norm.weight, dweight)?;
    Ok(dx)
}

impl Norm {
    fn detached(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight.detach(), self.eps)
    }
}

impl Linear {
    fn detached(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight.detach())?;
        if let Some(bias) = &self.bias {
            ops::add_bias(&y, bias)?;
        }
        Ok(y)
    }

    /// Adds the gradients of weight and bias to `sums`, given that of the result.
    fn collect(&self, x: &Tensor, grad: &Tensor, sums: &mut Sums) -> Result<()> {
        sums.add_linear(&self.weight, x, grad)?;
        match &self.bias {
            Some(bias) => sums.add_bias(bias, grad),
            None => Ok(()),
        }
    }

    /// [`Linear::collect`], and the gradient of `x`.
    fn backward(&self, x: &Tensor, grad: &Tensor, sums: &mut Sums) -> Result<Tensor> {
        self.collect(x, grad, sums)?;
        ops::multiply(grad, &self.weight)
    }
}

impl Direct<'_> {
    /// Whether a parameter is trained.
    pub fn is_trained(&self) -> bool {
        let Gated { gate, up, down } = self.feed_forward;
        let mut linears = self.qkv.iter().chain([self.output, gate, up, down]);
        let mut norms = [self.input_norm, self.middle_norm].into_iter();
        let trained = |tensor: &Tensor| tensor.track_op();
        norms.any(|norm| trained(&norm.weight))
            || linears
                .any(|linear| trained(&linear.weight) || linear.bias.as_ref().is_some_and(trained))
    }

    fn causal(&self, rotary: &Rotary) -> Causal {
        Causal {
            offset: rotary.offset,
            window: self.window,
            starts: rotary.starts.clone(),
            softcap: self.config.attention_softcap,
            slopes: rotary.slopes.clone(),
            ..Causal::new(self.scale)
        }
    }

    /// `x` (batch · len, hidden), without a graph, to the same shape.
    pub fn forward(&self, x: &Tensor, rotary: &Rotary) -> Result<(Tensor, Kept)> {
        let c = self.config;
        let (counts, d) = (
            [
                c.num_attention_heads,
                c.num_key_value_heads,
                c.num_key_value_heads,
            ],
            c.head_dim,
        );
        let (rows, len) = (x.dim(0)?, rotary.len);
        let batch = rows / len.max(1);
        let normed = self.input_norm.detached(x)?;
        let split = |place: usize| {
            let y = self.qkv[place].detached(&normed)?;
            let y = y.reshape((batch, len, counts[place], d))?;
            match (rotary.of(self.window), place) {
                (Some((cos, sin)), 0 | 1) => ops::rotate_heads(&y, cos, sin),
                _ => y.transpose(1, 2),
            }
        };
        let heads = [split(0)?, split(1)?, split(2)?];
        let [query, key, value] = &heads;
        let mixed = ops::attention(query, key, value, &self.causal(rotary))?;
        let mixed = mixed.reshape((rows, counts[0] * d))?;
        let middle = self.output.detached(&mixed)?;
        ops::add_in_place(&middle, x)?;
        let middle_normed = self.middle_norm.detached(&middle)?;
        let Gated { gate, up, down } = self.feed_forward;
        let (gate, up) = (gate.detached(&middle_normed)?, up.detached(&middle_normed)?);
        let inner = ops::gated(&gate, &up, c.activation)?;
        let out = down.detached(&inner)?;
        ops::add_in_place(&out, &middle)?;
        let kept = Kept {
            x: x.clone(),
            normed,
            heads,
            mixed,
            middle,
            middle_normed,
            gate,
            up,
            inner,
        };
        Ok((out, kept))
    }

    /// The gradient of the layer's input, given `grad`, that of its output, which is overwritten.
    /// Those of its parameters are added to `sums`.
    pub fn backward(
        &self,
        kept: Kept,
        rotary: &Rotary,
        grad: Tensor,
        sums: &mut Sums,
    ) -> Result<Tensor> {
        let Gated { gate, up, down } = self.feed_forward;
        let dinner = down.backward(&kept.inner, &grad, sums)?;
        let (dgate, dup) = ops::swiglu_backward(&kept.gate, &kept.up, &dinner)?;
        let dnormed = gate.backward(&kept.middle_normed, &dgate, sums)?;
        up.collect(&kept.middle_normed, &dup, sums)?;
        ops::add_multiplied(&dnormed, &dup, &up.weight)?;
        let dmiddle = norm_backward(self.middle_norm, &kept.middle, &dnormed, sums)?;
        ops::add_in_place(&grad, &dmiddle)?;

        let dmixed = self.output.backward(&kept.mixed, &grad, sums)?;
        let dnormed = self.attention_backward(&kept, rotary, &dmixed, sums)?;
        let dx = norm_backward(self.input_norm, &kept.x, &dnormed, sums)?;
        ops::add_in_place(&grad, &dx)?;
        Ok(grad)
    }

    /// The gradient of the normed input, given that of what attention mixes.
    fn attention_backward(
        &self,
        kept: &Kept,
        rotary: &Rotary,
        grad: &Tensor,
        sums: &mut Sums,
    ) -> Result<Tensor> {
        let (heads, d) = (self.config.num_attention_heads, self.config.head_dim);
        let (rows, len) = (grad.dim(0)?, rotary.len);
        let grad = grad.reshape((rows / len.max(1), len, heads, d))?;
        let args = kept.heads.each_ref();
        let [query, key, value] = ops::attention_backward(args, &self.causal(rotary), &grad)?;
        let joined = |grad: Tensor, rotated: bool| {
            let grad = match (rotary.of(self.window), rotated) {
                (Some((cos, sin)), true) => ops::rotate_heads_backward(&grad, cos, sin)?,
                _ => grad.transpose(1, 2)?.contiguous()?,
            };
            let width = grad.elem_count() / rows.max(1);
            grad.reshape((rows, width))
        };
        let [of_query, of_key, of_value] = self.qkv;
        let dnormed = of_query.backward(&kept.normed, &joined(query, true)?, sums)?;
        for (linear, grad) in [
            (of_key, joined(key, true)?),
            (of_value, joined(value, false)?),
        ] {
            linear.collect(&kept.normed, &grad, sums)?;
            ops::add_multiplied(&dnormed, &grad, &linear.weight)?;
        }
        Ok(dnormed)
    }
}
