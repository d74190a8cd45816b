//! What an adapter has for a tensor of the model.

/// How A and B make up the update of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// B A, for a projection stored as out × in.
    Linear,
    /// (B A)ᵀ, for a projection stored as in × out.
    Transposed,
    /// (B A)ᵀ, for an embedding: B is columns × rank, A is rank × rows.
    Embedding,
    /// A vector that is added to a bias.
    Bias,
    /// A product for each of so many experts, whose matrices are out × in.
    Experts(usize),
    /// The same for matrices that are in × out.
    TransposedExperts(usize),
    /// That of one of them, whose matrix is all of the rows of its product, or a half of them.
    Expert {
        expert: usize,
        experts: usize,
        halves: usize,
        second: bool,
    },
}

impl Kind {
    /// Whether the weight is stored as the transpose of B A.
    pub fn flips(self) -> bool {
        matches!(self, Kind::Transposed | Kind::Embedding)
    }
}

/// The tensors that update one of the model's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parts {
    /// How they do.
    pub kind: Kind,
    pub a: Option<String>,
    pub b: Option<String>,
    pub magnitude: Option<String>,
    /// Rows of A.
    pub rank: usize,
    /// The factor of B A.
    pub scale: f64,
}

impl Parts {
    pub fn new(kind: Kind, rank: usize, scale: f64) -> Self {
        Self {
            kind,
            a: None,
            b: None,
            magnitude: None,
            rank,
            scale,
        }
    }

    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        let all = [&self.a, &self.b, &self.magnitude];
        all.into_iter().flatten().map(String::as_str)
    }
}

/// Rows in place of those of some tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenRows {
    /// The adapter's tensor: tokens × columns.
    pub tensor: String,
    /// The token of each row.
    pub ids: Vec<u32>,
}
