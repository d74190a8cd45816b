//! Python's two ways to format: `"%s" % value` and `"{}".format(value)`.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::python::{Number, Result, charge, error, index, items, quote, repr, text, type_of};

/// Widest field and most digits.
const WIDEST: usize = 100_000;

/// What a field asks for.
#[derive(Clone, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zeros: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `template % values`.
pub(super) fn percent(template: &str, values: &Value) -> Result<String> {
    let tuple = match values.is_tuple() {
        true => items(values)?,
        false => vec![values.clone()],
    };
    // Python takes for a mapping what has items, and lets arguments of one be unused.
    let mapping = matches!(
        values.kind(),
        ValueKind::Map | ValueKind::Seq | ValueKind::Undefined
    ) && !values.is_tuple();
    let mut arguments = tuple.into_iter();
    let mut used = false;
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (key, after) = inner
                .split_once(')')
                .ok_or_else(|| error("incomplete format key"))?;
            if values.kind() != ValueKind::Map {
                return Err(error("format requires a mapping"));
            }
            named = Some(values.get_item(&Value::from(key))?);
            if named.as_ref().is_some_and(Value::is_undefined) {
                return Err(error(format!("format: no key `{key}`")));
            }
            rest = after;
        }
        let mut spec = Spec::default();
        let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
        for flag in rest[..flags].chars() {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zeros = true,
            }
        }
        rest = &rest[flags..];
        spec.width = star_or_number(&mut rest, &mut arguments)?.unwrap_or(0);
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(star_or_number(&mut rest, &mut arguments)?.unwrap_or(0));
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest
            .chars()
            .next()
            .ok_or_else(|| error("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        used = true;
        let value = named.or_else(|| arguments.next());
        let value = value.ok_or_else(|| error("not enough arguments for format string"))?;
        percent_field(&value, kind, spec, &mut out)?;
    }
    if arguments.next().is_some() && !mapping && !(used && values.kind() == ValueKind::Map) {
        return Err(error(
            "not all arguments converted during string formatting",
        ));
    }
    out.push_str(rest);
    charge(out.len())?;
    Ok(out)
}

/// A number in the format, or `*` for one of the arguments.
fn star_or_number(
    rest: &mut &str,
    arguments: &mut impl Iterator<Item = Value>,
) -> Result<Option<usize>> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        let value = arguments
            .next()
            .ok_or_else(|| error("not enough arguments for format string"))?;
        return bounded(usize::try_from(index(&value)?).unwrap_or(0)).map(Some);
    }
    number(rest)
}

fn number(rest: &mut &str) -> Result<Option<usize>> {
    let len = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (digits, after) = rest.split_at(len);
    *rest = after;
    match digits {
        "" => Ok(None),
        digits => bounded(digits.parse().unwrap_or(usize::MAX)).map(Some),
    }
}

fn bounded(width: usize) -> Result<usize> {
    match width <= WIDEST {
        true => Ok(width),
        false => Err(error(format!("a field wider than {WIDEST}"))),
    }
}

fn percent_field(value: &Value, kind: char, mut spec: Spec, out: &mut String) -> Result<()> {
    let shown = match kind {
        's' => Some(text(value)?),
        'r' | 'a' => {
            let mut shown = String::new();
            repr(value, &mut shown, 0)?;
            Some(shown)
        }
        'c' => Some(character(value)?),
        _ => None,
    };
    if let Some(shown) = shown {
        spec.zeros = false;
        let shown = match spec.precision {
            Some(most) if kind != 'c' => shown.chars().take(most).collect(),
            _ => shown,
        };
        pad(&shown, "", &spec, '>', out);
        return Ok(());
    }
    let Some(number) = Number::of(value) else {
        let found = type_of(value);
        return Err(error(format!(
            "%{kind} format: a real number is required, not {found}"
        )));
    };
    let number = match (kind, number) {
        ('d' | 'i' | 'u', Number::Float(value)) => Number::Integer(value.trunc() as i128),
        ('o' | 'x' | 'X', Number::Float(_)) => {
            return Err(error(format!(
                "%{kind} format: an integer is required, not float"
            )));
        }
        (_, number) => number,
    };
    spec.kind = Some(match kind {
        'i' | 'u' => 'd',
        kind if "doxXeEfFgG".contains(kind) => kind,
        kind => return Err(error(format!("unsupported format character '{kind}'"))),
    });
    numeric(number, &spec, out)
}

