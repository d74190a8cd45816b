//! The table of merge methods: names, papers, parameters. Validation, `--help` and the table
//! in docs/merging.md are all made from it.
//!
//! Names and meanings are mergekit's, so that its configurations work unchanged.

use crate::error::{Error, Result, did_you_mean};

/// How the entries of an update that survive are chosen, model by model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparsify {
    /// Every entry survives.
    None,
    /// The `density` share with the largest magnitudes.
    Magnitude,
    /// The `density` share left after the `gamma` share with the largest magnitudes is dropped.
    Outliers,
    /// Each entry with probability `density`.
    Random,
    /// Each entry with a probability within `density` ± `epsilon` that grows with the rank of its
    /// magnitude in its row.
    RankedRandom,
}

/// The kernel that a method runs on, with what distinguishes methods that share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Family {
    Linear,
    /// Weighted sums of (sparsified) updates; the defaults of `normalize` and `rescale`.
    TaskArithmetic {
        sparsify: Sparsify,
        consensus: bool,
    },
    Sce,
    Varm,
    Slerp,
    NuSlerp,
    MultiSlerp,
    Karcher,
    ModelStock,
    NearSwap,
    ArceeFusion,
    Passthrough,
}

/// What a method does with `base_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// It must be given.
    Required,
    /// It may be given.
    Optional,
    /// It is one model among the others, if it is listed.
    Listed,
}

/// The values that a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number in a closed interval.
    Number(f64, f64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A parameter's default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DefaultValue {
    /// It must be given for every model (the base model excepted).
    Required,
    /// This number.
    Number(f64),
    /// This flag.
    Flag(bool),
    /// This word.
    Word(&'static str),
}

/// One parameter of a method.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its key under `parameters`.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// What holds where it is not given.
    pub default: DefaultValue,
    /// Whether each model has its own; else it is one for all.
    pub per_model: bool,
    /// What it does, in one line.
    pub doc: &'static str,
}

/// One merge method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name: `merge_method`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// The kernel it runs on.
    pub family: Family,
    /// What it does with `base_model`.
    pub base: Base,
    /// Fewest and most models, the base model not counted where it is a base.
    pub models: (usize, usize),
    /// Its parameters.
    pub parameters: &'static [Parameter],
}

const MANY: usize = usize::MAX;
const ANY: Kind = Kind::Number(f64::MIN, f64::MAX);

const fn number(name: &'static str, kind: Kind, default: f64, doc: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        default: DefaultValue::Number(default),
        per_model: false,
        doc,
    }
}

const fn flag(name: &'static str, default: bool, doc: &'static str) -> Parameter {
    Parameter {
        name,
        kind: Kind::Flag,
        default: DefaultValue::Flag(default),
        per_model: false,
        doc,
    }
}

const WEIGHT: Parameter = Parameter {
    name: "weight",
    kind: ANY,
    default: DefaultValue::Required,
    per_model: true,
    doc: "the model's weight",
};
const DENSITY: Parameter = Parameter {
    per_model: true,
    ..number(
        "density",
        Kind::Number(0.0, 1.0),
        1.0,
        "share of the update's entries that survive",
    )
};
const GAMMA: Parameter = Parameter {
    per_model: true,
    ..number(
        "gamma",
        Kind::Number(0.0, 1.0),
        0.01,
        "share of the largest entries that are dropped first",
    )
};
const EPSILON: Parameter = Parameter {
    per_model: true,
    ..number(
        "epsilon",
        Kind::Number(0.0, 1.0),
        0.15,
        "half the width of the range of survival probabilities; density ± epsilon stays in (0, 1)",
    )
};
const LAMBDA: Parameter = number("lambda", ANY, 1.0, "factor of the summed update");
const SUM_TO_ONE: Parameter = flag("normalize", true, "divide by the sum of the weights");
const NORMALIZE: Parameter = flag(
    "normalize",
    true,
    "divide by the sum of the weights that survive at a position",
);
const NO_NORMALIZE: Parameter = flag(
    "normalize",
    false,
    "divide by the sum of the weights (that survive at a position)",
);
const RESCALE: Parameter = flag("rescale", true, "restore each update's L1 norm");
const NO_RESCALE: Parameter = flag("rescale", false, "restore each update's L1 norm");
const SEED: Parameter = number(
    "random_seed",
    Kind::Number(0.0, 9_007_199_254_740_992.0),
    0.0,
    "seed of the random draws, which are keyed by (seed, model, tensor, index)",
);

const TIES_PAPER: &str = "https://arxiv.org/abs/2306.01708";
const DARE_PAPER: &str = "https://arxiv.org/abs/2311.03099";
const BREADCRUMBS_PAPER: &str = "https://arxiv.org/abs/2312.06795";
const DELLA_PAPER: &str = "https://arxiv.org/abs/2406.11617";

