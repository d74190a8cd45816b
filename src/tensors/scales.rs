//! Weights of 8 bits and the scales that belong to them.
//!
//! A quantised checkpoint stores a matrix as 8-bit floats with scales beside it, and a weight is
//! the float times the scale of its place. The name of the scales says who wrote them:
//!
//! | scales of `x.weight` | written by | one scale for |
//! |---|---|---|
//! | `x.weight_scale_inv` | DeepSeek-V3, Qwen3 (`fp8`) | each block of `weight_block_size` |
//! | `x.weight_scale` | compressed-tensors, FBGEMM, ModelOpt, vLLM | the tensor, each row or each block |
//!
//! Scales of activations and caches are found as well; they say nothing about the weights.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dtype::Dtype;
use super::header::TensorInfo;
use super::quantisation::Quantisation;
use crate::error::{Error, Result};

/// Which scale each element of a tensor has: the one at (row / `rows`, column / `columns`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Elements of a row of the tensor.
    width: usize,
    /// Rows and columns with one scale.
    rows: usize,
    columns: usize,
    /// Scales of a row of blocks.
    across: usize,
}

impl Grid {
    /// The grid of a tensor of shape `shape` with scales of shape `scales`, if they fit: one for
    /// the tensor, one for each of `blocks`, or one for each row.
    pub fn fit(shape: &[usize], scales: &[usize], blocks: &[[usize; 2]]) -> Option<Self> {
        if scales.iter().product::<usize>() == 1 {
            let len = shape.iter().product::<usize>().max(1);
            return Some(Self {
                width: len,
                rows: 1,
                columns: len,
                across: 1,
            });
        }
        let &[height, width] = shape else {
            return None;
        };
        let whole_rows = [1, width.max(1)];
        let found = blocks
            .iter()
            .find(|[rows, columns]| scales == [height.div_ceil(*rows), width.div_ceil(*columns)]);
        let by_row = || (scales == [height, 1] || scales == [height]).then_some(&whole_rows);
        let [rows, columns] = *found.or_else(by_row)?;
        Some(Self {
            width,
            rows,
            columns,
            across: width.div_ceil(columns),
        })
    }
}

/// The scales of one tensor, in memory.
#[derive(Clone, Debug)]
pub struct Scales {
    grid: Grid,
    values: Vec<f32>,
}

impl Scales {
    /// From the scales in row-major order.
    ///
    /// # Errors
    ///
    /// A scale that is negative, infinite or NaN: its index.
    pub fn new(grid: Grid, values: Vec<f32>) -> Result<Self, usize> {
        let wrong = |value: &f32| !value.is_finite() || *value < 0.0;
        match values.iter().position(wrong) {
            Some(at) => Err(at),
            None => Ok(Self { grid, values }),
        }
    }

    /// Multiplies the tensor's elements `start .. start + values.len()` by their scales.
    pub fn multiply(&self, start: usize, values: &mut [f32]) {
        let Grid {
            width,
            rows,
            columns,
            across,
        } = self.grid;
        let (mut at, mut rest) = (start, values);
        while !rest.is_empty() {
            let (row, column) = (at / width, at % width);
            // To the end of the block, which may be narrower at the right.
            let end = ((column / columns + 1) * columns).min(width);
            let (here, after) = rest.split_at_mut((end - column).min(rest.len()));
            let scale = self.values[row / rows * across + column / columns];
            here.iter_mut().for_each(|value| *value *= scale);
            at += here.len();
            rest = after;
        }
    }
}

/// A tensor as a header has it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: &'a [usize],
}

impl<'a> From<&'a TensorInfo> for Stored<'a> {
    fn from(info: &'a TensorInfo) -> Self {
        Self {
            name: &info.name,
            dtype: info.dtype,
            shape: &info.shape,
        }
    }
}

/// Which tensors of a checkpoint are scales, and of what.
#[derive(Clone, Debug, Default)]
pub struct ScaleMap {
    /// By the name of the weight: the name of its scales and how they are laid out.
    of: HashMap<String, (String, Grid)>,
    /// The names of all scales.
    scales: HashSet<String>,
    /// How many of them are of activations and caches.
    others: usize,
}

