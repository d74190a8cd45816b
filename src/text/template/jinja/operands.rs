//! What operators stand between: constants, names, lists, attributes, calls, filters and tests.

use std::fmt::Write as _;

use super::expression::{Level, Parser, Result, Written};
use super::methods;
use super::tokens::Token;
use super::{checks, filters};

/// Names that are no variables.
const CONSTANTS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];

impl<'a> Parser<'a> {
    pub(super) fn primary(&mut self) -> Result<Written> {
        let start = self.at;
        let value = self.plain_primary()?;
        // Loops can nest lists in lists: those with anything but constants are looked through.
        let tokens = &self.tokens[start..self.at];
        let list = matches!(tokens.first(), Some(Token::Operator("(" | "[" | "{")));
        let constant = |token: &Token| match token {
            Token::Name(name) => CONSTANTS.contains(&name.as_str()),
            _ => true,
        };
        let list = list && (!value.text.starts_with('(') || value.tuple);
        if !list || tokens.iter().all(constant) {
            return Ok(value);
        }
        Ok(Written::new(
            format!("{}|py_flat", value.text),
            Level::Filtered,
        ))
    }

    fn plain_primary(&mut self) -> Result<Written> {
        let primary = |text: String| Ok(Written::new(text, Level::Primary));
        let Some(token) = self.peek() else {
            return Err("expected an expression, found the end of the tag".to_owned());
        };
        match token {
            Token::Name(name) => {
                self.at += 1;
                let text = match name.as_str() {
                    "True" | "true" => "true",
                    "False" | "false" => "false",
                    "None" | "none" => "none",
                    name => name,
                };
                let name = Some(name.clone());
                Ok(Written {
                    name,
                    ..Written::new(text, Level::Primary)
                })
            }
            Token::Text(_) => {
                let mut text = String::new();
                while let Some(Token::Text(part)) = self.peek() {
                    text += part;
                    self.at += 1;
                }
                primary(quoted(&text))
            }
            Token::Integer(digits) => {
                self.at += 1;
                primary(digits.clone())
            }
            Token::Float(value) => {
                self.at += 1;
                // Written without an exponent; what overflows is what Python calls `inf`.
                match value.is_finite() {
                    true => primary(format!("{value:.0$}", decimals(*value))),
                    false => Ok(Written::new("'inf'|float", Level::Filtered)),
                }
            }
            Token::Operator("(") => {
                self.at += 1;
                if self.skip_operator(")") {
                    return primary("()".to_owned());
                }
                let start = self.at;
                let inner = self.tuple(true)?;
                let tuple = inner.starts_with('(') && self.has_comma(start);
                self.expect(")")?;
                let text = if tuple { inner } else { format!("({inner})") };
                Ok(Written {
                    tuple,
                    ..Written::new(text, Level::Primary)
                })
            }
            Token::Operator("[") => {
                self.at += 1;
                let items = self.items("]", |parser| Ok(parser.expression()?.text))?;
                primary(format!("[{items}]"))
            }
            Token::Operator("{") => {
                self.at += 1;
                let pair = |parser: &mut Self| {
                    let key = parser.expression()?.text;
                    parser.expect(":")?;
                    Ok(format!("{key}: {}", parser.expression()?.text))
                };
                let items = self.items("}", pair)?;
                primary(format!("{{{items}}}"))
            }
            Token::Operator(_) => Err(format!("expected an expression, found {}", self.found())),
        }
    }

    /// Whether a comma stands outside of brackets in what was read since `start`.
    fn has_comma(&self, start: usize) -> bool {
        let mut open = 0_usize;
        self.tokens[start..self.at].iter().any(|token| {
            match token {
                Token::Operator("(" | "[" | "{") => open += 1,
                Token::Operator(")" | "]" | "}") => open = open.saturating_sub(1),
                _ => {}
            }
            open == 0 && *token == Token::Operator(",")
        })
    }

    /// Items between commas, up to `close`; a comma may stand at the end.
    pub(super) fn items(
        &mut self,
        close: &str,
        item: impl Fn(&mut Self) -> Result<String>,
    ) -> Result<String> {
        let mut items = Vec::new();
        while !self.skip_operator(close) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.skip_operator(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items.join(", "))
    }