const fn task_arithmetic(
    name: &'static str,
    summary: &'static str,
    paper: &'static str,
    sparsify: Sparsify,
    consensus: bool,
    parameters: &'static [Parameter],
) -> Method {
    Method {
        name,
        summary,
        paper,
        family: Family::TaskArithmetic {
            sparsify,
            consensus,
        },
        base: Base::Required,
        models: (1, MANY),
        parameters,
    }
}

/// Every method.
pub const METHODS: &[Method] = &[
    Method {
        name: "sce",
        summary: "select the most varied positions, weigh models by their squared updates, erase minority signs",
        paper: "https://arxiv.org/abs/2408.07990",
        family: Family::Sce,
        base: Base::Required,
        models: (1, MANY),
        parameters: &[
            number(
                "select_topk",
                Kind::Number(0.0, 1.0),
                1.0,
                "share of the positions with non-zero variance that move (the most varied ones)",
            ),
            flag(
                "normalize",
                true,
                "divide by the coefficients that survive at a position",
            ),
            Parameter {
                name: "compat",
                kind: Kind::Choice(&["none", "mergekit", "fusechat"]),
                default: DefaultValue::Word("none"),
                per_model: false,
                doc: "reproduce mergekit (uniform coefficients for small updates, rounded intermediates) or FuseChat's fork (all positions move)",
            },
        ],
    },
    Method {
        name: "varm",
        summary: "weigh models by the mean squared update of each parameter matrix",
        paper: "https://arxiv.org/abs/2402.16107",
        family: Family::Varm,
        base: Base::Required,
        models: (1, MANY),
        parameters: &[],
    },
    Method {
        name: "linear",
        summary: "weighted mean of the parameters",
        paper: "https://arxiv.org/abs/2203.05482",
        family: Family::Linear,
        base: Base::Listed,
        models: (1, MANY),
        parameters: &[WEIGHT, SUM_TO_ONE],
    },
    task_arithmetic(
        "task_arithmetic",
        "weighted sum of the updates",
        "https://arxiv.org/abs/2212.04089",
        Sparsify::None,
        false,
        &[WEIGHT, LAMBDA, NO_NORMALIZE],
    ),
    task_arithmetic(
        "ties",
        "keep each update's largest entries, then the majority sign",
        TIES_PAPER,
        Sparsify::Magnitude,
        true,
        &[WEIGHT, DENSITY, LAMBDA, NORMALIZE, NO_RESCALE],
    ),
    task_arithmetic(
        "dare_linear",
        "drop entries of the updates at random, rescale, sum",
        DARE_PAPER,
        Sparsify::Random,
        false,
        &[WEIGHT, DENSITY, LAMBDA, NO_NORMALIZE, RESCALE, SEED],
    ),
    task_arithmetic(
        "dare_ties",
        "drop entries of the updates at random, rescale, keep the majority sign",
        DARE_PAPER,
        Sparsify::Random,
        true,
        &[WEIGHT, DENSITY, LAMBDA, NO_NORMALIZE, RESCALE, SEED],
    ),
    task_arithmetic(
        "della",
        "drop entries at random by the rank of their magnitude, rescale, keep the majority sign",
        DELLA_PAPER,
        Sparsify::RankedRandom,
        true,
        &[WEIGHT, DENSITY, EPSILON, LAMBDA, NORMALIZE, RESCALE, SEED],
    ),
    task_arithmetic(
        "della_linear",
        "drop entries at random by the rank of their magnitude, rescale, sum",
        DELLA_PAPER,
        Sparsify::RankedRandom,
        false,
        &[
            WEIGHT,
            DENSITY,
            EPSILON,
            LAMBDA,
            NO_NORMALIZE,
            RESCALE,
            SEED,
        ],
    ),
    task_arithmetic(
        "breadcrumbs",
        "drop each update's largest and smallest entries, sum",
        BREADCRUMBS_PAPER,
        Sparsify::Outliers,
        false,
        &[WEIGHT, DENSITY, GAMMA, LAMBDA, NO_NORMALIZE, NO_RESCALE],
    ),
    task_arithmetic(
        "breadcrumbs_ties",
        "drop each update's largest and smallest entries, keep the majority sign",
        BREADCRUMBS_PAPER,
        Sparsify::Outliers,
        true,
        &[WEIGHT, DENSITY, GAMMA, LAMBDA, NO_NORMALIZE, NO_RESCALE],
    ),
    Method {
        name: "slerp",
        summary: "spherical interpolation from the base model to the other one",
        paper: "https://en.wikipedia.org/wiki/Slerp",
        family: Family::Slerp,
        base: Base::Required,
        models: (1, 1),
        parameters: &[Parameter {
            name: "t",
            kind: ANY,
            default: DefaultValue::Required,
            per_model: false,
            doc: "0 is the base model, 1 the other one",
        }],
    },
    Method {
        name: "nuslerp",
        summary: "spherical interpolation of two models or, with a base model, of their updates",
        paper: "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md#nuslerp",
        family: Family::NuSlerp,
        base: Base::Optional,
        models: (2, 2),
        parameters: &[
            WEIGHT,
            flag(
                "nuslerp_flatten",
                true,
                "one angle for the whole tensor; else one for each row (or column)",
            ),
            flag(
                "nuslerp_row_wise",
                false,
                "with `nuslerp_flatten: false`: angles along the first dimension, not the last",
            ),
        ],
    },
    Method {
        name: "multislerp",
        summary: "weighted barycentre on the hypersphere, in the tangent space of the mean",
        paper: "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        family: Family::MultiSlerp,
        base: Base::Optional,
        models: (1, MANY),
        parameters: &[
            WEIGHT,
            flag("normalize_weights", true, "divide the weights by their sum"),
            number("eps", Kind::Number(0.0, 1.0), 1e-8, "guards divisions"),
        ],
    },
    Method {
        name: "karcher",
        summary: "Riemannian mean of the directions, scaled by the mean norm",
        paper: "https://en.wikipedia.org/wiki/Karcher_mean",
        family: Family::Karcher,
        base: Base::Listed,
        models: (1, MANY),
        parameters: &[
            number("max_iter", Kind::Number(0.0, 1e6), 10.0, "most iterations"),
            number(
                "tol",
                Kind::Number(0.0, 1.0),
                1e-5,
                "tolerance of convergence",
            ),
        ],
    },
    Method {
        name: "model_stock",
        summary: "interpolate between base and mean by the angle between the updates",
        paper: "https://arxiv.org/abs/2403.19522",
        family: Family::ModelStock,
        base: Base::Required,
        models: (2, MANY),
        parameters: &[flag("filter_wise", false, "one angle for each row")],
    },
    Method {
        name: "nearswap",
        summary: "move towards the other model where the two are close",
        paper: "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        family: Family::NearSwap,
        base: Base::Required,
        models: (1, 1),
        parameters: &[Parameter {
            name: "t",
            kind: Kind::Number(0.0, f64::MAX),
            default: DefaultValue::Required,
            per_model: false,
            doc: "distance within which parameters are swapped",
        }],
    },
    Method {
        name: "arcee_fusion",
        summary: "take over the most important changes of one model",
        paper: "https://arcee.ai",
        family: Family::ArceeFusion,
        base: Base::Required,
        models: (1, 1),
        parameters: &[],
    },
    Method {
        name: "passthrough",
        summary: "copy (scaled) tensors; with `slices`, stack layers",
        paper: "https://arxiv.org/abs/2312.15166",
        family: Family::Passthrough,
        base: Base::Listed,
        models: (1, 1),
        parameters: &[Parameter {
            per_model: true,
            ..number("scale", ANY, 1.0, "factor of the tensor")
        }],
    },
];

