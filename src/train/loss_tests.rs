//! The loss against an f64 reference, its gradient against finite differences.

use super::super::rows::{Tail, Target};
use candle_core::{DType, Device};

use super::*;

const VOCABULARY: usize = 19;
const WIDTH: usize = 5;

struct Sample {
    label: u32,
    target: Option<(Vec<u32>, Vec<f32>, f32)>,
}

fn samples() -> Vec<Sample> {
    let target = |ids: &[u32], probs: &[f32], tail| Some((ids.to_vec(), probs.to_vec(), tail));
    let sample = |label, target| Sample { label, target };
    vec![
        sample(3, target(&[3, 7, 0], &[0.5, 0.25, 0.125], 0.125)),
        sample(18, None),
        sample(4, target(&[1, 18], &[0.6, 0.2], 0.2)),
        sample(0, target(&[5], &[1.0], 0.0)),
        sample(9, target(&[2, 9], &[0.25, 0.25], 0.5)),
    ]
}

fn rows(samples: &[Sample], tail: Tail) -> Rows {
    let mut rows = Rows::new(VOCABULARY);
    for (i, sample) in samples.iter().enumerate() {
        let target = sample.target.as_ref().map(|(ids, probs, tail)| Target {
            ids,
            probs,
            tail: *tail,
        });
        rows.push(i as u32, sample.label, target, tail).unwrap();
    }
    rows
}

/// Numbers between −2 and 2 without a pattern that matters.
fn numbers(n: usize, salt: f64) -> Vec<f64> {
    (0..n)
        .map(|i| 2.0 * ((i as f64 + 1.0) * 12.9898 + salt).sin())
        .collect()
}

/// The whole target as a dense distribution.
fn dense(sample: &Sample, tail: Tail) -> Option<Vec<f64>> {
    let (ids, probs, left) = sample.target.as_ref()?;
    let mut p = vec![0.0; VOCABULARY];
    for (id, prob) in ids.iter().zip(probs) {
        p[*id as usize] = f64::from(*prob);
    }
    let left = f64::from(*left);
    match tail {
        Tail::Renormalise => {
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= sum);
        }
        Tail::Label => p[sample.label as usize] += left,
        Tail::Uniform => {
            let others = (VOCABULARY - ids.len()) as f64;
            for (id, p) in p.iter_mut().enumerate() {
                if !ids.contains(&(id as u32)) {
                    *p = left / others;
                }
            }
        }
        Tail::Ignore => {}
    }
    Some(p)
}

/// (L, CLM sum, D sum, entropy sum) in f64, straight from the definitions.
fn reference(
    samples: &[Sample],
    hidden: &[f64],
    head: &[f64],
    softcap: Option<f64>,
    tail: Tail,
    weights: Weights,
) -> (f64, f64, f64, f64) {
    let (mut clm, mut fusion, mut entropy) = (0.0, 0.0, 0.0);
    for (i, sample) in samples.iter().enumerate() {
        let x = &hidden[i * WIDTH..][..WIDTH];
        let logit = |v: usize| -> f64 {
            let row = &head[v * WIDTH..][..WIDTH];
            let z = row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
            softcap.map_or(z, |cap| cap * (z / cap).tanh())
        };
        let z: Vec<f64> = (0..VOCABULARY).map(logit).collect();
        let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        clm += lse - z[sample.label as usize];
        for (p, z) in dense(sample, tail).unwrap_or_default().iter().zip(&z) {
            fusion -= p * (z - lse);
            if *p > 0.0 {
                entropy -= p * p.ln();
            }
        }
    }
    let loss = weights.clm * clm + weights.fusion * fusion;
    (loss, clm, fusion, entropy)
}

fn head_of(weight: Tensor, softcap: Option<f64>) -> Head {
    Head {
        output: model::Head { weight, softcap },
        trained: true,
    }
}

fn tensor(values: &[f64], rows: usize) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap()
}

fn assert_near(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {found}, expected {expected}"
    );
}

const TAILS: [Tail; 4] = [Tail::Renormalise, Tail::Label, Tail::Uniform, Tail::Ignore];

