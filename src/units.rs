//! Quantities and how they are written for people.

use std::fmt;
use std::time::Duration;

/// Ordinal of a sample in the corpus, after splitting.
pub type SampleId = u64;
/// Id of a token in one vocabulary.
pub type TokenId = u32;

/// Bits per byte of `nll` nats over `bytes` bytes.
pub fn bits_per_byte(nll: f64, bytes: u64) -> f64 {
    nll / (std::f64::consts::LN_2 * bytes as f64)
}

/// A number of bytes, printed with a binary unit: `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// A count, printed with thousands separated: `1,234,567`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// Units a second, printed as a count, and slow ones with a digit after the point: `13,146`, `0.8`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 < 9.95 {
            true => write!(f, "{:.1}", self.0),
            false => Count(self.0.round() as u64).fmt(f),
        }
    }
}

/// A duration, printed with the unit that suits it: `0.4 s`, `2 min 05 s`, `3 h 07 min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(pub Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if seconds < 60 {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        } else if seconds < 3600 {
            write!(f, "{} min {:02} s", seconds / 60, seconds % 60)
        } else {
            write!(f, "{} h {:02} min", seconds / 3600, seconds % 3600 / 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1024 * 1024).to_string(), "1.0 MiB");
        assert_eq!(Bytes(1_610_612_736).to_string(), "1.5 GiB");
        assert_eq!(Count(1_234_567).to_string(), "1,234,567");
        assert_eq!(Count(12).to_string(), "12");
        assert_eq!(Rate(13_145.96).to_string(), "13,146");
        assert_eq!(Rate(9.96).to_string(), "10");
        assert_eq!(Rate(0.84).to_string(), "0.8");
        assert_eq!(Elapsed(Duration::from_millis(420)).to_string(), "0.4 s");
        assert_eq!(Elapsed(Duration::from_secs(125)).to_string(), "2 min 05 s");
    }

    #[test]
    fn one_nat_per_byte_is_log2_e_bits() {
        assert!((bits_per_byte(10.0, 10) - std::f64::consts::LOG2_E).abs() < 1e-12);
    }
}
