//! What stands inside a tag, in Jinja2's tokens.

use super::python::is_space;

/// A token of an expression or a statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    /// An integer, in decimal digits.
    Integer(String),
    Float(f64),
    Operator(&'static str),
}

/// Operators, the longer ones first.
const OPERATORS: [&str; 28] = [
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!", "&",
];

/// The tokens of a tag.
pub(super) struct Tag {
    pub(super) tokens: Vec<Token>,
    /// Bytes from the start of the tag's inside to the end of its closing mark.
    pub(super) len: usize,
    /// Its sign before the closing mark, `-` or `+`.
    pub(super) sign: Option<char>,
}

/// Reads the inside of a tag that ends with `close` (`%}` or `}}`); it ends where no bracket is
/// open. Says what is wrong otherwise.
pub(super) fn read(source: &str, close: &str) -> Result<Tag, String> {
    let mut tokens = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut at = 0;
    loop {
        let rest = &source[at..];
        at += rest.len() - rest.trim_start_matches(is_space).len();
        let rest = &source[at..];
        if open.is_empty()
            && let Some((len, sign)) = end_of(rest, close)
        {
            let len = at + len;
            return Ok(Tag { tokens, len, sign });
        }
        let (token, len) = token(rest, tokens.last())?;
        if let Token::Operator(operator) = token {
            balance(&mut open, operator)?;
        }
        tokens.push(token);
        at += len;
    }
}

/// The closing mark with its sign; only blocks know `+`.
fn end_of(rest: &str, close: &str) -> Option<(usize, Option<char>)> {
    if rest.starts_with(close) {
        return Some((close.len(), None));
    }
    let sign = rest.chars().next().filter(|sign| "-+".contains(*sign))?;
    let signed = rest[1..].starts_with(close) && (sign == '-' || close == "%}");
    signed.then_some((close.len() + 1, Some(sign)))
}

fn balance(open: &mut Vec<&str>, operator: &'static str) -> Result<(), String> {
    let closer = |opener: &str| match opener {
        "(" => ")",
        "[" => "]",
        _ => "}",
    };
    match operator {
        "(" | "[" | "{" => open.push(operator),
        ")" | "]" | "}" => match open.pop() {
            Some(opener) if closer(opener) == operator => {}
            Some(opener) => {
                let expected = closer(opener);
                return Err(format!("unexpected `{operator}`, expected `{expected}`"));
            }
            None => return Err(format!("unexpected `{operator}`")),
        },
        _ => {}
    }
    Ok(())
}

fn token(rest: &str, before: Option<&Token>) -> Result<(Token, usize), String> {
    let Some(first) = rest.chars().next() else {
        return Err("unexpected end of the template inside a tag".to_owned());
    };
    if first.is_ascii_digit() {
        return number(rest, before == Some(&Token::Operator(".")));
    }
    if first == '_' || first.is_alphanumeric() {
        let len = rest
            .find(|c: char| c != '_' && !c.is_alphanumeric())
            .unwrap_or(rest.len());
        return Ok((Token::Name(rest[..len].to_owned()), len));
    }
    if first == '\'' || first == '"' {
        return text(rest, first);
    }
    let operator = OPERATORS
        .iter()
        .find(|operator| rest.starts_with(*operator));
    match operator {
        Some(operator) => Ok((Token::Operator(operator), operator.len())),
        None => Err(format!("unexpected character `{}`", first.escape_debug())),
    }
}

/// An integer (of any base, with `_` between digits) or a float; no float follows a dot.
fn number(rest: &str, after_dot: bool) -> Result<(Token, usize), String> {
    let bytes = rest.as_bytes();
    let radix = match bytes.get(1).map(u8::to_ascii_lowercase) {
        Some(b'x') if bytes[0] == b'0' => 16,
        Some(b'o') if bytes[0] == b'0' => 8,
        Some(b'b') if bytes[0] == b'0' => 2,
        _ => 10,
    };
    if radix != 10 {
        let len = 2 + digits(&rest[2..], radix);
        let value = i128::from_str_radix(&rest[2..len].replace('_', ""), radix)
            .map_err(|_| format!("`{}` is no integer that can be read", &rest[..len]))?;
        return Ok((Token::Integer(value.to_string()), len));
    }
    let whole = digits(rest, 10);
    if !after_dot {
        let mut len = whole;
        if rest[len..].starts_with('.') && digits(&rest[len + 1..], 10) > 0 {
            len += 1 + digits(&rest[len + 1..], 10);
        }
        if rest[len..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[len + 1..].starts_with(['+', '-']));
            let exponent = digits(&rest[len + 1 + sign..], 10);
            if exponent > 0 {
                len += 1 + sign + exponent;
            }
        }
        if len > whole {
            let text = rest[..len].replace('_', "");
            let value = text.parse().map_err(|_| format!("`{text}` is no number"))?;
            return Ok((Token::Float(value), len));
        }
    }
    let text = rest[..whole].replace('_', "");
    if text.len() > 1 && text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
        return Err(format!("`{text}` is no number: leading zeros"));
    }
    let value: i128 = text
        .parse()
        .map_err(|_| format!("the integer `{text}` is too large"))?;
    Ok((Token::Integer(value.to_string()), whole))
}

/// The length of digits with single `_` between them.
fn digits(text: &str, radix: u32) -> usize {
    let mut len = 0;
    for (at, c) in text.char_indices() {
        match c {
            '_' if at == len => {}
            c if c.is_digit(radix) => len = at + 1,
            _ => break,
        }
    }
    len
}

/// A quoted text, its escapes resolved as Python does.
fn text(rest: &str, quote: char) -> Result<(Token, usize), String> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((Token::Text(out), at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((at, escape)) = chars.next() else {
            break;
        };
        let hex = |len: usize| code(rest.get(at + 1..at + 1 + len), len);
        let (c, skip) = match escape {
            '\n' => continue,
            'a' => ('\x07', 0),
            'b' => ('\x08', 0),
            'f' => ('\x0c', 0),
            'n' => ('\n', 0),
            'r' => ('\r', 0),
            't' => ('\t', 0),
            'v' => ('\x0b', 0),
            '\\' | '\'' | '"' => (escape, 0),
            'x' => (hex(2)?, 2),
            'u' => (hex(4)?, 4),
            'U' => (hex(8)?, 8),
            'N' => return Err("characters by name (`\\N{..}`) are not supported".to_owned()),
            '0'..='7' => octal(&rest[at..])?,
            // Python keeps the backslash of others.
            _ => {
                out.push('\\');
                (escape, 0)
            }
        };
        out.push(c);
        for _ in 0..skip {
            chars.next();
        }
    }
    Err("a text without its closing quote".to_owned())
}

fn code(digits: Option<&str>, len: usize) -> Result<char, String> {
    digits
        .filter(|digits| digits.len() == len)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .and_then(char::from_u32)
        .ok_or_else(|| "an escape of a text that is no character".to_owned())
}

/// Up to three octal digits: the character, and how many digits follow the first.
fn octal(text: &str) -> Result<(char, usize), String> {
    let digits = text
        .bytes()
        .take(3)
        .take_while(|b| (b'0'..=b'7').contains(b));
    let len = digits.count();
    let value = u32::from_str_radix(&text[..len], 8).ok();
    let value = value.and_then(char::from_u32);
    let value = value.ok_or_else(|| "an escape of a text that is no character".to_owned())?;
    Ok((value, len - 1))
}
