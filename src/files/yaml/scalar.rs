//! What a plain scalar stands for.

use serde_json::{Number, Value};

/// What a plain scalar is, after the resolver of PyYAML.
pub fn resolve(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    // Words are in lower case, capitalised or in upper case, not mixed.
    let lower = text.to_lowercase();
    let mut rest = text.chars();
    let first = rest.next();
    let spelt = text == lower
        || text == text.to_uppercase()
        || (first.is_some_and(char::is_uppercase) && rest.all(char::is_lowercase));
    if spelt && let Some(flag) = flag(&lower) {
        return Value::Bool(flag);
    }
    let number = integer(text).or_else(|| float(text));
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// What a plain scalar is in the core schema of YAML 1.2; numbers that are not finite stay text.
pub fn core(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    let other = match text.as_bytes() {
        [b'0', b'o', b'0'..=b'7', ..] => radix(&text[2..], 8),
        [b'0', b'x', digit, ..] if digit.is_ascii_hexdigit() => radix(&text[2..], 16),
        _ => None,
    };
    let number = other.map(Number::from).or_else(|| decimal(text));
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// A number as `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?` has it.
fn decimal(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let begins = digits.strip_prefix('.').unwrap_or(digits);
    let known = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+');
    if !begins.starts_with(|c: char| c.is_ascii_digit()) || !digits.chars().all(known) {
        return None;
    }
    let whole = text.strip_prefix('+').unwrap_or(text);
    let unsigned = whole.parse::<u64>().ok().map(Number::from);
    let signed = || whole.parse::<i64>().ok().map(Number::from);
    let real = || whole.parse().ok().and_then(Number::from_f64);
    unsigned.or_else(signed).or_else(real)
}

/// A word for true or false, in lower case.
pub fn flag(word: &str) -> Option<bool> {
    match word {
        "yes" | "true" | "on" => Some(true),
        "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// A whole number: decimal, `0b`, `0x`, octal after a zero, or with digits to the base 60.
pub fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = digits.replace('_', "");
    if let Some((first, others)) = digits.split_once(':') {
        let is_place = |p: &str| matches!(p.parse(), Ok(0..60u32)) && p.len() <= 2;
        let sixty = |sum: i64, part: &str| -> Option<i64> {
            sum.checked_mul(60)?.checked_add(part.parse().ok()?)
        };
        let places = !first.starts_with('0') && others.split(':').all(is_place);
        let sum = places
            .then(|| plain.split(':').try_fold(0, sixty))
            .flatten()?;
        return Some(if negative { -sum } else { sum }.into());
    }
    let (radix, figures) = match plain.as_bytes() {
        [b'0', b'b', ..] => (2, &plain[2..]),
        [b'0', b'x', ..] => (16, &plain[2..]),
        [b'0', _, ..] => (8, &plain[1..]),
        _ => (10, plain.as_str()),
    };
    if figures.is_empty() || !figures.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    match u64::from_str_radix(figures, radix) {
        Ok(value) if !negative => Some(value.into()),
        Ok(value) if value <= i64::MAX as u64 => Some((-(value as i64)).into()),
        _ if radix == 10 => {
            let size: f64 = figures.parse().ok()?;
            Number::from_f64(if negative { -size } else { size })
        }
        _ => None,
    }
}

/// A number with a point, whose exponent, if it has one, has a sign.
fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']);
    let digits = unsigned.unwrap_or(text);
    let (whole, rest) = digits.split_once('.')?;
    let (part, exponent) = match rest.split_once(['e', 'E']) {
        Some((part, exponent)) => (part, Some(exponent)),
        None => (rest, None),
    };
    let figures = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let is_number = figures(whole)
        && figures(part)
        && (begins(whole) || (whole.is_empty() && unsigned.is_none() && begins(part)))
        && exponent.is_none_or(|exponent| {
            let power = exponent.strip_prefix(['-', '+']);
            power.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
        });
    let number = is_number
        .then(|| text.replace('_', "").parse().ok())
        .flatten()?;
    Number::from_f64(number)
}
