//! Both ways of computing attention against loops in float64.

use candle_core::Var;

use super::*;

/// Attention of one query head of one sequence by its definition. All rows are (position, d).
struct Naive<'a> {
    causal: &'a Causal,
    slope: f64,
    starts: Option<&'a [u32]>,
}

impl Naive<'_> {
    /// Weights of query `t` over the keys, and the derivative of each score by q·k.
    fn weights(&self, q: &[f64], k: &[Vec<f64>], t: usize) -> (Vec<f64>, Vec<f64>) {
        let at = self.causal.offset + t;
        let seen = |j: usize| {
            j <= at
                && self.causal.window.is_none_or(|window| at - j < window)
                && self.starts.is_none_or(|starts| j >= starts[t] as usize)
        };
        let mut slopes = Vec::new();
        let mut exps = Vec::new();
        for (j, key) in k.iter().enumerate() {
            let dot: f64 = q.iter().zip(key).map(|(a, b)| a * b).sum();
            let scaled = dot * self.causal.scale;
            let (score, slope) = match self.causal.softcap {
                Some(cap) => {
                    let tanh = (scaled / cap).tanh();
                    (cap * tanh, self.causal.scale * (1.0 - tanh * tanh))
                }
                None => (scaled, self.causal.scale),
            };
            let score = score + self.slope * (j as f64 - at as f64);
            slopes.push(slope);
            exps.push(if seen(j) { score.exp() } else { 0.0 });
        }
        let sum: f64 = exps.iter().sum();
        (exps.iter().map(|e| e / sum).collect(), slopes)
    }
}

type Rows = Vec<Vec<f64>>;
/// Results and gradients: out (batch, len, heads, d) and those of query, key, value.
type All = [Vec<f64>; 4];

