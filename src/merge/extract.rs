//! The difference of two checkpoints as a LoRA adapter.
//!
//! Each adapted matrix gets the best approximation of low rank to its difference, by a
//! randomised singular value decomposition with power iterations (Halko, Martinsson & Tropp,
//! arXiv:0909.4061): exact to rounding where the difference has at most the wanted rank.
//!
//! Memory: for a matrix of m × n and rank r, 8 · (m + n) · (r + 8) numbers of 4 bytes. The
//! matrices themselves are read piece by piece, six times.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::adapter::PREFIX;
use super::arithmetic::vector::{add, dot, subtract};
use super::inputs::existing_ancestor;
use super::low_rank::LowRank;
use crate::checkpoint::{
    ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint, CheckpointWriter, Layout,
    Target,
};
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::tensors::{Dtype, Elements, TensorSpec, View};

/// Directions beyond the wanted rank that the decomposition follows.
const EXTRA: usize = 8;
/// Power iterations.
const ITERATIONS: usize = 2;
/// Columns that a thread works on at a time.
const STRIPE: usize = 256;

/// How an adapter is extracted.
#[derive(Clone, Debug, clap::Args)]
pub struct ExtractOptions {
    /// Rank of the adapter (default 32).
    #[arg(long, default_value_t = ExtractOptions::default().rank, hide_default_value = true)]
    pub rank: usize,
    /// Names of the modules to adapt, as PEFT has them (default: every matrix of the layers).
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub targets: Vec<String>,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            rank: 32,
            targets: Vec::new(),
        }
    }
}

/// What became of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// The module: the name of its weight without `.weight`.
    pub module: String,
    /// Norm of what the adapter misses, as a share of the norm of the difference (0 where there
    /// is no difference).
    pub error: f64,
    /// L2 norm of the difference.
    pub norm: f64,
}

/// Writes the difference of the checkpoints `tuned` and `base` as an adapter into the folder
/// `out`, with `lora_alpha` equal to the rank.
///
/// # Errors
///
/// Checkpoints that cannot be read or do not fit together, targets that no matrix has, an output
/// folder that is not empty or inside an input, failed writes.
pub fn extract(
    base: &Path,
    tuned: &Path,
    out: &Path,
    options: &ExtractOptions,
) -> Result<Vec<Extracted>> {
    if options.rank == 0 {
        return Err(Error::usage("`rank` must be at least 1"));
    }
    let (a, b) = (Checkpoint::open(base)?, Checkpoint::open(tuned)?);
    let target = check_output(&[base, tuned], out)?;
    let modules = modules(&a, &b, &options.targets)?;
    let mut specs = Vec::new();
    for (module, shape) in &modules {
        let rank = options.rank;
        for (half, shape) in [("A", [rank, shape[1]]), ("B", [shape[0], rank])] {
            specs.push(TensorSpec {
                name: format!("{PREFIX}{module}.lora_{half}.weight"),
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            });
        }
    }
    let place = target.begin("extract-lora")?;
    let mut report = Vec::new();
    place.fill(|out| {
        let writer = CheckpointWriter::open(out, Layout::single(specs, WEIGHTS)?)?;
        let bar = Bar::new("extracting", modules.len() as u64, "modules");
        for (at, (module, shape)) in modules.iter().enumerate() {
            let name = format!("{module}.weight");
            let difference = Difference {
                base: a.tensor(&name)?,
                tuned: b.tensor(&name)?,
                rows: shape[0],
                columns: shape[1],
            };
            let rank = options.rank;
            let (right, left) = decompose(&difference, rank)?;
            for (half, values) in [&right, &left].into_iter().enumerate() {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                writer.write(2 * at + half, 0, &bytes)?;
            }
            let (missed, norm) = difference.missed(&LowRank::new(1.0, rank, right, left, false))?;
            report.push(Extracted {
                module: module.clone(),
                error: if norm > 0.0 { missed / norm } else { 0.0 },
                norm,
            });
            bar.advance(1);
        }
        let record = writer.record()?;
        writer.finish(out)?;
        let path = out.join(CONFIG);
        let config = settings(base, options, &modules);
        std::fs::write(&path, format!("{config:#}\n")).at(&path)?;
        Ok(record)
    })?;
    Ok(report)
}