fn character(value: &Value) -> Result<String> {
    if let Some(text) = value.as_str().filter(|text| text.chars().count() == 1) {
        return Ok(text.to_owned());
    }
    let code = value.as_str().is_none().then(|| index(value)).transpose()?;
    let code = code
        .and_then(|code| u32::try_from(code).ok())
        .and_then(char::from_u32);
    code.map(String::from)
        .ok_or_else(|| error("%c requires an int or a character"))
}

/// Writes a text in its field.
fn pad(body: &str, sign: &str, spec: &Spec, align: char, out: &mut String) {
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
fn numeric(number: Number, spec: &Spec, out: &mut String) -> Result<()> {
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

fn based(sign: &mut String, prefix: &str, spec: &Spec, digits: String) -> String {
    if spec.alternate {
        sign.push_str(prefix);
    }
    digits
}

/// A float that is not negative.
fn real(value: f64, kind: char, spec: &Spec) -> Result<String> {
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

fn exponent(value: f64, places: usize, kind: char) -> String {
    let text = format!("{value:.places$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let mark = if kind.is_ascii_uppercase() { 'E' } else { 'e' };
    format!("{digits}{mark}{sign}{:02}", exponent.abs())
}

/// The shorter of the two, with `places` digits that count.
fn general(value: f64, places: usize, kind: char, alternate: bool) -> String {
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
fn trimmed(text: &str, alternate: bool) -> &str {
    match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

fn grouped(body: &str, separator: char) -> String {
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

/// `template.format(..)`; `named` looks up names.
pub(super) fn braces(
    template: &str,
    arguments: &[Value],
    named: &dyn Fn(&str) -> Option<Value>,
) -> Result<String> {
    let mut fields = Fields {
        arguments,
        named,
        next: 0,
        manual: false,
    };
    let mut out = String::new();
    fields.expand(template, 3, &mut out)?;
    charge(out.len())?;
    Ok(out)
}

struct Fields<'a> {
    arguments: &'a [Value],
    named: &'a dyn Fn(&str) -> Option<Value>,
    next: usize,
    manual: bool,
}

impl Fields<'_> {
    fn expand(&mut self, template: &str, depth: usize, out: &mut String) -> Result<()> {
        if depth == 0 {
            return Err(error("max string recursion exceeded"));
        }
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(error("single '}' encountered in format string"));
            }
            let end = field_end(rest).ok_or_else(|| error("expected '}' before end of string"))?;
            self.field(&rest[..end], depth, out)?;
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(())
    }

    fn field(&mut self, field: &str, depth: usize, out: &mut String) -> Result<()> {
        let at = field.find([':', '!']).unwrap_or(field.len());
        let (name, mut rest) = field.split_at(at);
        let mut value = self.value(name)?;
        if let Some(conversion) = rest.strip_prefix('!') {
            let mut shown = String::new();
            match conversion.chars().next() {
                Some('s') => shown = text(&value)?,
                Some('r' | 'a') => match value.as_str() {
                    Some(text) => quote(text, &mut shown),
                    None => repr(&value, &mut shown, 0)?,
                },
                _ => return Err(error("unknown conversion of a format string")),
            }
            value = Value::from(shown);
            rest = &conversion[1..];
        }
        let mut spec = String::new();
        self.expand(rest.strip_prefix(':').unwrap_or(rest), depth - 1, &mut spec)?;
        format_value(&value, &spec, out)
    }

    fn value(&mut self, field: &str) -> Result<Value> {
        let at = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(at);
        let position = match name.parse::<usize>() {
            _ if name.is_empty() => {
                self.next += 1;
                Some(self.next - 1)
            }
            position => position.ok(),
        };
        self.manual |= position.is_some() && !name.is_empty();
        if self.manual && self.next > 0 {
            return Err(error(
                "cannot switch between manual and automatic field numbering",
            ));
        }
        let mut value = match position {
            Some(at) => self.arguments.get(at).cloned(),
            None => (self.named)(name),
        }
        .ok_or_else(|| error(format!("format: no argument for the field `{name}`")))?;
        while !path.is_empty() {
            let (key, after) = match path.strip_prefix('[') {
                Some(inner) => inner.split_once(']').ok_or_else(|| error("missing ']'"))?,
                None => {
                    let inner = path
                        .strip_prefix('.')
                        .ok_or_else(|| error("a wrong field name"))?;
                    inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
                }
            };
            let key = key
                .parse::<i64>()
                .map_or_else(|_| Value::from(key), Value::from);
            value = value.get_item(&key)?;
            path = after;
        }
        Ok(value)
    }
}

/// Where a field ends; its format may have fields in turn.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// `format(value, spec)`.
fn format_value(value: &Value, spec: &str, out: &mut String) -> Result<()> {
    if spec.is_empty() {
        out.push_str(&text(value)?);
        return Ok(());
    }
    let spec = parse(spec)?;
    if let Some(text) = value.as_str() {
        if !matches!(spec.kind, None | Some('s')) || spec.sign.is_some() || spec.align == Some('=')
        {
            return Err(error("a format that texts do not have"));
        }
        let most = spec.precision.unwrap_or(usize::MAX);
        let shown: String = text.chars().take(most).collect();
        let align = spec.align.unwrap_or('<');
        let fill = spec.fill.or(spec.zeros.then_some('0'));
        let spec = Spec {
            align: Some(align),
            fill,
            zeros: false,
            ..spec
        };
        pad(&shown, "", &spec, '<', out);
        return Ok(());
    }
    match Number::of(value) {
        Some(Number::Integer(code)) if spec.kind == Some('c') => {
            pad(
                &character(&super::python::integer(code))?,
                "",
                &spec,
                '<',
                out,
            );
            Ok(())
        }
        Some(number) => numeric(number, &spec, out),
        None => Err(error(format!(
            "unsupported format string for {}",
            type_of(value)
        ))),
    }
}

fn parse(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let aligns = |c: Option<char>| c.filter(|c| "<>^=".contains(*c));
    let mut rest = text;
    if let (Some(fill), Some(align)) = (first, aligns(second)) {
        spec.fill = Some(fill);
        spec.align = Some(align);
        rest = &rest[fill.len_utf8() + 1..];
    } else if let Some(align) = aligns(first) {
        spec.align = Some(align);
        rest = &rest[1..];
    }
    if let Some(sign) = rest.chars().next().filter(|c| "+- ".contains(*c)) {
        spec.sign = Some(sign);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('#') {
        spec.alternate = true;
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('0') {
        spec.zeros = true;
        rest = after;
    }
    spec.width = number(&mut rest)?.unwrap_or(0);
    if let Some(group) = rest.chars().next().filter(|c| ",_".contains(*c)) {
        spec.group = Some(group);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        let missing = || error("format specifier missing precision");
        spec.precision = Some(number(&mut rest)?.ok_or_else(missing)?);
    }
    let mut chars = rest.chars();
    spec.kind = chars.next();
    match (spec.kind, chars.next()) {
        (Some(kind), None) if "bcdeEfFgGnosxX%".contains(kind) => Ok(spec),
        (None, None) => Ok(spec),
        _ => Err(error(format!("invalid format specifier '{text}'"))),
    }
}
