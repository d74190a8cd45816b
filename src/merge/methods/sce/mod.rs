//! SCE: select, calculate, erase (FuseChat, arXiv:2408.07990, section 3.2).
//!
//! `exact` is the method; `rounded` is the method with mergekit's rounding. Positions are selected
//! by `survey`, from a window that `pass` looks into, or by `exhaustive` where that misleads.

mod exact;
mod exhaustive;
mod pass;
mod rounded;
mod selection;
mod survey;

use self::exact::Exact;
use self::rounded::Rounded;
use super::method::{Base, Kernel, MANY, Method};
use super::parameter::{Configured, Scalar, choice, declare, flag, number};
use crate::error::Result;

pub const SCE: Method = Method {
    name: "sce",
    summary: "select the most varied positions, weigh models by their squared updates, erase minority signs",
    paper: "https://arxiv.org/abs/2408.07990",
    base: Base::Required,
    models: (1, MANY),
    parameters: Sce::PARAMETERS,
    kernel,
};

declare! {
    struct Sce {
        all {
            select_topk: f64 = number(
                "share of the positions with non-zero variance that move (the most varied ones)"
            )
            .within(0.0, 1.0)
            .or(1.0),
            normalize: bool = flag(true, "divide by the coefficients that survive at a position"),
            compat: Compat = choice(
                &["none", "mergekit", "fusechat"],
                Compat::named,
                "reproduce mergekit (uniform coefficients for small updates, rounded intermediates) or FuseChat's fork (all positions move)"
            ),
        }
    }
}

/// Which other program is reproduced.
#[derive(Clone, Copy, Debug)]
enum Compat {
    None,
    MergeKit,
    FuseChat,
}

impl Compat {
    fn named(value: &Scalar) -> Option<Self> {
        let Scalar::Word(word) = value else {
            return None;
        };
        match word.as_str() {
            "none" => Some(Self::None),
            "mergekit" => Some(Self::MergeKit),
            "fusechat" => Some(Self::FuseChat),
            _ => None,
        }
    }
}

fn kernel(configured: &dyn Configured) -> Result<Box<dyn Kernel>> {
    let Sce {
        select_topk: share,
        normalize,
        compat,
    } = Sce::read(configured)?;
    let exact = |all_move: bool| Exact {
        share,
        normalize,
        all_move,
    };
    Ok(match compat {
        Compat::None => Box::new(exact(false)),
        Compat::FuseChat => Box::new(exact(true)),
        Compat::MergeKit => Box::new(Rounded { share }),
    })
}