fn check_output(inputs: &[&Path], out: &Path) -> Result<Target> {
    let place = existing_ancestor(out);
    if inputs
        .iter()
        .any(|dir| place.starts_with(existing_ancestor(dir)))
    {
        let problem = format!("the output `{}` lies inside an input folder", out.display());
        return Err(Error::usage(problem).remedy("choose another output folder"));
    }
    let target = Target::look(out, false)?;
    if target.is_taken() {
        let problem = format!("the output folder `{}` is not empty", out.display());
        return Err(Error::usage(problem).remedy("choose another one"));
    }
    Ok(target)
}

fn settings(base: &Path, options: &ExtractOptions, modules: &[(String, [usize; 2])]) -> Value {
    let mut targets: Vec<&str> = modules
        .iter()
        .map(|(module, _)| module.rsplit('.').next().unwrap_or(module))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.to_string_lossy(),
        "r": options.rank,
        "lora_alpha": options.rank,
        "lora_dropout": 0.0,
        "use_rslora": false,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "modules_to_save": null,
    })
}

/// The modules to adapt with the shapes of their weights.
fn modules(
    base: &Checkpoint,
    tuned: &Checkpoint,
    targets: &[String],
) -> Result<Vec<(String, [usize; 2])>> {
    let mut found = Vec::new();
    let mut used = vec![false; targets.len()];
    for tensor in base.tensors() {
        let Some(module) = tensor.name.strip_suffix(".weight") else {
            continue;
        };
        let &[rows, columns] = tensor.shape.as_slice() else {
            continue;
        };
        let is_target = |target: &String| {
            let before = module.strip_suffix(target.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let wanted = match targets.iter().position(is_target) {
            Some(at) => {
                used[at] = true;
                true
            }
            None => targets.is_empty() && super::inputs::layer(&tensor.name).is_some(),
        };
        if !wanted || rows == 0 || columns == 0 || !tensor.dtype.is_float() {
            continue;
        }
        let other = tuned.tensor(&tensor.name)?;
        for (checkpoint, dtype) in [(base, tensor.dtype), (tuned, other.dtype)] {
            if dtype.is_f8() {
                let problem = format!("tensor `{}` has 8-bit numbers", tensor.name);
                return Err(Error::file(checkpoint.dir(), problem).remedy(
                    "write the model in bfloat16 first: `fuselm merge` with `passthrough`",
                ));
            }
        }
        if other.shape != tensor.shape || !other.dtype.is_float() {
            return Err(Error::input(
                tuned.dir().display(),
                format!(
                    "tensor `{}` is {} {:?}, the base model has {} {:?}",
                    tensor.name, other.dtype, other.shape, tensor.dtype, tensor.shape
                ),
            )
            .remedy("give two checkpoints of one architecture"));
        }
        found.push((module.to_owned(), [rows, columns]));
    }
    if let Some(at) = used.iter().position(|used| !used) {
        let problem = format!("no matrix of the model is named `{}`", targets[at]);
        return Err(Error::usage(problem).remedy("give names like `q_proj`"));
    }
    if found.is_empty() {
        return Err(Error::file(base.dir(), "there is no matrix in a layer")
            .remedy("name the modules with `--targets`"));
    }
    Ok(found)
}

/// tuned − base, `rows` × `columns`.
struct Difference<'a> {
    base: View<'a>,
    tuned: View<'a>,
    rows: usize,
    columns: usize,
}

impl Difference<'_> {
    fn read(&self, start: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        scratch.resize(out.len(), 0.0);
        self.tuned.read(start, out);
        self.base.read(start, scratch);
        subtract(out, scratch);
    }

    /// The product with `x` (columns × `width`): rows × `width`.
    fn times(&self, x: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut product = vec![0.0; self.rows * width];
        product
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(16)
            .try_for_each_init(
                || (vec![0.0; self.columns], Vec::new()),
                |(line, scratch), (row, out)| {
                    check_interrupt()?;
                    self.read(row * self.columns, line, scratch);
                    for (value, x) in line.iter().zip(x.chunks_exact(width)) {
                        add(out, *value, x);
                    }
                    Result::Ok(())
                },
            )?;
        Ok(product)
    }

    /// The product of the transpose with `x` (rows × `width`): columns × `width`.
    fn transposed_times(&self, x: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut product = vec![0.0; self.columns * width];
        product
            .par_chunks_mut(STRIPE * width)
            .enumerate()
            .try_for_each_init(
                || (Vec::new(), Vec::new()),
                |(line, scratch), (stripe, out)| {
                    check_interrupt()?;
                    line.resize(out.len() / width, 0.0);
                    for (row, x) in x.chunks_exact(width).enumerate() {
                        self.read(row * self.columns + stripe * STRIPE, line, scratch);
                        for (value, out) in line.iter().zip(out.chunks_exact_mut(width)) {
                            add(out, *value, x);
                        }
                    }
                    Result::Ok(())
                },
            )?;
        Ok(product)
    }

    /// The norm of what an approximation misses, and the norm of the difference.
    fn missed(&self, approximation: &LowRank) -> Result<(f64, f64)> {
        let rows: Vec<(f64, f64)> = (0..self.rows)
            .into_par_iter()
            .with_min_len(16)
            .map_init(
                || (vec![0.0; self.columns], vec![0.0; self.columns], Vec::new()),
                |(line, product, scratch), row| {
                    check_interrupt()?;
                    self.read(row * self.columns, line, scratch);
                    let norm = dot(line, line);
                    product.fill(0.0);
                    approximation.add(row * self.columns, product);
                    subtract(line, product);
                    Result::Ok((dot(line, line), norm))
                },
            )
            .collect::<Result<_>>()?;
        let (missed, norm) = rows
            .iter()
            .fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        Ok((missed.sqrt(), norm.sqrt()))
    }
}

