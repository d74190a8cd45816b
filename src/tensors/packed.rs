//! Weights that are no numbers by themselves: packed integers, codes, floats of fewer than 8 bits.
//!
//! They are known by the names and types of their tensors, whatever a configuration says: what
//! belongs to one weight (its codes, scales, zero points) makes sense only together.

use std::collections::HashSet;

use super::dtype::Dtype;
use super::scales::Stored;

/// Packed weights of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// What is known about the format from its tensors.
    pub format: &'static str,
    /// One of the tensors.
    pub tensor: String,
    /// Its element type.
    pub dtype: Dtype,
    /// How many tensors are no numbers.
    pub count: usize,
}

/// How the tensors of a format are called: the first row that a checkpoint has a tensor of says
/// what it is.
struct Format {
    name: &'static str,
    /// The end of a name whose tensor holds no numbers.
    end: &'static str,
    /// The end of the name of another tensor of the same module; empty where it does not matter.
    beside: &'static str,
}

const fn format(name: &'static str, end: &'static str, beside: &'static str) -> Format {
    Format { name, end, beside }
}

/// Parts of the names of what integers are multiplied by, shifted by or looked up in.
const SCALES: [&str; 4] = ["scale", "zero", "absmax", "codebook"];

/// Integers beside what they are multiplied by.
const SCALED: &str = "integers with scales";

/// Integers that nothing beside them explains.
const ALONE: &str = "integers";

/// The names as the formats' own programs write them.
const FORMATS: &[Format] = &[
    format("NVFP4", "weight", "weight_scale_2"),
    format("NVFP4", "weight_packed", "weight_global_scale"),
    format("NVFP4", "_packed", "_global_scale"),
    format("packed by compressed-tensors", "weight_packed", ""),
    format("packed by compressed-tensors", "_packed", "_scale"),
    format("sparse, by compressed-tensors", "bitmask", ""),
    format("MXFP4", "_blocks", "_scales"),
    format("bitsandbytes (4 bits)", "weight", "weight.absmax"),
    format("bitsandbytes (8 bits)", "weight", "SCB"),
    format("MLX", "weight", "biases"),
    format("GPTQ or AWQ", "qweight", ""),
    format("GPTQ or AWQ", "qzeros", ""),
    format("GPTQ or AWQ", "g_idx", ""),
    format("AQLM", "codes", "codebooks"),
    format("VPTQ", "indices", "centroids"),
    format("VPTQ", "indices", "centroids.weight"),
    format("SpQR", "dense_weights", ""),
    format("Marlin", "B", "s"),
    format("QuIP#", "Qidxs", ""),
    format("EXL3", "trellis", ""),
    format("EXL2", "q_weight", ""),
    format("HQQ", "W_q", ""),
    format("quanto", "weight._data", ""),
    format("torchao", "_weight_qdata", ""),
    format(SCALED, "weight", "weight_scale"),
    format(SCALED, "weight", "weight_scales"),
    format(SCALED, "weight", "weight_scale_inv"),
    format(SCALED, "weight", "scales"),
    format(SCALED, "weight", "scale"),
    format(SCALED, "", "_scale"),
    format(SCALED, "", "_scales"),
    format(SCALED, "", "_scale_inv"),
    format(SCALED, "", ".absmax"),
    format(ALONE, "weight", ""),
    format("8-bit floats with block scales (MX)", "weight_scale", ""),
    format(
        "8-bit floats with block scales (MX)",
        "weight_scale_inv",
        "",
    ),
];

