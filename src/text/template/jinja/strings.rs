//! Python's methods of texts.

use minijinja::Value;

use super::arguments::Arguments;
use super::format;
use super::python::{Result, charge, error, is_printable, is_space, items, tuple, type_of};
use super::splits::{lines, strip};
use super::splits::{part, rsplit, rsplit_blanks, split, split_blanks};

/// The methods.
pub(super) const METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Calls a method of a text.
pub(super) fn call(own: &str, name: &str, args: &[Value]) -> Result<Value> {
    charge(own.len() / 2)?;
    // By far the most frequent, in loops over messages.
    match (name, args) {
        ("strip" | "lstrip" | "rstrip", []) => return Ok(Value::from(strip(own, name, None))),
        ("strip" | "lstrip" | "rstrip", [chars]) if chars.as_str().is_some() => {
            return Ok(Value::from(strip(own, name, chars.as_str())));
        }
        _ => {}
    }
    if let Some(all) = predicate(name) {
        Arguments::new(name, args, &[])?;
        return Ok(Value::from(all(own)));
    }
    let changed = match name {
        "upper" => own.to_uppercase(),
        "lower" => own.to_lowercase(),
        "casefold" => own.to_lowercase().replace('ß', "ss"),
        "capitalize" => capitalize(own),
        "title" => title(own),
        "swapcase" => own.chars().flat_map(swapped).collect(),
        _ => return with_arguments(own, name, args),
    };
    Arguments::new(name, args, &[])?;
    charge(changed.len())?;
    Ok(Value::from(changed))
}

fn predicate(name: &str) -> Option<fn(&str) -> bool> {
    macro_rules! every {
        ($test:expr) => {
            |text| !text.is_empty() && text.chars().all($test)
        };
    }
    Some(match name {
        "isalnum" => every!(|c| c.is_alphanumeric()),
        "isalpha" => every!(|c| c.is_alphabetic() && !c.is_numeric()),
        "isascii" => |text| text.is_ascii(),
        "isdecimal" => every!(is_decimal),
        "isdigit" => every!(is_digit),
        "isnumeric" => every!(char::is_numeric),
        "isspace" => every!(is_space),
        "isprintable" => |text| text.chars().all(is_printable),
        "isidentifier" => |text| {
            let name = |c: char| c == '_' || c.is_alphanumeric();
            text.chars().all(name) && text.starts_with(|c: char| name(c) && !c.is_numeric())
        },
        "islower" => {
            |text| text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
        }
        "isupper" => {
            |text| text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
        }
        "istitle" => |text| text.chars().any(is_cased) && title(text) == text,
        _ => return None,
    })
}

/// Zeros of the decimal digits of some scripts.
const ZEROS: [u32; 20] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xe50, 0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10,
];

fn is_decimal(c: char) -> bool {
    ZEROS
        .iter()
        .any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '\u{2070}'..='\u{2079}' | '\u{2080}'..='\u{2089}'
            | '\u{2460}'..='\u{2468}')
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn swapped(c: char) -> Vec<char> {
    match c.is_uppercase() {
        true => c.to_lowercase().collect(),
        false => c.to_uppercase().collect(),
    }
}

/// The first character large, the others small.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(title_case).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// A character as a word begins with it: of those that are two letters only the first is large.
fn title_case(c: char) -> String {
    let pairs = [("Ǆǆ", 'ǅ'), ("Ǉǉ", 'ǈ'), ("Ǌǌ", 'ǋ'), ("Ǳǳ", 'ǲ')];
    if let Some((_, title)) = pairs
        .iter()
        .find(|(pair, title)| pair.contains(c) || *title == c)
    {
        return title.to_string();
    }
    let mut upper = c.to_uppercase();
    let first = upper.next().unwrap_or(c);
    let rest: String = upper.collect();
    let small = "ßﬀﬁﬂﬃﬄﬅﬆև".contains(c);
    format!("{first}{}", if small { rest.to_lowercase() } else { rest })
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&title_case(c)),
        }
        inside = is_cased(c);
    }
    out
}

/// Methods whose arguments have names.
const WITH_NAMES: [&str; 5] = ["split", "rsplit", "splitlines", "expandtabs", "format"];