/// A (`rank` × columns) and B (rows × `rank`) with B A close to the difference; both carry the
/// square roots of the singular values. Terms beyond the smaller side of the matrix are zero.
fn decompose(difference: &Difference<'_>, rank: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let (rows, columns) = (difference.rows, difference.columns);
    let width = (rank + EXTRA).min(rows).min(columns);
    let mut x = random(columns * width);
    let mut left = Vec::new();
    for round in 0..=ITERATIONS {
        left = difference.times(&x, width)?;
        orthonormalise(&mut left, width);
        x = difference.transposed_times(&left, width)?;
        if round < ITERATIONS {
            orthonormalise(&mut x, width);
        }
    }
    // Now the difference is about left · xᵀ, with orthonormal columns in `left`; the eigenvectors
    // of xᵀ x turn both so that the columns of x become orthogonal.
    let mut products = vec![0.0; width * width];
    for line in x.chunks_exact(width) {
        for i in 0..width {
            for j in 0..width {
                products[i * width + j] += f64::from(line[i]) * f64::from(line[j]);
            }
        }
    }
    let (values, vectors) = eigen(products, width);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(rank);
    let mut a = vec![0f32; rank * columns];
    let mut b = vec![0f32; rows * rank];
    for (term, at) in order.into_iter().enumerate() {
        let root = values[at].max(0.0).sqrt().sqrt();
        if root == 0.0 {
            continue;
        }
        let turn = |line: &[f32]| -> f64 {
            let terms = line.iter().enumerate();
            terms
                .map(|(i, v)| f64::from(*v) * vectors[i * width + at])
                .sum()
        };
        for (column, line) in x.chunks_exact(width).enumerate() {
            a[term * columns + column] = (turn(line) / root) as f32;
        }
        for (row, line) in left.chunks_exact(width).enumerate() {
            b[row * rank + term] = (turn(line) * root) as f32;
        }
    }
    Ok((a, b))
}