/// The packed weights among these tensors of a checkpoint, if there are any.
///
/// Integers as such are none: positions, routes and masks are stored as integers, too.
pub fn packed(tensors: &[Stored<'_>]) -> Option<Packed> {
    let coded: Vec<&Stored<'_>> = tensors.iter().filter(|t| !t.dtype.is_float()).collect();
    if coded.is_empty() {
        return None;
    }
    let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    let scaled = names.iter().filter(|name| {
        let last = name.rsplit('.').next().unwrap_or(name);
        SCALES.iter().any(|part| last.contains(part))
    });
    let scaled: HashSet<&str> = scaled.map(|name| module(name)).collect();
    let mut found: Option<(usize, &Stored<'_>)> = None;
    let mut count = 0;
    for tensor in coded {
        // Integers of 64 bits are places in something, such as the positions of a window.
        let may_be = tensor.shape.len() > 1 && tensor.dtype != Dtype::I64;
        let is_scaled = || may_be && scaled.contains(module(tensor.name));
        let Some(row) = row(tensor, &names, is_scaled) else {
            continue;
        };
        count += 1;
        if found.is_none_or(|(first, _)| row < first) {
            found = Some((row, tensor));
        }
    }
    let (row, tensor) = found?;
    let unnamed = match tensor.dtype.is_small_float() {
        true => "small floats",
        false => SCALED,
    };
    Some(Packed {
        format: FORMATS.get(row).map_or(unnamed, |format| format.name),
        tensor: tensor.name.to_owned(),
        dtype: tensor.dtype,
        count,
    })
}

/// The name of a tensor's module, with the dot.
fn module(name: &str) -> &str {
    name.rfind('.').map_or("", |dot| &name[..=dot])
}

/// The row that a tensor without numbers belongs to; the number of rows for small floats, and for
/// integers of a module that has scales.
fn row(tensor: &Stored<'_>, names: &HashSet<&str>, is_scaled: impl Fn() -> bool) -> Option<usize> {
    let small = tensor.dtype.is_small_float();
    // A mask is none, whatever lies beside it.
    let may_be = tensor.dtype != Dtype::Bool;
    let fits = |format: &Format| {
        let Some(stem) = tensor.name.strip_suffix(format.end) else {
            return false;
        };
        let whole = format.end.is_empty() || format.end.starts_with('_');
        if !(whole || stem.is_empty() || stem.ends_with('.')) {
            return false;
        }
        format.beside.is_empty() || names.contains(format!("{stem}{}", format.beside).as_str())
    };
    let found = FORMATS.iter().position(fits).filter(|_| may_be);
    // A vector of integers without scales is a mistake in itself.
    let alone = |row: &usize| FORMATS[*row].name == ALONE;
    let found = found.filter(|row| tensor.shape.len() > 1 || !alone(row));
    let other = small || (may_be && is_scaled());
    found.or(other.then_some(FORMATS.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tensors: &[(&str, Dtype)]) -> Option<(&'static str, usize)> {
        let stored: Vec<Stored<'_>> = tensors
            .iter()
            .map(|(name, dtype)| Stored {
                name,
                dtype: *dtype,
                shape: &[2, 2],
            })
            .collect();
        packed(&stored).map(|packed| (packed.format, packed.count))
    }

    #[test]
    fn formats_are_known_by_their_tensors() {
        use Dtype::{BF16, F8E4M3, F8E8M0, F16, F32, I8, I16, I32, I64, U8, U32};
        for (format, count, tensors) in [
            (
                "NVFP4",
                1,
                &[
                    ("a.weight", U8),
                    ("a.weight_scale", F8E4M3),
                    ("a.weight_scale_2", F32),
                    ("a.input_scale", F32),
                ][..],
            ),
            (
                "NVFP4",
                1,
                &[("a.weight_packed", U8), ("a.weight_global_scale", F32)],
            ),
            (
                "packed by compressed-tensors",
                1,
                &[
                    ("a.weight_packed", I32),
                    ("a.weight_scale", BF16),
                    ("a.weight_shape", I64),
                ],
            ),
            (
                "MXFP4",
                2,
                &[
                    ("e.gate_up_proj_bias", F16),
                    ("e.gate_up_proj_blocks", U8),
                    ("e.gate_up_proj_scales", U8),
                ],
            ),
            (
                "MLX",
                1,
                &[("a.biases", F16), ("a.scales", F16), ("a.weight", U32)],
            ),
            (
                "GPTQ or AWQ",
                3,
                &[
                    ("a.g_idx", I32),
                    ("a.qweight", I32),
                    ("a.qzeros", I32),
                    ("a.scales", F16),
                ],
            ),
            (
                "bitsandbytes (4 bits)",
                1,
                &[
                    ("a.weight", U8),
                    ("a.weight.absmax", F32),
                    ("a.weight.quant_map", F32),
                ],
            ),
            (
                "bitsandbytes (8 bits)",
                1,
                &[("a.weight", I8), ("a.SCB", F32)],
            ),
            ("EXL3", 1, &[("a.trellis", I16), ("a.suh", F16)]),
            ("Marlin", 1, &[("a.B", I32), ("a.s", F16)]),
            (
                "torchao",
                1,
                &[("a._weight_qdata", I8), ("a._weight_scale", BF16)],
            ),
            (
                "integers with scales",
                2,
                &[("a.packed", I32), ("a.zeros", I32), ("a.scaling", F16)],
            ),
            (
                "integers with scales",
                1,
                &[("a.weight", I8), ("a.weight_scale", BF16)],
            ),
            (
                "integers with scales",
                1,
                &[("e.down_proj", U8), ("e.down_proj_scale", F16)],
            ),
            ("integers", 1, &[("a.weight", I8)]),
            (
                "8-bit floats with block scales (MX)",
                1,
                &[("a.weight", F8E4M3), ("a.weight_scale", F8E8M0)],
            ),
            ("small floats", 1, &[("a.w", Dtype::F4)]),
        ] {
            assert_eq!(found(tensors), Some((format, count)), "{tensors:?}");
        }
    }

    #[test]
    fn numbers_with_scales_and_integers_that_count_are_not_packed() {
        use Dtype::{BF16, Bool, F8E4M3, F32, I64, U8};
        for tensors in [
            &[("a.weight", BF16)][..],
            &[("a.weight", F8E4M3), ("a.weight_scale_inv", F32)],
            &[("a.position_ids", I64), ("bn.num_batches_tracked", I64)],
            &[("a.relative_position_index", I64), ("a.logit_scale", F32)],
            &[("h.0.attn.bias", U8), ("h.0.attn.masked_bias", F32)],
            &[("a.bias", Bool), ("a.bias_scale", F32)],
            &[("a.layernorm_scales", BF16), ("a.kernel_scale", BF16)],
        ] {
            assert_eq!(found(tensors), None, "{tensors:?}");
        }
    }
}