fn with_arguments(own: &str, name: &str, args: &[Value]) -> Result<Value> {
    if args.last().is_some_and(Value::is_kwargs) && !WITH_NAMES.contains(&name) {
        return Err(error(format!("str.{name}() takes no arguments by name")));
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let arguments = Arguments::new(name, args, &["chars"])?;
            let chars = arguments.string_or_none(0, "chars")?;
            Ok(Value::from(strip(own, name, chars.as_deref())))
        }
        "split" | "rsplit" => {
            let arguments = Arguments::new(name, args, &["sep", "maxsplit"])?;
            let separator = arguments.string_or_none(0, "sep")?;
            let most = arguments
                .integer(1, "maxsplit")?
                .and_then(|most| usize::try_from(most).ok());
            let parts = match (separator.as_deref(), name) {
                (Some(""), _) => return Err(error("empty separator")),
                (Some(separator), "split") => split(own, separator, most),
                (Some(separator), _) => rsplit(own, separator, most),
                (None, "split") => split_blanks(own, most),
                (None, _) => rsplit_blanks(own, most),
            };
            list(own, parts)
        }
        "splitlines" => {
            let keep = Arguments::new(name, args, &["keepends"])?.flag(0, "keepends");
            list(own, lines(own, keep))
        }
        "partition" | "rpartition" => {
            let separator = Arguments::new(name, args, &["sep"])?.string(0, "sep")?;
            if separator.is_empty() {
                return Err(error("empty separator"));
            }
            let (first, last) = (name == "partition", name == "rpartition");
            let found = if first {
                own.split_once(&separator)
            } else {
                own.rsplit_once(&separator)
            };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if last => ["", "", own],
                None => [own, "", ""],
            };
            Ok(tuple(parts.into_iter().map(Value::from).collect()))
        }
        "removeprefix" => {
            let prefix = Arguments::new(name, args, &["prefix"])?.string(0, "prefix")?;
            Ok(Value::from(own.strip_prefix(&prefix).unwrap_or(own)))
        }
        "removesuffix" => {
            let suffix = Arguments::new(name, args, &["suffix"])?.string(0, "suffix")?;
            Ok(Value::from(own.strip_suffix(&suffix).unwrap_or(own)))
        }
        "replace" => {
            let arguments = Arguments::new(name, args, &["old", "new", "count"])?;
            let (old, new) = (arguments.string(0, "old")?, arguments.string(1, "new")?);
            replace(own, &old, &new, arguments.integer(2, "count")?)
        }
        "join" => join(
            own,
            &Arguments::new(name, args, &["iterable"])?.required(0, "iterable")?,
        ),
        "startswith" | "endswith" => affix(own, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => search(own, name, args),
        "center" | "ljust" | "rjust" => {
            let arguments = Arguments::new(name, args, &["width", "fillchar"])?;
            let width = arguments
                .integer(0, "width")?
                .ok_or_else(|| error("needs a width"))?;
            let fill = arguments.string_or_none(1, "fillchar")?;
            let fill = fill.map_or(Some(' '), |fill| one(&fill));
            let fill = fill.ok_or_else(|| error("the fill character must be one character"))?;
            justify(own, name, width, fill)
        }
        "zfill" => {
            let width = Arguments::new(name, args, &["width"])?.integer(0, "width")?;
            let width = usize::try_from(width.unwrap_or(0)).unwrap_or(0);
            let (sign, digits) = own.split_at(usize::from(own.starts_with(['+', '-'])));
            let missing = width.saturating_sub(own.chars().count());
            charge(missing)?;
            Ok(Value::from(format!(
                "{sign}{}{digits}",
                "0".repeat(missing)
            )))
        }
        "expandtabs" => {
            let arguments = Arguments::new(name, args, &["tabsize"])?;
            expand_tabs(own, arguments.integer(0, "tabsize")?.unwrap_or(8))
        }
        "format_map" => {
            let map = Arguments::new(name, args, &["map"])?.required(0, "map")?;
            let named = |name: &str| {
                map.get_attr(name)
                    .ok()
                    .filter(|value| !value.is_undefined())
            };
            format::braces(own, &[], &named).map(Value::from)
        }
        _ => {
            let arguments = Arguments::any(name, args)?;
            let named = |name: &str| arguments.named(name);
            format::braces(own, arguments.positions(), &named).map(Value::from)
        }
    }
}