/// Scales of activations and caches, beside a module's weight.
const OTHERS: [&str; 9] = [
    "input_scale",
    "input_scale_ub",
    "output_scale",
    "activation_scale",
    "kv_scale",
    "k_scale",
    "v_scale",
    "q_scale",
    "prob_output_scale",
];

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// One of `scales`, tensors that seem to hold scales, that lies beside the weight.
fn beside<'a>(weight: &str, scales: &[&'a str]) -> Option<&'a str> {
    let module = |name: &str| name.len() - last(name).len();
    let own = |name: &&&str| {
        let same = module(name) == module(weight) && name[..module(name)] == weight[..module(name)];
        same || name.starts_with(&format!("{weight}."))
    };
    scales.iter().find(own).copied()
}

impl ScaleMap {
    /// Finds the scales among the tensors of the checkpoint in `dir`.
    ///
    /// # Errors
    ///
    /// 8-bit weights that lack the scales that `quantisation` promises; scales whose shape or
    /// dtype does not fit.
    pub fn new(
        dir: &Path,
        tensors: &[Stored<'_>],
        quantisation: Option<&Quantisation>,
    ) -> Result<Self> {
        let by_name: HashMap<&str, &Stored<'_>> =
            tensors.iter().map(|tensor| (tensor.name, tensor)).collect();
        let blocks = quantisation.map_or(&[][..], |quantisation| &quantisation.blocks);
        let mut map = Self::default();
        let names = tensors.iter().map(|tensor| tensor.name);
        let unknown = |name: &&str| last(name).contains("scale") && !OTHERS.contains(&last(name));
        let unknown: Vec<&str> = names.filter(unknown).collect();
        for tensor in tensors {
            if !tensor.dtype.is_f8() {
                continue;
            }
            let name = tensor.name;
            let found = ["_scale_inv", "_scale"]
                .iter()
                .find_map(|end| by_name.get(format!("{name}{end}").as_str()));
            let Some(scales) = found else {
                if let Some(other) = beside(name, &unknown) {
                    return Err(Error::file(
                        dir,
                        format!(
                            "tensor `{name}` has 8-bit numbers, and what `{other}` means for them \
                             is not known: expected `{name}_scale_inv` or `{name}_scale`"
                        ),
                    )
                    .remedy("convert the model to bfloat16 with the program that made it"));
                }
                if let Some(Quantisation { method, .. }) = quantisation {
                    return Err(Error::file(
                        dir,
                        format!(
                            "tensor `{name}` has 8-bit numbers, but there is no \
                             `{name}_scale_inv` or `{name}_scale`, as `{method}` promises"
                        ),
                    )
                    .remedy("download the model again, its weights are incomplete"));
                }
                continue;
            };
            let float = scales.dtype.is_float() && !scales.dtype.is_f8();
            let grid = Grid::fit(tensor.shape, scales.shape, blocks);
            let (true, Some(grid)) = (float, grid) else {
                let dtype = scales.dtype.torch_name();
                return Err(Error::file(
                    dir,
                    format!(
                        "the scales `{}` are {dtype} {:?}; a matrix of {:?} needs float32, \
                         float16 or bfloat16 scales: one, one for each row, or one for each \
                         block (of {blocks:?})",
                        scales.name, scales.shape, tensor.shape
                    ),
                )
                .remedy(
                    "check `weight_block_size` in the field `quantization_config` of config.json",
                ));
            };
            map.scales.insert(scales.name.to_owned());
            map.of
                .insert(name.to_owned(), (scales.name.to_owned(), grid));
        }
        if !map.of.is_empty() || quantisation.is_some() {
            let names = tensors.iter().map(|tensor| tensor.name);
            let others = names.filter(|name| OTHERS.contains(&last(name)));
            map.scales.extend(others.map(str::to_owned));
            map.others = map.scales.len() - map.of.len();
        }
        Ok(map)
    }

    /// The name of a weight's scales and how they are laid out, if it has any.
    pub fn of(&self, weight: &str) -> Option<(&str, Grid)> {
        let (name, grid) = self.of.get(weight)?;
        Some((name, *grid))
    }

    /// Whether a tensor is none of the model's parameters but a scale.
    pub fn contains(&self, name: &str) -> bool {
        self.scales.contains(name)
    }

    /// How many tensors have scales.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether no tensor has scales.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// How many scales of activations and caches there are.
    pub fn others(&self) -> usize {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 rows of 5 ones times their scales, read in every possible piece.
    fn scaled(scales: &[usize], blocks: &[[usize; 2]], values: &[f32]) -> Vec<f32> {
        let grid = Grid::fit(&[3, 5], scales, blocks).unwrap();
        let scales = Scales::new(grid, values.to_vec()).unwrap();
        let mut whole = vec![1.0; 15];
        scales.multiply(0, &mut whole);
        for start in 0..15 {
            for end in start..=15 {
                let mut piece = vec![1.0; end - start];
                scales.multiply(start, &mut piece);
                assert_eq!(piece, whole[start..end]);
            }
        }
        whole
    }

    #[test]
    fn scales_are_of_the_tensor_the_row_or_the_block() {
        for shape in [&[][..], &[1], &[1, 1]] {
            assert_eq!(scaled(shape, &[], &[0.5]), [0.5; 15]);
        }
        let rows = [1., 1., 1., 1., 1., 2., 2., 2., 2., 2., 3., 3., 3., 3., 3.];
        assert_eq!(scaled(&[3, 1], &[], &[1.0, 2.0, 3.0]), rows);
        assert_eq!(scaled(&[3], &[], &[1.0, 2.0, 3.0]), rows);
        // Blocks of 2 x 2: two rows of three blocks, cut off at the right and below.
        let blocks = [1., 1., 2., 2., 3., 1., 1., 2., 2., 3., 4., 4., 5., 5., 6.];
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(scaled(&[2, 3], &[[128, 128], [2, 2]], &values), blocks);
        let groups = [1., 1., 1., 2., 2., 3., 3., 3., 4., 4., 5., 5., 5., 6., 6.];
        assert_eq!(scaled(&[3, 2], &[[1, 3]], &values), groups);
        for wrong in [&[3, 2][..], &[2, 3], &[5], &[1, 5], &[15], &[0], &[3, 5, 1]] {
            assert_eq!(Grid::fit(&[3, 5], wrong, &[]), None, "{wrong:?}");
        }
        assert_eq!(Grid::fit(&[2, 3, 5], &[2, 3, 1], &[]), None);
        let grid = Grid::fit(&[3, 5], &[3], &[]).unwrap();
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            assert_eq!(Scales::new(grid, vec![1.0, 0.0, bad]).err(), Some(2));
        }
    }

    #[test]
    fn scales_are_found_by_name() {
        let f8 = Dtype::F8E4M3;
        let stored = |name, dtype, shape| Stored { name, dtype, shape };
        let tensors = [
            stored("a.weight", f8, &[3, 5][..]),
            stored("a.weight_scale_inv", Dtype::BF16, &[2, 3]),
            stored("a.input_scale", Dtype::F32, &[]),
            stored("b.weight", f8, &[4, 4]),
            stored("b.weight_scale", Dtype::F32, &[4, 1]),
            stored("c.weight", Dtype::BF16, &[4]),
            stored("attn.k_scale", Dtype::F32, &[]),
        ];
        let fp8 = Quantisation {
            method: "fp8".into(),
            blocks: vec![[2, 2]],
        };
        let map = |tensors: &[Stored<'_>], quantisation| {
            ScaleMap::new(Path::new("x"), tensors, quantisation)
        };
        let found = map(&tensors, Some(&fp8)).unwrap();
        assert_eq!((found.len(), found.others()), (2, 2));
        assert_eq!(found.of("a.weight").unwrap().0, "a.weight_scale_inv");
        assert!(found.contains("b.weight_scale") && found.contains("attn.k_scale"));
        assert!(!found.contains("b.weight") && found.of("c.weight").is_none());

        let error = map(&tensors, None).unwrap_err().to_string();
        assert!(
            error.contains("`a.weight_scale_inv` are bfloat16 [2, 3]"),
            "{error}"
        );
        assert!(error.contains("weight_block_size"), "{error}");
        let error = map(&tensors[3..4], Some(&fp8)).unwrap_err().to_string();
        assert!(
            error.contains("there is no `b.weight_scale_inv`"),
            "{error}"
        );
        // Scales by a name that is not known.
        for name in ["b.scale_weight", "b.weight.scale"] {
            let odd = [tensors[3], stored(name, Dtype::F32, &[4, 1])];
            let error = map(&odd, None).unwrap_err().to_string();
            assert!(error.contains(&format!("what `{name}` means")), "{error}");
        }
        let elsewhere = [tensors[3], stored("ab.scale_weight", Dtype::F32, &[4, 1])];
        assert!(map(&elsewhere, None).unwrap().is_empty());
        // Without a promise they are plain numbers.
        assert!(map(&tensors[3..4], None).unwrap().is_empty());
        let integers = [tensors[3], stored("b.weight_scale", Dtype::I32, &[4, 1])];
        assert!(map(&integers, None).is_err());
    }
}