#[test]
fn loss_and_gradients_match_an_f64_reference() {
    let samples = samples();
    let n = samples.len();
    let (hidden, head) = (numbers(n * WIDTH, 0.3), numbers(VOCABULARY * WIDTH, 1.7));
    let cases = TAILS.map(|tail| (tail, None)).into_iter();
    for (tail, softcap) in cases.chain([(Tail::Uniform, Some(3.0))]) {
        let rows = rows(&samples, tail);
        assert_eq!(rows.targets(), 4);
        let weights = Weights::new(0.7, rows.len(), rows.targets());
        let found = head_gradient(
            &tensor(&hidden, n),
            &head_of(tensor(&head, VOCABULARY), softcap),
            &rows,
            weights,
        )
        .unwrap();
        let loss_of = |hidden: &[f64], head: &[f64]| {
            reference(&samples, hidden, head, softcap, tail, weights)
        };
        let (_, clm, fusion, entropy) = loss_of(&hidden, &head);
        assert_near("clm", found.sums.clm, clm, 1e-6);
        assert_near("fusion", found.sums.fusion, fusion, 1e-6);
        assert_near("entropy", found.sums.entropy, entropy, 1e-6);
        // Central differences of the f64 reference.
        let difference = |change: &dyn Fn(f64) -> f64| (change(1e-5) - change(-1e-5)) / 2e-5;
        let by_hidden = found
            .hidden
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (i, found) in by_hidden.iter().enumerate() {
            let expected = difference(&|by| {
                let mut moved = hidden.clone();
                moved[i] += by;
                loss_of(&moved, &head).0
            });
            assert_near(
                &format!("{tail:?} hidden {i}"),
                f64::from(*found),
                expected,
                2e-6,
            );
        }
        let by_head = found
            .head
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (i, found) in by_head.iter().enumerate() {
            let expected = difference(&|by| {
                let mut moved = head.clone();
                moved[i] += by;
                loss_of(&hidden, &moved).0
            });
            assert_near(
                &format!("{tail:?} head {i}"),
                f64::from(*found),
                expected,
                2e-6,
            );
        }
    }
}

/// With narrow weights and activations the losses are those of what these hold, to the digits of
/// f32: rounding the logits as well would move them by some 0.01 nats a row.
#[test]
fn losses_of_a_narrow_head_match_an_f64_reference() {
    let samples = samples();
    let n = samples.len();
    let rows = rows(&samples, Tail::Uniform);
    let weights = Weights::new(0.7, rows.len(), rows.targets());
    for dtype in [DType::BF16, DType::F16] {
        for softcap in [None, Some(5.0)] {
            let narrow = |rows: usize, salt: f64| {
                let values: Vec<f64> = numbers(rows * WIDTH, salt)
                    .iter()
                    .map(|x| 4.0 * x)
                    .collect();
                let narrow = tensor(&values, rows).to_dtype(dtype).unwrap();
                let wide = narrow.to_dtype(DType::F64).unwrap();
                (
                    narrow,
                    wide.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
                )
            };
            let (hidden, x) = narrow(n, 0.3);
            let (weight, w) = narrow(VOCABULARY, 1.7);
            let head = head_of(weight, softcap);
            let found = head_gradient(&hidden, &head, &rows, weights).unwrap();
            let (_, clm, fusion, _) = reference(&samples, &x, &w, softcap, Tail::Uniform, weights);
            assert_near("clm", found.sums.clm, clm, 1e-5);
            assert_near("fusion", found.sums.fusion, fusion, 1e-5);
            assert_eq!(found.hidden.dtype(), dtype);
            assert_eq!(found.head.unwrap().dtype(), DType::F32);
            assert_near("nll", head_nll(&hidden, &head, &rows).unwrap(), clm, 1e-5);
        }
    }
}

#[test]
fn the_kernel_and_the_tensor_operations_agree() {
    let samples = samples();
    let n = samples.len();
    let (hidden, head) = (numbers(n * WIDTH, 0.3), numbers(VOCABULARY * WIDTH, 1.7));
    for tail in TAILS {
        let rows = rows(&samples, tail);
        let weights = Weights::new(0.4, rows.len(), rows.targets());
        let logits = tensor(&hidden, n)
            .matmul(&tensor(&head, VOCABULARY).t().unwrap())
            .unwrap();
        let copy = logits.copy().unwrap();
        let (a, sums_a) = by_tensors(&copy, &rows, 0..n, weights).unwrap();
        let (b, sums_b) = logits_gradient(logits, &rows, 0..n, weights).unwrap();
        assert_near("clm", sums_a.clm, sums_b.clm, 1e-6);
        assert_near("fusion", sums_a.fusion, sums_b.fusion, 1e-6);
        let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        assert!(worst.to_scalar::<f32>().unwrap() < 1e-7, "{tail:?}");
    }
}