/// Parameters of mergekit that only save memory there: accepted, without effect.
pub const MEMORY_SAVERS: &[&str] = &["int8_mask"];

impl Method {
    /// The method of this name.
    ///
    /// # Errors
    ///
    /// There is none; the nearest name is offered.
    pub fn named(name: &str) -> Result<&'static Self> {
        METHODS
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
                let error = Error::usage(format!("there is no merge method `{name}`"));
                match did_you_mean(name, names.iter().copied()) {
                    Some(remedy) => error.remedy(remedy),
                    None => error.remedy(format!("use one of {}", names.join(", "))),
                }
            })
    }

    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

impl std::fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Required => f.write_str("required"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Word(value) => f.write_str(value),
        }
    }
}

/// The table as text, for `--help`.
pub fn help() -> String {
    let mut text = String::new();
    for method in METHODS {
        text += &format!("{}: {}\n", method.name, method.summary);
        for p in method.parameters {
            let scope = if p.per_model { ", per model" } else { "" };
            text += &format!("    {} (default {}{scope}): {}\n", p.name, p.default, p.doc);
        }
    }
    text
}

/// The table in Markdown, for docs/merging.md.
pub fn markdown() -> String {
    let mut text = String::from("| method | does | parameters (default) |\n|---|---|---|\n");
    for method in METHODS {
        let parameters: Vec<_> = method
            .parameters
            .iter()
            .map(|p| format!("`{}` ({})", p.name, p.default))
            .collect();
        text += &format!(
            "| [`{}`]({}) | {} | {} |\n",
            method.name,
            method.paper,
            method.summary,
            parameters.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let mut names: Vec<_> = METHODS.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
        for method in METHODS {
            for p in method.parameters {
                let fits = match (p.kind, p.default) {
                    (_, DefaultValue::Required) | (Kind::Flag, DefaultValue::Flag(_)) => true,
                    (Kind::Number(low, high), DefaultValue::Number(value)) => {
                        (low..=high).contains(&value)
                    }
                    (Kind::Choice(words), DefaultValue::Word(word)) => words.contains(&word),
                    _ => false,
                };
                assert!(fits, "{} {}", method.name, p.name);
            }
            assert!(help().contains(method.summary));
            assert!(markdown().contains(method.paper));
        }
        let error = Method::named("tise").unwrap_err().to_string();
        assert!(error.contains("did you mean `ties`?"), "{error}");
    }
}