    pub(super) fn postfix(&mut self, mut value: Written) -> Result<Written> {
        loop {
            if self.skip_operator(".") {
                value = self.attribute(value)?;
            } else if self.skip_operator("[") {
                value = self.subscript(value)?;
            } else if self.is_operator("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
            self.link()?;
        }
    }

    fn attribute(&mut self, value: Written) -> Result<Written> {
        let space = value
            .name
            .as_ref()
            .is_some_and(|name| self.namespaces.contains(name));
        if let Some(Token::Integer(index)) = self.peek() {
            self.at += 1;
            let text = format!("{}[{index}]", value.at(Level::Primary));
            return Ok(Written::new(text, Level::Primary));
        }
        let name = self.name()?;
        // A method that is not called is the method, whatever keys a dictionary has.
        if methods::is_method(name) && !self.is_operator("(") && !space {
            let text = format!("{}|py_attr({name:?})", value.at(Level::Filtered));
            return Ok(Written::new(text, Level::Filtered));
        }
        Ok(Written::new(
            format!("{}.{name}", value.at(Level::Primary)),
            Level::Primary,
        ))
    }

    fn subscript(&mut self, value: Written) -> Result<Written> {
        let mut parts: Vec<Option<String>> = vec![None];
        while !self.skip_operator("]") {
            if self.skip_operator(":") {
                parts.push(None);
                continue;
            }
            let part = self.tuple(true)?;
            match parts.last_mut() {
                Some(last @ None) => *last = Some(part),
                _ => return Err(format!("expected `]`, found {}", self.found())),
            }
        }
        match parts.as_slice() {
            [None] => Err("an empty subscript".to_owned()),
            [Some(key)] if !key.starts_with('"') || key.contains('|') => Ok(Written::new(
                format!("{}|py_item({key})", value.at(Level::Filtered)),
                Level::Filtered,
            )),
            [Some(key)] => Ok(Written::new(
                format!("{}[{key}]", value.at(Level::Primary)),
                Level::Primary,
            )),
            [_, _] | [_, _, _] => {
                let parts = parts
                    .into_iter()
                    .map(|part| part.unwrap_or_else(|| "none".to_owned()));
                let parts = parts.collect::<Vec<_>>().join(", ");
                let text = format!("{}|py_slice({parts})", value.at(Level::Filtered));
                Ok(Written::new(text, Level::Filtered))
            }
            _ => Err("a slice of more than three parts".to_owned()),
        }
    }

    fn call(&mut self, value: Written) -> Result<Written> {
        let arguments = self.arguments()?;
        // minijinja's loops divide by the number of what they go round.
        if let Some(value) = value.text.strip_suffix(".cycle") {
            let text = format!("{value}|py_cycle({arguments})");
            return Ok(Written::new(text, Level::Filtered));
        }
        Ok(Written::new(
            format!("{}({arguments})", value.at(Level::Primary)),
            Level::Primary,
        ))
    }

    /// The arguments of a call, without its brackets.
    fn arguments(&mut self) -> Result<String> {
        self.expect("(")?;
        self.items(")", |parser| {
            if parser.skip_operator("**") {
                return Ok(format!("**{}", parser.expression()?.at(Level::Primary)));
            }
            if parser.skip_operator("*") {
                return Ok(format!("*{}", parser.expression()?.at(Level::Primary)));
            }
            if let (Some(Token::Name(name)), Some(Token::Operator("="))) =
                (parser.peek(), parser.tokens.get(parser.at + 1))
            {
                parser.at += 2;
                return Ok(format!("{name}={}", parser.expression()?.text));
            }
            Ok(parser.expression()?.text)
        })
    }

    pub(super) fn filtered(&mut self, mut value: Written) -> Result<Written> {
        loop {
            if self.skip_operator("|") {
                let text = value.at(Level::Filtered);
                value = Written::new(format!("{text}|{}", self.filter()?), Level::Filtered);
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_operator("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
            self.link()?;
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter(&mut self) -> Result<String> {
        let name = self.dotted()?;
        let arguments = match self.is_operator("(") {
            true => self.arguments()?,
            false => String::new(),
        };
        if !filters::is_known(&name) {
            return self.missing("filter", &name, "py_missing");
        }
        let mut text = name;
        if !arguments.is_empty() {
            let _ = write!(text, "({arguments})");
        }
        Ok(text)
    }

    fn test(&mut self, value: Written) -> Result<Written> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let ends = ["else", "or", "and"].iter().any(|name| self.is_name(name));
        let argument = matches!(
            self.peek(),
            Some(
                Token::Name(_)
                    | Token::Text(_)
                    | Token::Integer(_)
                    | Token::Float(_)
                    | Token::Operator("[" | "{")
            )
        );
        let arguments = if self.is_operator("(") {
            self.arguments()?
        } else if argument && !ends {
            if self.is_name("is") {
                return Err("tests cannot be chained with `is`".to_owned());
            }
            let value = self.primary()?;
            self.postfix(value)?.text
        } else {
            String::new()
        };
        let text = value.at(Level::Filtered);
        let text = match checks::is_known(&name) {
            true => format!("{text} is {name}({arguments})"),
            false => format!("{text}|{}", self.missing("test", &name, "py_missing")?),
        };
        Ok(match negated {
            true => Written::new(format!("not {text}"), Level::Other),
            false => Written::new(text, Level::Filtered),
        })
    }

    fn dotted(&mut self) -> Result<String> {
        let mut name = self.name()?.to_owned();
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn missing(&self, kind: &str, name: &str, filter: &str) -> Result<String> {
        let what = format!("there is no {kind} `{name}`");
        match self.soft {
            true => Ok(format!("{filter}({})", quoted(&what))),
            false => Err(what),
        }
    }
}

/// Decimal places that write a float exactly enough to be read back, one at least.
fn decimals(value: f64) -> usize {
    let text = value.to_string();
    text.split_once('.').map_or(1, |(_, places)| places.len())
}

/// A text as minijinja reads it, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
