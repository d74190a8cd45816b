//! What must not change loss and gradients: checkpointing and packing.

use candle_core::{DType, Device};

use super::super::gradient::{MicroGradient, micro_gradient, micro_nll};
use super::super::loss::{self, Weights};
use super::super::rows::{Rows, Tail, Target};
use super::*;
use crate::model::tests::families::variants;
use crate::model::{LoadOptions, Mode};

const VOCABULARY: usize = 19;

fn models() -> Vec<(&'static str, Decoder)> {
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode: Mode::Training,
    };
    let variants = variants().into_iter();
    variants
        .map(|(name, config)| {
            assert_eq!(config.vocab_size, VOCABULARY);
            (name, Decoder::random(config, &options, 5).unwrap())
        })
        .collect()
}

/// Rows of samples of the given lengths; every position but the first of a sample is learnt from.
fn micro(rows: &[&[u64]]) -> MicroBatch {
    let length = |sample: u64| 9 - 2 * sample as usize;
    let len = rows
        .iter()
        .map(|row| row.iter().map(|sample| length(*sample)).sum());
    let len: usize = len.max().unwrap();
    let mut micro = MicroBatch {
        ids: vec![0; rows.len() * len],
        sequences: rows.len(),
        len,
        starts: None,
        rows: Rows::new(VOCABULARY),
        samples: Vec::new(),
    };
    let mut starts: Vec<u32> = (0..len as u32).collect::<Vec<_>>().repeat(rows.len());
    for (row, samples) in rows.iter().enumerate() {
        let mut begin = 0;
        for &sample in *samples {
            let token = |i: usize| ((sample as usize * 7 + i * i * 3 + i) % VOCABULARY) as u32;
            for i in 0..length(sample) {
                let place = row * len + begin + i;
                micro.ids[place] = token(i);
                starts[place] = begin as u32;
                let target = Target {
                    ids: &[1, token(i)],
                    probs: &[0.5, 0.25],
                    tail: 0.25,
                };
                let (place, label) = (place as u32, token(i + 1));
                let target = (i % 2 == 0).then_some(target);
                if i > 0 {
                    micro
                        .rows
                        .push(place, label, target, Tail::Uniform)
                        .unwrap();
                }
            }
            micro.samples.push(sample);
            begin += length(sample);
        }
    }
    if rows.iter().any(|row| row.len() > 1) {
        micro.starts = Some(starts);
    }
    micro
}

fn gradient(decoder: &Decoder, micro: &MicroBatch, checkpointing: bool) -> MicroGradient {
    let weights = Weights::new(0.7, micro.rows.len(), micro.rows.targets());
    micro_gradient(decoder, micro, weights, 0, checkpointing).unwrap()
}

fn assert_near(name: &str, found: &MicroGradient, want: &MicroGradient, tolerance: f64) {
    let sums = [
        (found.sums.clm, want.sums.clm),
        (found.sums.fusion, want.sums.fusion),
    ];
    for (found, want) in sums {
        assert!(
            (found - want).abs() < tolerance * want,
            "{name}: {found} {want}"
        );
    }
    for (i, (found, want)) in found.params.iter().zip(&want.params).enumerate() {
        // An expert that no token chooses has no gradient.
        assert_eq!(found.is_none(), want.is_none(), "{name}: parameter {i}");
        let values = |tensor: &Option<Tensor>| -> Vec<f32> {
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
            tensor.as_ref().map(flat).unwrap_or_default()
        };
        let (found, want) = (values(found), values(want));
        let size = want.iter().fold(0f32, |size, x| size.max(x.abs()));
        for (found, want) in found.iter().zip(&want) {
            let difference = f64::from((found - want).abs());
            let tolerance = tolerance * f64::from(size.max(1e-2));
            assert!(difference <= tolerance, "{name}, {i}: {found} {want}");
        }
    }
}

