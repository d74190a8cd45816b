//! Element types of stored tensors, and their conversion from and to `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::simd::vectorised;

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F6E2M3,
    F6E3M2,
    F4,
    C64,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Every dtype of the format, in the order of [`Dtype`], with its safetensors name, its torch name
/// and its bits per element.
const NAMES: [(Dtype, &str, &str, u64); 22] = [
    (Dtype::F64, "F64", "float64", 64),
    (Dtype::F32, "F32", "float32", 32),
    (Dtype::F16, "F16", "float16", 16),
    (Dtype::BF16, "BF16", "bfloat16", 16),
    (Dtype::F8E4M3, "F8_E4M3", "float8_e4m3fn", 8),
    (Dtype::F8E5M2, "F8_E5M2", "float8_e5m2", 8),
    (Dtype::F8E8M0, "F8_E8M0", "float8_e8m0fnu", 8),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz", 8),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz", 8),
    (Dtype::F6E2M3, "F6_E2M3", "float6_e2m3fn", 6),
    (Dtype::F6E3M2, "F6_E3M2", "float6_e3m2fn", 6),
    (Dtype::F4, "F4", "float4_e2m1fn_x2", 4),
    (Dtype::C64, "C64", "complex64", 64),
    (Dtype::I64, "I64", "int64", 64),
    (Dtype::I32, "I32", "int32", 32),
    (Dtype::I16, "I16", "int16", 16),
    (Dtype::I8, "I8", "int8", 8),
    (Dtype::U64, "U64", "uint64", 64),
    (Dtype::U32, "U32", "uint32", 32),
    (Dtype::U16, "U16", "uint16", 16),
    (Dtype::U8, "U8", "uint8", 8),
    (Dtype::Bool, "BOOL", "bool", 8),
];

impl Dtype {
    /// The dtype with this safetensors name (`BF16`).
    pub fn from_safetensors(name: &str) -> Option<Self> {
        NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The dtype with this torch name (`bfloat16`), or the usual short form (`bf16`).
    pub fn from_torch(name: &str) -> Option<Self> {
        match name {
            "bf16" => Some(Self::BF16),
            "fp16" | "f16" | "half" => Some(Self::F16),
            "fp32" | "f32" | "float" => Some(Self::F32),
            "f64" | "double" => Some(Self::F64),
            _ => {
                let name = name.strip_prefix("torch.").unwrap_or(name);
                NAMES.iter().find(|row| row.2 == name).map(|row| row.0)
            }
        }
    }

    fn row(self) -> (Dtype, &'static str, &'static str, u64) {
        NAMES[self as usize]
    }

    /// The name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        self.row().1
    }

