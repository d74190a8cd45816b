//! Numbers and texts in the fields of a format.

use super::python::{Number, Result, error};

/// What a field asks for.
#[derive(Clone, Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) zeros: bool,
    pub(super) width: usize,
    pub(super) group: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

/// Writes a text in its field.
pub(super) fn pad(body: &str, sign: &str, spec: &Spec, align: char, out: &mut String) {
    let missing = spec.width.saturating_sub(body.chars().count() + sign.len());
    let align = spec.align.unwrap_or(if spec.zeros { '=' } else { align });
    let fill = spec.fill.unwrap_or(if spec.zeros { '0' } else { ' ' });
    let left = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    if align == '=' {
        out.push_str(sign);
    }
    out.extend(std::iter::repeat_n(fill, left));
    if align != '=' {
        out.push_str(sign);
    }
    out.push_str(body);
    out.extend(std::iter::repeat_n(fill, missing - left));
}

/// Writes a number.
pub(super) fn numeric(number: Number, spec: &Spec, out: &mut String) -> Result<()> {
    let negative = match number {
        Number::Integer(value) => value < 0,
        Number::Float(value) => value.is_sign_negative() && !value.is_nan(),
    };
    let kind = spec.kind.unwrap_or(match number {
        Number::Integer(_) => 'd',
        Number::Float(_) => 'r',
    });
    let mut sign = match (negative, spec.sign) {
        (true, _) => "-".to_owned(),
        (false, Some(sign @ ('+' | ' '))) => sign.to_string(),
        _ => String::new(),
    };
    let mut body = match (number, kind) {
        (Number::Integer(value), 'd' | 'n') => {
            let digits = value.unsigned_abs().to_string();
            format!("{digits:0>0$}", spec.precision.unwrap_or(0))
        }
        (Number::Integer(value), 'x') => {
            based(&mut sign, "0x", spec, format!("{:x}", value.unsigned_abs()))
        }
        (Number::Integer(value), 'X') => {
            based(&mut sign, "0X", spec, format!("{:X}", value.unsigned_abs()))
        }
        (Number::Integer(value), 'o') => {
            based(&mut sign, "0o", spec, format!("{:o}", value.unsigned_abs()))
        }
        (Number::Integer(value), 'b') => {
            based(&mut sign, "0b", spec, format!("{:b}", value.unsigned_abs()))
        }
        (number, kind) => real(number.float().abs(), kind, spec)?,
    };
    if let Some(separator) = spec.group {
        body = grouped(&body, separator);
    }
    pad(&body, &sign, spec, '>', out);
    Ok(())
}

pub(super) fn based(sign: &mut String, prefix: &str, spec: &Spec, digits: String) -> String {
    if spec.alternate {
        sign.push_str(prefix);
    }
    digits
}

/// A float that is not negative.
pub(super) fn real(value: f64, kind: char, spec: &Spec) -> Result<String> {
    let places = spec.precision.unwrap_or(6);
    if !value.is_finite() {
        let name = super::python::float(value);
        return Ok(if kind.is_ascii_uppercase() {
            name.to_uppercase()
        } else {
            name
        });
    }
    Ok(match kind {
        'f' | 'F' => format!("{value:.places$}"),
        'e' | 'E' => exponent(value, places, kind),
        'g' | 'G' | 'n' => general(value, places, kind, spec.alternate),
        '%' => format!("{:.places$}%", value * 100.0),
        'r' => match spec.precision {
            None => super::python::float(value),
            Some(places) => {
                let text = general(value, places, 'g', false);
                if text.contains(['.', 'e']) {
                    text
                } else {
                    text + ".0"
                }
            }
        },
        kind => return Err(error(format!("unknown format code '{kind}' for a float"))),
    })
}

pub(super) fn exponent(value: f64, places: usize, kind: char) -> String {
    let text = format!("{value:.places$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let mark = if kind.is_ascii_uppercase() { 'E' } else { 'e' };
    format!("{digits}{mark}{sign}{:02}", exponent.abs())
}

/// The shorter of the two, with `places` digits that count.
pub(super) fn general(value: f64, places: usize, kind: char, alternate: bool) -> String {
    let places = places.max(1);
    let text = format!("{value:.0$e}", places - 1);
    let power: i32 = text
        .split_once('e')
        .and_then(|(_, power)| power.parse().ok())
        .unwrap_or(0);
    let fixed = power >= -4 && power < i32::try_from(places).unwrap_or(i32::MAX);
    if fixed {
        let decimals = i64::try_from(places).unwrap_or(0) - 1 - i64::from(power);
        let text = format!("{value:.0$}", usize::try_from(decimals).unwrap_or(0));
        return trimmed(&text, alternate).to_owned();
    }
    let text = exponent(value, places - 1, kind);
    let at = text.find(['e', 'E']).unwrap_or(text.len());
    format!("{}{}", trimmed(&text[..at], alternate), &text[at..])
}

/// Without the zeros at its end.
pub(super) fn trimmed(text: &str, alternate: bool) -> &str {
    match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

pub(super) fn grouped(body: &str, separator: char) -> String {
    let whole = body
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(body.len());
    let mut out = String::new();
    for (at, digit) in body[..whole].chars().enumerate() {
        if at > 0 && (whole - at) % 3 == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    out + &body[whole..]
}