fn naive(args: &[Tensor; 3], dout: &Tensor, causal: &Causal) -> All {
    let (batch, heads, len, d) = args[0].dims4().unwrap();
    let (_, groups, positions, _) = args[1].dims4().unwrap();
    let rows = |tensor: &Tensor, batch: usize, head: usize| -> Rows {
        let rows = tensor.get(batch).unwrap().get(head).unwrap();
        rows.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
    };
    let slopes: Option<Vec<f32>> = causal.slopes.as_ref().map(|s| s.to_vec1().unwrap());
    let starts: Option<Vec<Vec<u32>>> = causal.starts.as_ref().map(|s| s.to_vec2().unwrap());
    let mut out = vec![0.0; batch * len * heads * d];
    let mut dq = vec![0.0; batch * heads * len * d];
    let mut dk = vec![0.0; batch * groups * positions * d];
    let mut dv = dk.clone();
    for b in 0..batch {
        for h in 0..heads {
            let g = h / (heads / groups);
            let (q, k, v) = (
                rows(&args[0], b, h),
                rows(&args[1], b, g),
                rows(&args[2], b, g),
            );
            let dout = rows(&dout.transpose(1, 2).unwrap(), b, h);
            let naive = Naive {
                causal,
                slope: slopes.as_ref().map_or(0.0, |slopes| f64::from(slopes[h])),
                starts: starts.as_ref().map(|starts| &starts[b][..]),
            };
            for t in 0..len {
                let (p, slopes) = naive.weights(&q[t], &k, t);
                let dp: Vec<f64> = v
                    .iter()
                    .map(|v| v.iter().zip(&dout[t]).map(|(a, b)| a * b).sum())
                    .collect();
                let mean: f64 = p.iter().zip(&dp).map(|(a, b)| a * b).sum();
                for j in 0..positions {
                    let ds = p[j] * (dp[j] - mean) * slopes[j];
                    for i in 0..d {
                        out[((b * len + t) * heads + h) * d + i] += p[j] * v[j][i];
                        dq[((b * heads + h) * len + t) * d + i] += ds * k[j][i];
                        dk[((b * groups + g) * positions + j) * d + i] += ds * q[t][i];
                        dv[((b * groups + g) * positions + j) * d + i] += p[j] * dout[t][i];
                    }
                }
            }
        }
    }
    [out, dq, dk, dv]
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.detach().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(found: &[f64], want: &[f64], what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    for (found, want) in found.iter().zip(want) {
        assert!((found - want).abs() < 2e-5, "{what}: {found}, not {want}");
    }
}

/// Starts of samples of the given lengths, row after row.
fn starts(rows: &[&[usize]]) -> Tensor {
    let all: Vec<u32> = rows
        .iter()
        .flat_map(|lengths| {
            let mut begin = 0;
            lengths.iter().flat_map(move |&len| {
                begin += len;
                std::iter::repeat_n((begin - len) as u32, len)
            })
        })
        .collect();
    let len = all.len() / rows.len();
    Tensor::from_vec(all, (rows.len(), len), &Device::Cpu).unwrap()
}

/// (name, queries, mask and scores), for 2 sequences and 4 query heads.
fn cases() -> Vec<(&'static str, usize, Causal)> {
    let plain = Causal::new(0.4);
    let slopes = Some(Tensor::new(&[0.5f32, 0.25, 0.0, 0.125], &Device::Cpu).unwrap());
    let packed = Some(starts(&[&[60, 1, 69, 20], &[64, 64, 22]]));
    vec![
        ("plain", 5, plain.clone()),
        // More than one block of queries, and windows that leave out whole blocks of keys.
        ("long", 150, plain.clone()),
        (
            "window",
            5,
            Causal {
                window: Some(3),
                ..plain.clone()
            },
        ),
        (
            "long window",
            150,
            Causal {
                window: Some(20),
                ..plain.clone()
            },
        ),
        (
            "cache",
            3,
            Causal {
                offset: 70,
                window: Some(60),
                ..plain.clone()
            },
        ),
        (
            "one step",
            1,
            Causal {
                offset: 9,
                ..plain.clone()
            },
        ),
        (
            "cap",
            9,
            Causal {
                softcap: Some(1.5),
                ..plain.clone()
            },
        ),
        (
            "slopes",
            9,
            Causal {
                slopes: slopes.clone(),
                ..plain.clone()
            },
        ),
        (
            "packed",
            150,
            Causal {
                starts: packed.clone(),
                ..plain.clone()
            },
        ),
        (
            "all",
            150,
            Causal {
                window: Some(30),
                softcap: Some(2.0),
                slopes,
                starts: packed,
                ..plain
            },
        ),
    ]
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    for (name, len, causal) in cases() {
        let random = |heads, rows| {
            let shape = (2, heads, rows, 6);
            Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
        };
        let positions = causal.offset + len;
        let vars = [random(4, len), random(2, positions), random(2, positions)];
        let [q, k, v] = vars.each_ref().map(|var| var.as_tensor().clone());
        let sizes = Sizes::new(&q, &k, &v, &causal).unwrap();
        // In memory as (batch, positions, heads, d), as the layer has it.
        let v = v.transpose(1, 2).unwrap().contiguous().unwrap();
        let v = v.transpose(1, 2).unwrap();
        let dout = Tensor::randn(0f32, 1.0, (2, len, 4, 6), &Device::Cpu).unwrap();
        let want = naive(&[q.clone(), k.clone(), v.clone()], &dout, &causal);
        let check = |out: Tensor, what: &str| {
            let loss = (&out * &dout).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            assert_near(&values(&out), &want[0], &format!("{name}, {what}, result"));
            for (i, var) in vars.iter().enumerate() {
                let grad = values(grads.get(var.as_tensor()).unwrap());
                let what = format!("{name}, {what}, gradient {i}");
                assert_near(&grad, &want[i + 1], &what);
            }
        };
        check(attention(&q, &k, &v, &causal).unwrap(), "blocks");
        // All at once; one head, three heads, one sequence at a time.
        for limit in [usize::MAX, 1, 150 * 2 * 150 * 3] {
            let out = by_tensors::chunked(&q, &k, &v, &causal, sizes, limit).unwrap();
            check(out, &format!("tensors, {limit} scores at a time"));
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let zeros = |shape: (usize, usize, usize, usize)| {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    };
    let (q, k) = (zeros((1, 4, 3, 2)), zeros((1, 2, 3, 2)));
    let plain = Causal::new(1.0);
    attention(&q, &k, &k, &plain).unwrap();
    attention(&q, &zeros((1, 3, 3, 2)), &zeros((1, 3, 3, 2)), &plain).unwrap_err();
    attention(&q, &k, &zeros((1, 2, 4, 2)), &plain).unwrap_err();
    attention(
        &q,
        &k,
        &k,
        &Causal {
            offset: 1,
            ..plain.clone()
        },
    )
    .unwrap_err();
    let starts = Some(starts(&[&[1, 1]]));
    attention(&q, &k, &k, &Causal { starts, ..plain }).unwrap_err();
}
