//! Whether the tensors of an adapter fit the model and the settings.

use super::adapter::Adapter;
use super::base::Base;
use super::parts::{Kind, Parts};
use super::read::Start;
use crate::error::Result;

/// Checks all shapes. Returns the number of the embedding's rows where it is another than the
/// model's.
///
/// # Errors
/// Shapes that fit neither the model nor the settings, halves without the other, an embedding of
/// another size than the head.
pub(super) fn check(adapter: &Adapter, base: &Base) -> Result<Option<usize>> {
    let rows = replaced(adapter, base)?;
    for (tensor, parts) in &adapter.modules {
        let own = adapter.replaced.get(tensor).map(|name| adapter.shape(name));
        let own = own.or_else(|| base.shape(tensor)).unwrap_or_default();
        update(adapter, tensor, parts, own)?;
    }
    tokens(adapter, base)?;
    Ok(rows)
}

/// Checks the tensors in place of the model's own.
fn replaced(adapter: &Adapter, base: &Base) -> Result<Option<usize>> {
    let mut sizes = Vec::new();
    for (tensor, name) in &adapter.replaced {
        let (own, found) = (base.shape(tensor).unwrap_or_default(), adapter.shape(name));
        if own == found {
            continue;
        }
        let by_token = base.is_by_token(tensor) && own.len() == 2 && own.len() == found.len();
        if !by_token || own[1] != found[1] {
            let problem = format!("expected the model's shape {own:?}, found {found:?}");
            return Err(adapter.bad(name, problem));
        }
        sizes.push((name, found[0]));
    }
    let Some(&(name, rows)) = sizes.first() else {
        return Ok(None);
    };
    // All that has a row for each token has as many as the adapter's.
    for tensor in base.tensors().filter(|tensor| base.is_by_token(tensor)) {
        let found = adapter
            .replaced
            .get(tensor)
            .map(|name| adapter.shape(name)[0]);
        if found != Some(rows) {
            let own = base.shape(tensor).unwrap_or_default().first().copied();
            let problem = format!(
                "it has a row for each of {rows} tokens, `{tensor}` has {}: the adapter was trained \
                 on a model whose vocabulary was enlarged, and does not hold all of its rows",
                found.or(own).unwrap_or_default()
            );
            return Err(adapter.bad(name, problem).remedy(
                "enlarge the model with transformers as before the training: \
                         `resize_token_embeddings`",
            ));
        }
    }
    Ok(Some(rows))
}

/// Checks the parts of the update of a tensor that has the shape `own`.
fn update(adapter: &Adapter, tensor: &str, parts: &Parts, own: &[usize]) -> Result<()> {
    let expect = |name: &str, expected: &[usize]| {
        let found = adapter.shape(name);
        match found == expected {
            true => Ok(()),
            false => Err(adapter.bad(
                name,
                format!(
                    "expected shape {expected:?} for rank {} and the model's `{tensor}` of \
                     {own:?}, found {found:?}",
                    parts.rank
                ),
            )),
        }
    };
    if parts.kind == Kind::Bias {
        return parts.tensors().try_for_each(|name| expect(name, own));
    }
    let (Some(a), Some(b)) = (&parts.a, &parts.b) else {
        let one = parts.tensors().next().unwrap_or_default();
        let problem = format!("`{tensor}` has A without B, or B without A");
        return Err(adapter
            .bad(one, problem)
            .remedy("the adapter is incomplete"));
    };
    let (shape_a, shape_b) = match (parts.kind, own) {
        (Kind::Experts(experts), &[_, rows, columns])
        | (Kind::TransposedExperts(experts), &[_, columns, rows]) => {
            let rank = experts * parts.rank;
            ([rank, columns], [rows, rank])
        }
        (
            Kind::Expert {
                experts, halves, ..
            },
            &[rows, columns],
        ) => {
            let rank = experts * parts.rank;
            ([rank, columns], [halves * rows, rank])
        }
        (kind, &[rows, columns]) if kind.flips() => ([parts.rank, rows], [columns, parts.rank]),
        (_, &[rows, columns]) => ([parts.rank, columns], [rows, parts.rank]),
        _ => {
            let problem = format!("only matrices can be adapted, `{tensor}` has shape {own:?}");
            return Err(adapter.bad(a, problem));
        }
    };
    expect(a, &shape_a)?;
    expect(b, &shape_b)?;
    // DoRA has no parameters: it is refused beside them.
    match (&parts.magnitude, adapter.settings.dora) {
        (Some(name), _) => expect(name, &shape_b[..1])?,
        (None, true) => {
            let problem = format!("`{tensor}` has no `lora_magnitude_vector` beside it");
            return Err(adapter
                .bad(a, problem)
                .remedy("`use_dora` is true: the adapter is incomplete"));
        }
        (None, _) => {}
    }
    begins(adapter, tensor, parts, own)
}

/// Checks that the weights which a training began with can be found again.
fn begins(adapter: &Adapter, tensor: &str, parts: &Parts, own: &[usize]) -> Result<()> {
    let problem = match adapter.settings.start {
        Start::Olora if parts.kind == Kind::Transposed => "PEFT has no OLoRA of such projections",
        Start::Pissa | Start::Olora
            if parts.kind != Kind::Embedding && own.iter().any(|size| *size < parts.rank) =>
        {
            "the rank is larger than the matrix"
        }
        _ => return Ok(()),
    };
    Err(adapter.unfit(format!("field `init_lora_weights`: `{tensor}`: {problem}")))
}

/// Checks the rows of tokens.
fn tokens(adapter: &Adapter, base: &Base) -> Result<()> {
    for (tensor, rows) in &adapter.tokens {
        let own = adapter.replaced.get(tensor).map(|name| adapter.shape(name));
        let own = own.or_else(|| base.shape(tensor)).unwrap_or_default();
        let found = adapter.shape(&rows.tensor);
        let columns = own.get(1).copied().unwrap_or_default();
        if found != [rows.ids.len(), columns] {
            let problem = format!(
                "expected shape {:?}, a row for each token of `trainable_token_indices`, found \
                 {found:?}",
                [rows.ids.len(), columns]
            );
            return Err(adapter.bad(&rows.tensor, problem));
        }
        if let Some(id) = rows.ids.iter().find(|id| **id as usize >= own[0]) {
            let problem = format!(
                "it has a row for token {id}, the model's `{tensor}` has {}",
                own[0]
            );
            return Err(adapter.bad(&rows.tensor, problem));
        }
        if adapter.modules.contains_key(tensor) {
            let problem = format!("A and B beside rows of tokens of `{tensor}` are not supported");
            return Err(adapter.bad(&rows.tensor, problem));
        }
    }
    Ok(())
}