/// The gradient of logits and their loss by tensor operations.
fn by_tensors(
    logits: &Tensor,
    rows: &Rows,
    range: Range<usize>,
    weights: Weights,
) -> candle_core::Result<(Tensor, Sums)> {
    let (n, device) = (range.len(), logits.device());
    let vocabulary = rows.columns.vocabulary as f32;
    let width = range
        .clone()
        .map(|row| rows.entries(row).0.len())
        .max()
        .unwrap_or(0);
    // One more column than the longest list, so that none is empty; padding has p − rest = 0.
    let width = width + 1;
    let (mut ids, mut probs) = (vec![0u32; n * width], vec![0f32; n * width]);
    let (mut mass, mut shift) = (vec![0f32; n], vec![0f32; n]);
    let (mut used, mut rest_of) = (vec![0f32; n], vec![0f32; n]);
    for (i, row) in range.clone().enumerate() {
        let (listed, p) = rows.entries(row);
        let rest = rows.columns.rest[row];
        let b = if rows.columns.targeted[row] {
            weights.fusion as f32
        } else {
            0.0
        };
        for (j, (id, p)) in listed.iter().zip(p).enumerate() {
            ids[i * width + j] = *id;
            probs[i * width + j] = p - rest;
            mass[i] += p - rest;
        }
        mass[i] += rest * vocabulary;
        (shift[i], rest_of[i]) = (b * rest, rest);
        used[i] = b;
    }
    let column = |values: Vec<f32>| Tensor::from_vec(values, (n, 1), device);
    let labels = Tensor::from_slice(&rows.columns.labels[range.clone()], (n, 1), device)?;
    let ids = Tensor::from_vec(ids, (n, width), device)?;
    let probs = Tensor::from_vec(probs, (n, width), device)?;
    let (mass, used) = (column(mass)?, column(used)?);
    let max = logits.max_keepdim(1)?;
    let exps = logits.broadcast_sub(&max)?.exp()?;
    let sum = exps.sum_keepdim(1)?;
    let lse = (sum.log()? + max)?;
    let clm = (&lse - logits.gather(&labels, 1)?)?.sum_all()?;
    let expected = ((logits.gather(&ids, 1)? * &probs)?.sum_keepdim(1)?
        + (logits.sum_keepdim(1)? * column(rest_of)?)?)?;
    let fusion = ((&mass * lse)? - expected)?.sum_all()?;
    let scale = ((&mass * &used)? + weights.clm)?.div(&sum)?;
    let gradient = exps
        .broadcast_mul(&scale)?
        .broadcast_sub(&column(shift)?)?
        .scatter_add(
            &labels,
            &Tensor::full(-weights.clm as f32, (n, 1), device)?,
            1,
        )?
        .scatter_add(&ids, &probs.broadcast_mul(&used.neg()?)?, 1)?;
    let sums = Sums {
        clm: f64::from(clm.to_scalar::<f32>()?),
        fusion: f64::from(fusion.to_scalar::<f32>()?),
        entropy: 0.0,
    };
    Ok((gradient, sums))
}

#[test]
fn a_step_counts_the_same_however_it_is_divided() {
    let samples = samples();
    let n = samples.len();
    let (hidden, head) = (numbers(n * WIDTH, 0.3), numbers(VOCABULARY * WIDTH, 1.7));
    let all = rows(&samples, Tail::Renormalise);
    let weights = Weights::new(0.9, all.len(), all.targets());
    let head = head_of(tensor(&head, VOCABULARY), None);
    let whole = head_gradient(&tensor(&hidden, n), &head, &all, weights).unwrap();
    for cut in 1..n {
        let parts = [(0, cut), (cut, n)].map(|(begin, end)| {
            let rows = rows(&samples[begin..end], Tail::Renormalise);
            let hidden = tensor(&hidden[begin * WIDTH..end * WIDTH], end - begin);
            head_gradient(&hidden, &head, &rows, weights).unwrap()
        });
        let mut sums = parts[0].sums;
        sums.add(&parts[1].sums);
        let loss = |sums: &Sums| weights.clm * sums.clm + weights.fusion * sums.fusion;
        assert_near("loss", loss(&sums), loss(&whole.sums), 1e-6);
        let [first, second] = [&parts[0], &parts[1]].map(|part| part.head.clone().unwrap());
        let head = (first + second).unwrap();
        let worst = (head - whole.head.as_ref().unwrap())
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        assert!(worst.to_scalar::<f32>().unwrap() < 1e-6);
    }
}

