//! JSON as chat templates write it.

/// A finite float as Python writes it: `1.0`, `0.1`, `1e-07`, `1e+22`.
pub(super) fn float(value: f64) -> String {
    let text = format!("{value:?}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let digits = digits.trim_end_matches(".0");
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        let floats = [1e-7, 1e22, 1.5e300, 0.0001, 123456789012345680.0, -0.0];
        assert_eq!(
            floats.map(float),
            [
                "1e-07",
                "1e+22",
                "1.5e+300",
                "0.0001",
                "1.2345678901234568e+17",
                "-0.0"
            ]
        );
    }
}
