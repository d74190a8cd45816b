//! Who sees whom in causal attention.

use candle_core::{Result, Tensor, bail};

/// Who sees whom, and what becomes of a score before the softmax.
///
/// score = cap · tanh(scale · q·k / cap) + slope · (key position − query position)
#[derive(Clone, Debug)]
pub(crate) struct Causal {
    /// Factor on the scores.
    pub scale: f64,
    /// Position of the first query; keys are positions `0..offset + len`.
    pub offset: usize,
    /// How many keys, its own included, a query sees; `None` is all.
    pub window: Option<usize>,
    /// Limit that scores approach but never reach (Gemma 2); `None` leaves them as they are.
    pub softcap: Option<f64>,
    /// One slope for each query head, f32 (heads): a penalty on distance (ALiBi).
    pub slopes: Option<Tensor>,
    /// The first key that each query sees, u32 (batch, len), where rows hold several samples.
    pub starts: Option<Tensor>,
}

impl Causal {
    /// All earlier positions, `scale` times query·key, and nothing else.
    pub fn new(scale: f64) -> Self {
        Self {
            scale,
            offset: 0,
            window: None,
            softcap: None,
            slopes: None,
            starts: None,
        }
    }
}

/// Sizes of the arguments of attention, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub groups: usize,
    /// Queries.
    pub len: usize,
    /// Keys.
    pub positions: usize,
    /// Width of a head.
    pub d: usize,
}

impl Sizes {
    pub fn new(query: &Tensor, key: &Tensor, value: &Tensor, causal: &Causal) -> Result<Self> {
        let (batch, heads, len, d) = query.dims4()?;
        let (_, groups, positions, _) = key.dims4()?;
        let fits = key.dims() == [batch, groups, positions, d]
            && value.dims() == key.dims()
            && groups > 0
            && heads % groups == 0
            && positions == causal.offset + len;
        let shape = |tensor: &Option<Tensor>, dims: &[usize]| {
            tensor.as_ref().is_none_or(|tensor| tensor.dims() == dims)
        };
        if !fits || !shape(&causal.slopes, &[heads]) || !shape(&causal.starts, &[batch, len]) {
            bail!(
                "attention of {:?} to {:?} and {:?} with {causal:?}",
                query.shape(),
                key.shape(),
                value.shape()
            );
        }
        Ok(Self {
            batch,
            heads,
            groups,
            len,
            positions,
            d,
        })
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.groups
    }
}