#[test]
fn without_targets_it_is_the_plain_cross_entropy() {
    // Two ids, logits 0 and ln 3: probabilities 1/4 and 3/4.
    let mut rows = Rows::new(2);
    rows.push(0, 1, None, Tail::Renormalise).unwrap();
    let hidden = Tensor::new(&[[1f32]], &Device::Cpu).unwrap();
    let head = head_of(
        Tensor::new(&[[0f32], [3f32.ln()]], &Device::Cpu).unwrap(),
        None,
    );
    let weights = Weights::new(1.0, 1, 0);
    let found = head_gradient(&hidden, &head, &rows, weights).unwrap();
    assert_near("clm", found.sums.clm, (4.0f64 / 3.0).ln(), 1e-7);
    assert_eq!((found.sums.fusion, found.sums.entropy), (0.0, 0.0));
    let by_head = found
        .head
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert_near("head 0", by_head[0].into(), 0.25, 1e-6);
    assert_near("head 1", by_head[1].into(), -0.25, 1e-6);
    assert_near(
        "nll",
        head_nll(&hidden, &head, &rows).unwrap(),
        found.sums.clm,
        1e-12,
    );
}

#[test]
fn a_soft_cap_by_hand() {
    // z = 2 with c = 2: y = 2 tanh 1, dy/dz = 1 − tanh² 1; the other logit is 0.
    let mut rows = Rows::new(2);
    rows.push(0, 1, None, Tail::Renormalise).unwrap();
    let hidden = Tensor::new(&[[1f32]], &Device::Cpu).unwrap();
    let weight = Tensor::new(&[[0f32], [2.0]], &Device::Cpu).unwrap();
    let head = head_of(weight, Some(2.0));
    let found = head_gradient(&hidden, &head, &rows, Weights::new(1.0, 1, 0)).unwrap();
    let t = 1f64.tanh();
    let other = 1.0 / (1.0 + (2.0 * t).exp());
    assert_near("clm", found.sums.clm, -(1.0 - other).ln(), 1e-6);
    let by_head = found
        .head
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert_near("head 0", by_head[0].into(), other, 1e-6);
    assert_near("head 1", by_head[1].into(), -other * (1.0 - t * t), 1e-6);
    let nll = head_nll(&hidden, &head, &rows).unwrap();
    assert_near("nll", nll, found.sums.clm, 1e-12);
}

#[test]
fn logits_that_are_no_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut rows = Rows::new(2);
        rows.push(0, 1, None, Tail::Renormalise).unwrap();
        let hidden = Tensor::new(&[[1f32]], &Device::Cpu).unwrap();
        let head = head_of(Tensor::new(&[[bad], [1.0]], &Device::Cpu).unwrap(), None);
        let weights = Weights::new(1.0, 1, 0);
        let sums = head_gradient(&hidden, &head, &rows, weights).unwrap().sums;
        let error = check_finite(&sums, 6, &[17, 4]).unwrap_err().to_string();
        assert!(
            error.starts_with("step 7: the loss is infinite or not a number, in samples 17, 4"),
            "{error}"
        );
    }
}

#[test]
fn bad_targets_are_refused() {
    let push = |label, ids: &[u32], probs: &[f32], left| {
        let target = Target {
            ids,
            probs,
            tail: left,
        };
        Rows::new(4).push(0, label, Some(target), Tail::Renormalise)
    };
    assert!(push(1, &[0, 3], &[0.5, 0.4], 0.1).is_ok());
    assert!(push(4, &[0], &[1.0], 0.0).unwrap_err().contains("token 4"));
    assert!(
        push(1, &[0, 4], &[0.5, 0.5], 0.0)
            .unwrap_err()
            .contains("target id 4")
    );
    assert!(push(1, &[0], &[f32::NAN], 0.0).unwrap_err().contains("NaN"));
    assert!(push(1, &[0], &[-0.1], 1.0).unwrap_err().contains("-0.1"));
    assert!(
        push(1, &[0], &[0.0], 1.0)
            .unwrap_err()
            .contains("no probability")
    );
    assert!(
        push(1, &[0, 1], &[1.0], 0.0)
            .unwrap_err()
            .contains("length")
    );
}