#[test]
fn checkpointing_changes_nothing() {
    for (name, decoder) in models() {
        for micro in [micro(&[&[0], &[1], &[2]]), micro(&[&[0, 3], &[1, 2]])] {
            let plain = gradient(&decoder, &micro, false);
            let checkpointed = gradient(&decoder, &micro, true);
            assert_near(name, &checkpointed, &plain, 1e-6);
            let nll = micro_nll(&decoder, &micro).unwrap();
            assert!((nll - plain.sums.clm).abs() < 1e-6 * nll, "{name}");
        }
    }
}

#[test]
fn packing_changes_nothing_but_rounding() {
    for (name, decoder) in models() {
        let padded = gradient(&decoder, &micro(&[&[0], &[1], &[2], &[3]]), false);
        for rows in [[&[0, 3][..], &[1, 2]], [&[3, 0], &[2, 1]]] {
            let packed = gradient(&decoder, &micro(&rows), false);
            assert_near(name, &packed, &padded, 1e-5);
        }
        let packed = gradient(&decoder, &micro(&[&[2, 0, 3, 1]]), true);
        assert_near(name, &packed, &padded, 1e-5);
    }
}

/// Hidden states and gradients of all that is trained, with a graph or, if that can be, without.
fn pass(
    decoder: &Decoder,
    micro: &MicroBatch,
    graph: bool,
    again: bool,
) -> (Tensor, MicroGradient) {
    let pass = match graph {
        true => {
            let shape = (micro.sequences, micro.len);
            let ids = Tensor::from_slice(&micro.ids, shape, &Device::Cpu).unwrap();
            let rotary = match &micro.starts {
                Some(starts) => decoder.rotary_packed(starts, micro.len).unwrap(),
                None => decoder.rotary(micro.len).unwrap(),
            };
            Pass::by_graph(decoder, ids, rotary, again).unwrap()
        }
        false => Pass::forward(decoder, micro, again).unwrap(),
    };
    let hidden = pass.hidden().detach();
    let count = hidden.elem_count();
    let seed: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).cos()).collect();
    let seed = Tensor::from_vec(seed, hidden.shape(), &Device::Cpu).unwrap();
    let params = vec![None; decoder.trained().len()];
    let params = pass.backward(&seed, params).unwrap();
    // Of no meaning here, but compared.
    let sums = loss::Sums {
        clm: 1.0,
        fusion: 1.0,
        entropy: 0.0,
    };
    (hidden, MicroGradient { sums, params })
}

#[test]
fn passes_without_a_graph_find_the_same() {
    type Frozen = fn(&str) -> bool;
    let frozen: [Frozen; 3] = [
        |_| false,
        |name| name.contains("embed_tokens") || name.contains("layers.0."),
        |name| !name.contains("up_proj") && !name.contains("bias"),
    ];
    let mut direct = Vec::new();
    for frozen in frozen {
        for (name, decoder) in models() {
            let decoder = decoder.freeze(frozen).unwrap();
            for micro in [micro(&[&[0], &[1], &[2]]), micro(&[&[0, 3], &[1, 2]])] {
                let forward = Pass::forward(&decoder, &micro, false).unwrap();
                if !matches!(forward.kept, Kept::Direct(_)) {
                    continue;
                }
                direct.push(name);
                let (hidden, want) = pass(&decoder, &micro, true, false);
                for again in [false, true] {
                    let (found, gradient) = pass(&decoder, &micro, false, again);
                    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(values(&found), values(&hidden), "{name}");
                    assert_near(name, &gradient, &want, 1e-5);
                }
            }
        }
    }
    for name in [
        "llama",
        "mistral",
        "qwen2",
        "tied",
        "biases",
        "qwen2 windows",
    ] {
        assert!(direct.contains(&name), "{name}: {direct:?}");
    }
    for name in ["gemma", "mixtral", "mpt"] {
        assert!(!direct.contains(&name), "{name}");
    }
}
