//! The element types of GGUF files, and their conversion to `f32`.

use std::borrow::Cow;

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, Result, bail};
use rayon::prelude::*;

/// Bytes of a row of `width` elements, which are whole blocks.
pub(super) fn row_bytes(dtype: GgmlDType, width: usize) -> usize {
    width / dtype.block_size() * dtype.type_size()
}

/// Decodes rows of `width` elements: row `i` of `out` is row `order(i)` of `bytes`, converted.
pub(super) fn decode<T: Send>(
    dtype: GgmlDType,
    bytes: &[u8],
    width: usize,
    order: impl Fn(usize) -> usize + Sync,
    convert: impl Fn(f32) -> T + Sync,
    out: &mut [T],
) -> Result<()> {
    if !width.is_multiple_of(dtype.block_size()) {
        bail!("rows of {width} are not whole blocks of {dtype:?}");
    }
    let stride = row_bytes(dtype, width);
    let rows = out.par_chunks_exact_mut(width).enumerate().with_min_len(8);
    rows.try_for_each(|(row, out)| {
        let begin = order(row) * stride;
        let Some(raw) = bytes.get(begin..begin + stride) else {
            bail!("row {row} is beyond the tensor");
        };
        let blocks = dtype.from_data(Cow::Borrowed(raw));
        match blocks.dequantize(width)? {
            CpuStorage::F32(values) => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = convert(value);
                }
            }
            _ => bail!("expected f32"),
        }
        Ok(())
    })
}