/// Numbers from -1 to 1, the same every time.
fn random(count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|index| {
            let mut x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Makes the columns of a matrix with rows of `width` orthonormal; columns that depend on earlier
/// ones become zero. Gram-Schmidt, twice.
fn orthonormalise(matrix: &mut [f32], width: usize) {
    let rows = matrix.len() / width;
    let mut columns: Vec<Vec<f32>> = (0..width)
        .map(|column| (0..rows).map(|row| matrix[row * width + column]).collect())
        .collect();
    for at in 0..width {
        let (before, rest) = columns.split_at_mut(at);
        let column = &mut rest[0];
        let first = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(other, column) as f32;
                add(column, -along, other);
            }
        }
        let norm = dot(column, column).sqrt();
        // What is left of a dependent column is rounding error.
        let factor = if norm > 1e-6 * first {
            (1.0 / norm) as f32
        } else {
            0.0
        };
        super::arithmetic::vector::scale(column, factor);
    }
    for (column, values) in columns.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            matrix[row * width + column] = *value;
        }
    }
}

/// Eigenvalues and eigenvectors (in columns) of a symmetric matrix, by Jacobi's rotations.
fn eigen(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; size * size];
    (0..size).for_each(|i| vectors[i * size + i] = 1.0);
    let scale = (0..size)
        .map(|i| matrix[i * size + i].abs())
        .fold(0.0, f64::max);
    for _ in 0..60 {
        let mut turned = false;
        for p in 0..size {
            for q in p + 1..size {
                let (pp, qq) = (matrix[p * size + p], matrix[q * size + q]);
                let pq = matrix[p * size + q];
                if pq.abs() <= 1e-17 * scale || pq * pq <= 1e-32 * (pp * qq).abs() {
                    continue;
                }
                turned = true;
                let ratio = (qq - pp) / (2.0 * pq);
                let t = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..size {
                    let (kp, kq) = (matrix[k * size + p], matrix[k * size + q]);
                    matrix[k * size + p] = c * kp - s * kq;
                    matrix[k * size + q] = s * kp + c * kq;
                }
                for k in 0..size {
                    let (pk, qk) = (matrix[p * size + k], matrix[q * size + k]);
                    matrix[p * size + k] = c * pk - s * qk;
                    matrix[q * size + k] = s * pk + c * qk;
                    let (kp, kq) = (vectors[k * size + p], vectors[k * size + q]);
                    vectors[k * size + p] = c * kp - s * kq;
                    vectors[k * size + q] = s * kp + c * kq;
                }
            }
        }
        if !turned {
            break;
        }
    }
    let values = (0..size).map(|i| matrix[i * size + i]).collect();
    (values, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_by_hand() {
        // (2 1; 1 2): 3 along (1, 1), 1 along (1, -1).
        let (values, vectors) = eigen(vec![2.0, 1.0, 1.0, 2.0], 2);
        let largest = usize::from(values[1] > values[0]);
        assert!((values[largest] - 3.0).abs() < 1e-12 && (values[1 - largest] - 1.0).abs() < 1e-12);
        assert!((vectors[largest] - vectors[2 + largest]).abs() < 1e-12);
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_again() {
        let (rows, columns) = (90, 300);
        let a = random(5 * columns);
        let b: Vec<f32> = random(5 * columns + rows * 5)[5 * columns..].to_vec();
        let product = LowRank::new(0.01, 5, a, b, false);
        let mut values = vec![0.0; rows * columns];
        product.add(0, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = vec![0; bytes.len()];
        let shape = [rows, columns];
        let view = |bytes| View {
            dtype: Dtype::F32,
            shape: &shape,
            bytes,
        };
        let difference = Difference {
            base: view(&zeros),
            tuned: view(&bytes),
            rows,
            columns,
        };
        for (rank, low, high) in [(5, 0.0, 1e-5), (12, 0.0, 1e-5), (3, 0.05, 0.9)] {
            let (a, b) = decompose(&difference, rank).unwrap();
            let found = LowRank::new(1.0, rank, a, b, false);
            let (missed, norm) = difference.missed(&found).unwrap();
            assert!(
                missed >= low * norm && missed <= high * norm,
                "{rank} {missed} {norm}"
            );
        }
        let none = Difference {
            base: view(&bytes),
            tuned: view(&bytes),
            rows,
            columns,
        };
        let (a, b) = decompose(&none, 4).unwrap();
        assert!(a.iter().chain(&b).all(|v| *v == 0.0));
    }
}
