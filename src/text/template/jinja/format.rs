//! Python's two ways to format: `"%s" % value` and `"{}".format(value)`.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::numeric::{Spec, numeric, pad};
use super::python::{Number, Result, charge, error, index, items, quote, repr, text, type_of};

/// Widest field and most digits.
const WIDEST: usize = 100_000;

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