    /// The name in a `config.json`.
    pub fn torch_name(self) -> &'static str {
        self.row().2
    }

    /// Bytes per element; 0 where several share a byte.
    pub fn size(self) -> usize {
        (self.row().3 / 8) as usize
    }

    /// Bytes of so many elements; `None` if they are no whole bytes, or too many to count.
    pub fn checked_bytes(self, elements: u64) -> Option<u64> {
        let bits = self.row().3;
        match bits % 8 {
            0 => elements.checked_mul(bits / 8),
            _ => elements
                .checked_mul(bits)
                .filter(|bits| bits % 8 == 0)
                .map(|bits| bits / 8),
        }
    }

    /// Bytes of so many elements of a tensor that there is.
    pub fn bytes(self, elements: u64) -> u64 {
        self.checked_bytes(elements).unwrap_or(u64::MAX)
    }

    /// Whether [`Dtype::decode`] reads it.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2
        )
    }

    /// Whether checkpoints of it are read: floats that are decoded; integers and small floats that
    /// are copied.
    pub fn is_read(self) -> bool {
        self != Self::C64
    }

    /// Whether it is a float of 8 bits or fewer that [`Dtype::decode`] does not read: an element of
    /// a packed weight, or an exponent that scales a block.
    pub fn is_small_float(self) -> bool {
        matches!(
            self,
            Self::F8E8M0
                | Self::F8E4M3Fnuz
                | Self::F8E5M2Fnuz
                | Self::F6E2M3
                | Self::F6E3M2
                | Self::F4
        )
    }

    /// Whether it is a float of 8 bits, which may have scales ([`ScaleMap`](super::ScaleMap)).
    pub fn is_f8(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2)
    }

    /// Whether [`Dtype::encode`] writes it.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Converts little-endian elements to `f32`: `bytes` holds `out.len()` of them. `f64` is
    /// rounded, the others convert exactly. Integers decode to zeros: callers check
    /// [`Dtype::is_float`] first.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            Self::BF16 => decode_bf16(bytes, out),
            Self::F16 => {
                // A small buffer on the stack, so that the conversion instructions of the
                // CPU are used whatever the alignment of `bytes`.
                let mut halves = [f16::ZERO; 256];
                for (values, raw) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                    let halves = &mut halves[..values.len()];
                    for (half, raw) in halves.iter_mut().zip(raw.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*raw);
                    }
                    halves.convert_to_f32_slice(values);
                }
            }
            Self::F64 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *value = f64::from_le_bytes(*raw) as f32;
                }
            }
            Self::F8E4M3 => {
                for (value, raw) in out.iter_mut().zip(bytes) {
                    *value = E4M3[usize::from(*raw)];
                }
            }
            Self::F8E5M2 => {
                for (value, raw) in out.iter_mut().zip(bytes) {
                    *value = E5M2[usize::from(*raw)];
                }
            }
            _ => out.fill(0.0),
        }
    }

    /// Converts `f32` values to little-endian elements, rounding to nearest even. `out` holds
    /// `values.len()` elements. Dtypes that are not [`Dtype::is_writable`] leave `out` alone.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        match self {
            Self::F32 => {
                for (raw, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *raw = value.to_le_bytes();
                }
            }
            Self::BF16 => encode_bf16(values, out),
            Self::F16 => {
                let mut halves = [f16::ZERO; 256];
                for (raw, values) in out.chunks_mut(512).zip(values.chunks(256)) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    for (raw, half) in raw.as_chunks_mut::<2>().0.iter_mut().zip(halves.iter()) {
                        *raw = half.to_le_bytes();
                    }
                }
            }
            Self::F64 => {
                for (raw, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                    *raw = f64::from(*value).to_le_bytes();
                }
            }
            _ => {}
        }
    }

    /// [`Dtype::encode`] of `f64` values, which keep all digits in `f64`; how many of them are not
    /// finite as they are stored.
    pub fn encode_f64(self, values: &[f64], out: &mut [u8]) -> usize {
        if self == Self::F64 {
            for (raw, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                *raw = value.to_le_bytes();
            }
            return values.iter().filter(|value| !value.is_finite()).count();
        }
        let single: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        self.encode(&single, out);
        let overflow = self.overflow();
        let is_stored = |value: &&f32| value.abs() < overflow;
        single.len() - single.iter().filter(is_stored).count()
    }

    /// The smallest positive `f32` that [`Dtype::encode`] turns into infinity.
    pub fn overflow(self) -> f32 {
        match self {
            // Half a step beyond the largest number, 65,504.
            Self::F16 => 65_520.0,
            Self::BF16 => f32::from_bits(0x7f7f_8000),
            _ => f32::INFINITY,
        }
    }

    /// `value` as it would be read back after having been stored in this dtype.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.torch_name())
    }
}

/// Bytes ahead of what is decoded that are asked for: who reads several tensors in turn, a few
/// thousand bytes of each, gets little from what the CPU foresees by itself.
const AHEAD: usize = 2048;

/// Asks for the memory at `address`, which may be any.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: only a hint; addresses that cannot be read are ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

vectorised! {
    fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
        let (lines, rest) = bytes.as_chunks::<64>();
        let (values, last) = out.split_at_mut((lines.len() * 32).min(out.len()));
        for (values, line) in values.chunks_mut(32).zip(lines) {
            prefetch(line.as_ptr().wrapping_add(AHEAD));
            for (value, raw) in values.iter_mut().zip(line.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
            }
        }
        for (value, raw) in last.iter_mut().zip(rest.as_chunks::<2>().0) {
            *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
        }
    }

    fn encode_bf16(values: &[f32], out: &mut [u8]) {
        for (raw, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *raw = round_bf16_bits(*value).to_le_bytes();
        }
    }
}

/// The upper half of `value`, rounded to nearest even; NaN stays NaN.
#[inline(always)]
fn round_bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// The 8-bit float of the OCP specification with 4 exponent bits and bias 7: no infinities, NaN
/// where all bits but the sign are set.
const E4M3: [f32; 256] = {
    let mut table = f8_table(3, 7);
    table[0x7f] = f32::NAN;
    table[0xff] = f32::NAN;
    table
};

/// The one with 5 exponent bits and bias 15: infinities and NaN as usual.
const E5M2: [f32; 256] = {
    let mut table = f8_table(2, 15);
    let mut code = 0x7c;
    while code < 0x80 {
        let value = if code == 0x7c {
            f32::INFINITY
        } else {
            f32::NAN
        };
        table[code] = value;
        table[code | 0x80] = -value;
        code += 1;
    }
    table
};