fn one(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn list(own: &str, parts: Vec<&str>) -> Result<Value> {
    charge(own.len() + parts.len() * size_of::<Value>())?;
    Ok(parts.into_iter().map(Value::from).collect())
}

pub(super) fn replace(own: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value> {
    let count = count.and_then(|count| usize::try_from(count).ok());
    let found = match old.is_empty() {
        true => own.chars().count() + 1,
        false => own.matches(old).count(),
    };
    let found = found.min(count.unwrap_or(usize::MAX));
    charge(own.len().saturating_add(new.len().saturating_mul(found)))?;
    Ok(Value::from(own.replacen(old, new, found)))
}

fn join(own: &str, all: &Value) -> Result<Value> {
    let mut out = String::new();
    for (i, item) in items(all)?.iter().enumerate() {
        let Some(item) = item.as_str() else {
            return Err(error(format!(
                "join: item {i} must be str, not {}",
                type_of(item)
            )));
        };
        out.push_str(if i == 0 { "" } else { own });
        out.push_str(item);
        if out.len() % 4096 < item.len() + own.len() {
            charge(item.len() + own.len())?;
        }
    }
    charge(out.len())?;
    Ok(Value::from(out))
}

fn affix(own: &str, name: &str, args: &[Value]) -> Result<Value> {
    let arguments = Arguments::new(name, args, &["affix", "start", "end"])?;
    let affix = arguments.required(0, "affix")?;
    let part = part(
        own,
        arguments.integer(1, "start")?,
        arguments.integer(2, "end")?,
    );
    let all = match affix.is_tuple() {
        true => items(&affix)?,
        false => vec![affix],
    };
    let mut found = false;
    for affix in &all {
        let Some(affix) = affix.as_str() else {
            let what = type_of(affix);
            return Err(error(format!(
                "{name}: expected str or a tuple of str, found {what}"
            )));
        };
        found |= part.is_some_and(|(_, part)| match name {
            "startswith" => part.starts_with(affix),
            _ => part.ends_with(affix),
        });
    }
    Ok(Value::from(found))
}

fn search(own: &str, name: &str, args: &[Value]) -> Result<Value> {
    let arguments = Arguments::new(name, args, &["sub", "start", "end"])?;
    let sought = arguments.string(0, "sub")?;
    let part = part(
        own,
        arguments.integer(1, "start")?,
        arguments.integer(2, "end")?,
    );
    if name == "count" {
        let count = part.map_or(0, |(_, part)| match sought.is_empty() {
            true => part.chars().count() + 1,
            false => part.matches(&sought).count(),
        });
        return Ok(Value::from(count));
    }
    let found = part.and_then(|(before, part)| {
        let at = match name {
            "find" | "index" => part.find(&sought),
            _ => part.rfind(&sought),
        };
        at.map(|at| before + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(error("substring not found")),
    }
}

/// In the middle, or at one side, of a field.
pub(super) fn justify(own: &str, name: &str, width: i64, fill: char) -> Result<Value> {
    let len = own.chars().count();
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(len);
    charge(missing.saturating_mul(fill.len_utf8()))?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // The odd blank stands left where the width is odd, as in Python.
        _ => missing / 2 + (missing & width & 1),
    };
    let blanks = |count| std::iter::repeat_n(fill, count);
    Ok(Value::from(
        blanks(left)
            .chain(own.chars())
            .chain(blanks(missing - left))
            .collect::<String>(),
    ))
}

fn expand_tabs(own: &str, size: i64) -> Result<Value> {
    let size = usize::try_from(size).unwrap_or(0);
    charge(own.len().saturating_mul(size.max(1)))?;
    let mut out = String::new();
    let mut column = 0;
    for c in own.chars() {
        match c {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            c => {
                out.push(c);
                column = if c == '\n' || c == '\r' {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    Ok(Value::from(out))
}
