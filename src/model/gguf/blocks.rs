//! The element types of GGUF files, and their conversion to `f32`.

use std::borrow::Cow;

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, Result, bail};
use half::f16;
use rayon::prelude::*;

use crate::checkpoint::GgufType;

/// What the 4 bits of IQ4_NL and IQ4_XS stand for (ggml's `kvalues_iq4nl`).
const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Decodes rows of `width` elements: row `i` of `out` is row `order(i)` of `bytes`, converted.
pub(super) fn decode<T: Send>(
    dtype: GgufType,
    bytes: &[u8],
    width: usize,
    order: impl Fn(usize) -> usize + Sync,
    convert: impl Fn(f32) -> T + Sync,
    out: &mut [T],
) -> Result<()> {
    if !width.is_multiple_of(dtype.block_size()) {
        bail!("rows of {width} are not whole blocks of {dtype:?}");
    }
    let stride = width / dtype.block_size() * dtype.block_bytes();
    let rows = out.par_chunks_exact_mut(width).enumerate().with_min_len(8);
    rows.try_for_each(|(row, out)| {
        let begin = order(row) * stride;
        let Some(raw) = bytes.get(begin..begin + stride) else {
            bail!("row {row} is beyond the tensor");
        };
        let values = match dtype {
            GgufType::Candle(dtype) => by_candle(dtype, raw, width)?,
            GgufType::Iq4Nl => iq4_nl(raw),
            GgufType::Iq4Xs => iq4_xs(raw),
        };
        for (out, value) in out.iter_mut().zip(values) {
            *out = convert(value);
        }
        Ok(())
    })
}

fn by_candle(dtype: GgmlDType, raw: &[u8], width: usize) -> Result<Vec<f32>> {
    match dtype.from_data(Cow::Borrowed(raw)).dequantize(width)? {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected f32"),
    }
}

/// Blocks of a scale (f16) and 32 numbers, the low halves of the bytes first.
fn iq4_nl(raw: &[u8]) -> Vec<f32> {
    let mut values = Vec::new();
    for block in raw.chunks_exact(GgufType::Iq4Nl.block_bytes()) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        push_iq4(scale, &block[2..], &mut values);
    }
    values
}

/// Blocks of a scale (f16), the upper 2 and the lower 4 bits of 8 factors, and 8 times 32 numbers.
fn iq4_xs(raw: &[u8]) -> Vec<f32> {
    let mut values = Vec::new();
    for block in raw.chunks_exact(GgufType::Iq4Xs.block_bytes()) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let upper = u16::from_le_bytes([block[2], block[3]]);
        for (part, bytes) in block[8..].chunks_exact(16).enumerate() {
            let low = block[4 + part / 2] >> (4 * (part % 2)) & 15;
            let high = (upper >> (2 * part) & 3) as u8;
            let factor = f32::from(low | high << 4) - 32.0;
            push_iq4(scale * factor, bytes, &mut values);
        }
    }
    values
}

fn push_iq4(scale: f32, bytes: &[u8], values: &mut Vec<f32>) {
    let value = |bits: u8| scale * f32::from(IQ4[usize::from(bits)]);
    values.extend(bytes.iter().map(|byte| value(byte & 15)));
    values.extend(bytes.iter().map(|byte| value(byte >> 4)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of arbitrary bytes with a scale of 0.1, and what `gguf.quants.dequantize` (gguf
    /// 0.19.0) makes of them: every sixteenth number, and the sum of all.
    #[test]
    fn codes_of_four_bits() {
        let nl = [-6.498_413, 5.298_706, -3.499_145_5, -12.696_899];
        let xs = [
            27.293_335,
            144.864_62,
            -32.492_065,
            54.986_572,
            -23.394_287,
            -203.350_34,
            36.391_113,
            2.799_316_4,
            -32.492_065,
            259.936_52,
            23.394_287,
            44.989_014,
            -20.794_922,
            103.974_61,
            -31.192_383,
            -127.168_945,
        ];
        let cases: [(GgufType, &[f32], f64); 2] = [
            (GgufType::Iq4Nl, &nl, -37.990_722_656_25),
            (GgufType::Iq4Xs, &xs, 739.119_506_835_937_5),
        ];
        for (dtype, expected, sum) in cases {
            let width = 16 * expected.len();
            let count = width / dtype.block_size() * dtype.block_bytes();
            let mut bytes: Vec<u8> = (0..count).map(|i| (i * 89 + 17) as u8).collect();
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                block[..2].copy_from_slice(&f16::from_f32(0.1).to_le_bytes());
            }
            let mut values = vec![0f32; width];
            decode(dtype, &bytes, width, |row| row, |x| x, &mut values).unwrap();
            let found: Vec<f32> = values.iter().step_by(16).copied().collect();
            assert_eq!(found, expected, "{dtype:?}");
            let total: f64 = values.iter().map(|value| f64::from(*value)).sum();
            assert_eq!(total, sum, "{dtype:?}");
            assert!(decode(dtype, &bytes, width + 1, |row| row, |x| x, &mut values).is_err());
        }
    }
}