/// The value of every code, as if none was special. `f32` has all of them.
const fn f8_table(mantissa_bits: u32, bias: u32) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let mantissa = code & ((1 << mantissa_bits) - 1);
        let exponent = (code & 0x7f) >> mantissa_bits;
        let bits = match exponent {
            // A multiple of 2^(1 - bias - mantissa bits).
            0 => {
                let step = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
                (mantissa as f32 * step).to_bits()
            }
            _ => ((exponent + 127 - bias) << 23) | (mantissa << (23 - mantissa_bits)),
        };
        table[code as usize] = f32::from_bits(bits | ((code & 0x80) << 24));
        code += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_its_row() {
        for (at, row) in NAMES.iter().enumerate() {
            assert_eq!(row.0 as usize, at);
            assert_eq!(Dtype::from_safetensors(row.1), Some(row.0));
        }
        assert_eq!(Dtype::Bool as usize + 1, NAMES.len());
        assert_eq!(Dtype::F4.checked_bytes(3), None);
        assert_eq!((Dtype::F6E2M3.bytes(4), Dtype::C64.bytes(2)), (3, 16));
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        let values: Vec<f32> = (0..200_000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .chain([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0, f32::NAN])
            .collect();
        let mut bytes = vec![0; values.len() * 2];
        Dtype::BF16.encode(&values, &mut bytes);
        for (value, raw) in values.iter().zip(bytes.chunks(2)) {
            let ours = bf16::from_le_bytes([raw[0], raw[1]]);
            let theirs = bf16::from_f32(*value);
            assert!(
                ours == theirs || (ours.is_nan() && theirs.is_nan()),
                "{value}"
            );
        }
    }

    #[test]
    fn every_float_survives_a_round_trip() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) / 8.0).collect();
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
            let rounded: Vec<f32> = values.iter().map(|v| dtype.round(*v)).collect();
            let mut bytes = vec![0; values.len() * dtype.size()];
            let mut back = vec![0.0; values.len()];
            dtype.encode(&values, &mut bytes);
            dtype.decode(&bytes, &mut back);
            assert_eq!(rounded, back, "{dtype}");
        }
    }

    #[test]
    fn numbers_overflow_from_a_bound_on() {
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64] {
            let bound = dtype.overflow();
            assert_eq!(dtype.round(bound), f32::INFINITY, "{dtype}");
            let below = f32::from_bits(bound.to_bits() - 1);
            assert!(dtype.round(below).is_finite(), "{dtype}");
        }
    }

    #[test]
    fn every_code_of_an_eight_bit_float_is_what_the_formula_says() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        for (dtype, mantissa_bits, bias) in [(Dtype::F8E4M3, 3, 7), (Dtype::F8E5M2, 2, 15)] {
            dtype.decode(&codes, &mut out);
            for (code, value) in out.iter().enumerate() {
                let steps = 1 << mantissa_bits;
                let mantissa = f64::from(code as u32 % steps) / f64::from(steps);
                let exponent = (code as i32 & 0x7f) >> mantissa_bits;
                let sign = if code < 128 { 1.0 } else { -1.0 };
                let expected = match exponent {
                    0 => sign * mantissa * 2f64.powi(1 - bias),
                    _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - bias),
                };
                match (dtype, code & 0x7f) {
                    (Dtype::F8E4M3, 0x7f) | (Dtype::F8E5M2, 0x7d..) => assert!(value.is_nan()),
                    (Dtype::F8E5M2, 0x7c) => assert_eq!(f64::from(*value), sign * f64::INFINITY),
                    _ => assert_eq!(f64::from(*value).to_bits(), expected.to_bits(), "{code:x}"),
                }
            }
        }
    }

    #[test]
    fn eight_bit_floats_decode_by_hand() {
        // 0x38: exponent 7, mantissa 0 = 1.0; 0x7e: 1.75 * 2^8 = 448, the largest; 0x01: 2^-9.
        let mut out = [0.0; 4];
        Dtype::F8E4M3.decode(&[0x38, 0x7e, 0x01, 0xb8], &mut out);
        assert_eq!(out, [1.0, 448.0, 2f32.powi(-9), -1.0]);
        // 0x3c: 1.0; 0x7b: 1.75 * 2^15 = 57344, the largest; 0x01: 2^-16.
        Dtype::F8E5M2.decode(&[0x3c, 0x7b, 0x01, 0xbc], &mut out);
        assert_eq!(out, [1.0, 57344.0, 2f32.powi(-16), -1.0]);
    }
}
