//! The element types of GGUF files.

use candle_core::quantized::GgmlDType;

/// An element type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// One that candle decodes.
    Candle(GgmlDType),
    /// 4 bits that stand for unevenly spaced numbers, a scale for 32 of them.
    Iq4Nl,
    /// The same numbers, with a scale for 32 of 6 bits and one for 256.
    Iq4Xs,
}

impl GgufType {
    /// Elements of a block.
    pub fn block_size(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.block_size(),
            Self::Iq4Nl => 32,
            Self::Iq4Xs => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.type_size(),
            Self::Iq4Nl => 2 + 16,
            Self::Iq4Xs => 2 + 2 + 4 + 128,
        }
    }
}

use GgufType::{Candle, Iq4Nl, Iq4Xs};

/// Types that are read: code in the file, name, type.
const READ: [(u32, &str, GgufType); 15] = [
    (0, "F32", Candle(GgmlDType::F32)),
    (1, "F16", Candle(GgmlDType::F16)),
    (2, "Q4_0", Candle(GgmlDType::Q4_0)),
    (3, "Q4_1", Candle(GgmlDType::Q4_1)),
    (6, "Q5_0", Candle(GgmlDType::Q5_0)),
    (7, "Q5_1", Candle(GgmlDType::Q5_1)),
    (8, "Q8_0", Candle(GgmlDType::Q8_0)),
    (10, "Q2_K", Candle(GgmlDType::Q2K)),
    (11, "Q3_K", Candle(GgmlDType::Q3K)),
    (12, "Q4_K", Candle(GgmlDType::Q4K)),
    (13, "Q5_K", Candle(GgmlDType::Q5K)),
    (14, "Q6_K", Candle(GgmlDType::Q6K)),
    (20, "IQ4_NL", Iq4Nl),
    (23, "IQ4_XS", Iq4Xs),
    (30, "BF16", Candle(GgmlDType::BF16)),
];

/// Types that exist and are not read.
const OTHERS: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The type with this code, or the name of what it is instead.
pub(super) fn dtype(code: u32) -> std::result::Result<GgufType, String> {
    if let Some((.., dtype)) = READ.iter().find(|row| row.0 == code) {
        return Ok(*dtype);
    }
    Err(match OTHERS.iter().find(|row| row.0 == code) {
        Some((_, name)) => format!("`{name}`"),
        None => format!("the unknown type {code}"),
    })
}

/// The name of the type with this code, whether it is read or not.
pub(super) fn name_of(code: u32) -> String {
    let read = READ.iter().find(|row| row.0 == code).map(|row| row.1);
    let other = || OTHERS.iter().find(|row| row.0 == code).map(|row| row.1);
    read.or_else(other)
        .map_or_else(|| format!("type {code}"), str::to_owned)
}

/// The names of the types that are read.
pub(super) fn known() -> String {
    let names: Vec<&str> = READ.iter().map(|row| row.1).collect();
    names.join(", ")
}

/// The name of a type.
pub(super) fn name(dtype: GgufType) -> &'static str {
    let row = READ.iter().find(|row| row.2 == dtype);
    row.map_or("unknown", |row| row.1)
}
