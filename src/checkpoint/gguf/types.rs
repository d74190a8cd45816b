//! The element types of GGUF files.

use candle_core::quantized::GgmlDType;

/// Types that are read: code in the file, name, candle's type.
const READ: [(u32, &str, GgmlDType); 13] = [
    (0, "F32", GgmlDType::F32),
    (1, "F16", GgmlDType::F16),
    (2, "Q4_0", GgmlDType::Q4_0),
    (3, "Q4_1", GgmlDType::Q4_1),
    (6, "Q5_0", GgmlDType::Q5_0),
    (7, "Q5_1", GgmlDType::Q5_1),
    (8, "Q8_0", GgmlDType::Q8_0),
    (10, "Q2_K", GgmlDType::Q2K),
    (11, "Q3_K", GgmlDType::Q3K),
    (12, "Q4_K", GgmlDType::Q4K),
    (13, "Q5_K", GgmlDType::Q5K),
    (14, "Q6_K", GgmlDType::Q6K),
    (30, "BF16", GgmlDType::BF16),
];

/// Types that exist and are not read.
const OTHERS: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
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
pub(super) fn dtype(code: u32) -> std::result::Result<GgmlDType, String> {
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
pub(super) fn name(dtype: GgmlDType) -> &'static str {
    let row = READ.iter().find(|row| row.2 == dtype);
    row.map_or("unknown", |row| row.1)
}
