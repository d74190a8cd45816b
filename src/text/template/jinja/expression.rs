//! Expressions, parsed as Jinja2 does and written for minijinja.
//!
//! Where the two agree an expression stays as it is. Operators that follow Python's rules become
//! filters of our own (`a % b` is `a|py_mod(b)`), which the engine calls without looking up a name.

use std::fmt::Write as _;

use super::tokens::Token;
use super::{checks, filters, methods};

/// Deepest nesting of brackets and operators; Python gives up at about the same depth.
const DEEPEST: usize = 60;

/// An expression in minijinja's syntax, and what may follow it there.
pub(super) struct Written {
    pub(super) text: String,
    level: Level,
    /// Its name, if it is only that.
    name: Option<String>,
    /// Whether it is a tuple in its brackets.
    tuple: bool,
}

/// Names that are no variables.
const CONSTANTS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Level {
    /// Takes `.name`, `[..]` and `(..)`.
    Primary,
    /// Takes `|filter` and `is test`.
    Filtered,
    /// Stands in brackets when it is an operand.
    Other,
}

impl Written {
    fn new(text: impl Into<String>, level: Level) -> Self {
        let text = text.into();
        Self {
            text,
            level,
            name: None,
            tuple: false,
        }
    }

    fn at(self, level: Level) -> String {
        match self.level <= level {
            true => self.text,
            false => format!("({})", self.text),
        }
    }
}

type Result<T> = std::result::Result<T, String>;

/// The tokens of a tag that are still to be read.
pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Whether a filter or test that does not exist is an error only where it is reached, as
    /// Jinja2 has it inside of conditions.
    soft: bool,
    /// Names that hold namespaces: their attributes are never methods.
    namespaces: &'a [String],
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token], soft: bool, namespaces: &'a [String]) -> Self {
        Self {
            tokens,
            at: 0,
            soft,
            namespaces,
            depth: 0,
        }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, operator: &str) -> Result<()> {
        match self.skip_operator(operator) {
            true => Ok(()),
            false => Err(format!("expected `{operator}`, found {}", self.found())),
        }
    }

    pub(super) fn name(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(format!("expected a name, found {}", self.found())),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(format!(
                "expected the end of the tag, found {}",
                self.found()
            )),
        }
    }

    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end of the tag".to_owned(),
            Some(Token::Name(name) | Token::Integer(name)) => format!("`{name}`"),
            Some(Token::Text(text)) => format!("{text:?}"),
            Some(Token::Float(value)) => format!("`{value}`"),
            Some(Token::Operator(operator)) => format!("`{operator}`"),
        }
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("an expression nested deeper than {DEEPEST}"));
        }
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// An expression, or several with commas: a tuple.
    pub(super) fn tuple(&mut self, conditional: bool) -> Result<String> {
        let first = self.one(conditional)?;
        if !self.is_operator(",") {
            return Ok(first.text);
        }
        let mut items = vec![first.text];
        while self.skip_operator(",") {
            let ends = [")", "]", "}", "="].iter().any(|end| self.is_operator(end));
            let ends =
                ends || self.peek().is_none() || self.is_name("if") || self.is_name("recursive");
            if ends {
                break;
            }
            items.push(self.one(conditional)?.text);
        }
        let comma = if items.len() == 1 { "," } else { "" };
        Ok(format!("({}{comma})", items.join(", ")))
    }

    fn one(&mut self, conditional: bool) -> Result<Written> {
        match conditional {
            true => self.expression(),
            false => self.deeper(Self::or),
        }
    }

    /// An expression that may be conditional.
    pub(super) fn expression(&mut self) -> Result<Written> {
        self.deeper(Self::conditional)
    }

    /// An expression without a condition at its end.
    pub(super) fn unconditional(&mut self) -> Result<Written> {
        self.deeper(Self::or)
    }

    fn conditional(&mut self) -> Result<Written> {
        // What stands before `if` is read first, so whether it is conditional is looked up ahead.
        let soft = self.soft;
        self.soft |= self.has_condition();
        let mut value = self.or()?;
        while self.skip_name("if") {
            let condition = self.or()?.at(Level::Filtered);
            let otherwise = match self.skip_name("else") {
                true => format!(
                    " else {}",
                    self.deeper(Self::conditional)?.at(Level::Filtered)
                ),
                false => String::new(),
            };
            let text = format!("{} if {condition}{otherwise}", value.at(Level::Filtered));
            value = Written::new(text, Level::Other);
        }
        self.soft = soft;
        Ok(value)
    }

    /// Whether an `if` follows before the expression ends.
    fn has_condition(&self) -> bool {
        let mut open = 0_usize;
        for token in &self.tokens[self.at..] {
            match token {
                Token::Operator("(" | "[" | "{") => open += 1,
                Token::Operator(")" | "]" | "}") if open == 0 => return false,
                Token::Operator(")" | "]" | "}") => open -= 1,
                Token::Operator("," | ":" | "=") if open == 0 => return false,
                Token::Name(name) if open == 0 && name == "if" => return true,
                _ => {}
            }
        }
        false
    }

    fn or(&mut self) -> Result<Written> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?.at(Level::Filtered);
            left = Written::new(
                format!("{} or {right}", left.at(Level::Filtered)),
                Level::Other,
            );
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Written> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?.at(Level::Filtered);
            left = Written::new(
                format!("{} and {right}", left.at(Level::Filtered)),
                Level::Other,
            );
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Written> {
        if !self.skip_name("not") {
            return self.compare();
        }
        let operand = self.deeper(Self::not)?.at(Level::Filtered);
        Ok(Written::new(format!("not {operand}"), Level::Other))
    }

    fn compare(&mut self) -> Result<Written> {
        let first = self.sum()?;
        let Some(mut operator) = self.comparison() else {
            return Ok(first);
        };
        let mut left = first.at(Level::Filtered);
        let mut pairs = Vec::new();
        loop {
            let right = self.sum()?.at(Level::Filtered);
            pairs.push(match operator {
                "==" | "!=" if plain(&left) || plain(&right) => {
                    Written::new(format!("{left} {operator} {right}"), Level::Other)
                }
                "==" => Written::new(format!("{left}|py_eq({right})"), Level::Filtered),
                "!=" => Written::new(format!("{left}|py_ne({right})"), Level::Filtered),
                "not in" => Written::new(format!("not {left}|py_in({right})"), Level::Other),
                filter => Written::new(format!("{left}|{filter}({right})"), Level::Filtered),
            });
            left = right;
            match self.comparison() {
                Some(next) => operator = next,
                None => break,
            }
        }
        if pairs.len() > 1 {
            let all: Vec<String> = pairs
                .into_iter()
                .map(|pair| pair.at(Level::Filtered))
                .collect();
            return Ok(Written::new(all.join(" and "), Level::Other));
        }
        pairs.pop().ok_or_else(|| "an empty comparison".to_owned())
    }

    /// A comparison's operator, as it is written.
    fn comparison(&mut self) -> Option<&'static str> {
        if self.is_name("not")
            && matches!(self.tokens.get(self.at + 1), Some(Token::Name(name)) if name == "in")
        {
            self.at += 2;
            return Some("not in");
        }
        if self.skip_name("in") {
            return Some("py_in");
        }
        const OPERATORS: [(&str, &str); 6] = [
            ("==", "=="),
            ("!=", "!="),
            ("<", "py_lt"),
            ("<=", "py_le"),
            (">", "py_gt"),
            (">=", "py_ge"),
        ];
        let known = OPERATORS
            .iter()
            .find(|(operator, _)| self.is_operator(operator))?;
        self.at += 1;
        Some(known.1)
    }

    /// `a + b + c`, added at once, and differences.
    fn sum(&mut self) -> Result<Written> {
        let mut left = self.concat()?;
        loop {
            let (operator, filter) = match (self.is_operator("+"), self.is_operator("-")) {
                (true, _) => ("+", "py_add"),
                (_, true) => ("-", "py_sub"),
                _ => return Ok(left),
            };
            let mut parts = Vec::new();
            while self.skip_operator(operator) {
                parts.push(self.concat()?.text);
                if operator == "-" {
                    break;
                }
            }
            let text = format!(
                "{}|{filter}({})",
                left.at(Level::Filtered),
                parts.join(", ")
            );
            left = Written::new(text, Level::Filtered);
        }
    }

    /// `a ~ b ~ c`, joined at once.
    fn concat(&mut self) -> Result<Written> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = Vec::new();
        while self.skip_operator("~") {
            parts.push(self.product()?.text);
        }
        let text = format!(
            "{}|py_concat({})",
            first.at(Level::Filtered),
            parts.join(", ")
        );
        Ok(Written::new(text, Level::Filtered))
    }

    fn product(&mut self) -> Result<Written> {
        const PRODUCT: [(&str, &str); 4] = [
            ("*", "py_mul"),
            ("/", "py_div"),
            ("//", "py_floordiv"),
            ("%", "py_mod"),
        ];
        self.binary(&PRODUCT, Self::power)
    }

    /// Powers associate to the left in Jinja2.
    fn power(&mut self) -> Result<Written> {
        self.binary(&[("**", "py_pow")], |parser| parser.unary(true))
    }

    fn binary(
        &mut self,
        operators: &[(&str, &str)],
        operand: fn(&mut Self) -> Result<Written>,
    ) -> Result<Written> {
        let mut left = operand(self)?;
        while let Some((_, filter)) = operators.iter().find(|(name, _)| self.is_operator(name)) {
            self.at += 1;
            let right = operand(self)?.text;
            let text = format!("{}|{filter}({right})", left.at(Level::Filtered));
            left = Written::new(text, Level::Filtered);
        }
        Ok(left)
    }

    fn unary(&mut self, filters: bool) -> Result<Written> {
        let sign = [("-", "py_neg"), ("+", "py_pos")];
        let value = match sign.iter().find(|(sign, _)| self.is_operator(sign)) {
            Some((_, filter)) => {
                self.at += 1;
                let number = matches!(self.peek(), Some(Token::Integer(_) | Token::Float(_)));
                let operand = self.deeper(|parser| parser.unary(false))?;
                if number && *filter == "py_neg" && operand.text.bytes().all(is_digit) {
                    return self.after(
                        Written::new(format!("-{}", operand.text), Level::Filtered),
                        filters,
                    );
                }
                Written::new(
                    format!("{}|{filter}", operand.at(Level::Filtered)),
                    Level::Filtered,
                )
            }
            None => self.primary()?,
        };
        self.after(value, filters)
    }

    /// What follows a value: attributes, calls, and filters where they may.
    fn after(&mut self, value: Written, filters: bool) -> Result<Written> {
        let value = self.postfix(value)?;
        match filters {
            true => self.filtered(value),
            false => Ok(value),
        }
    }

    fn primary(&mut self) -> Result<Written> {
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
    fn items(&mut self, close: &str, item: impl Fn(&mut Self) -> Result<String>) -> Result<String> {
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

    fn postfix(&mut self, mut value: Written) -> Result<Written> {
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

    fn filtered(&mut self, mut value: Written) -> Result<Written> {
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

/// Whether it is a text or a number: what is compared with these cannot be large.
fn plain(written: &str) -> bool {
    written.starts_with(|c: char| c == '"' || c.is_ascii_digit()) && !written.contains('|')
        || matches!(written, "true" | "false" | "none")
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
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

/// Heads of statements.
impl Parser<'_> {
    /// From here on a filter that does not exist is an error only where it is reached.
    pub(super) fn set_soft(&mut self) {
        self.soft = true;
    }

    /// Passes over a token, if there is one.
    pub(super) fn skip_any(&mut self) -> bool {
        let some = self.peek().is_some();
        self.at += usize::from(some);
        some
    }

    /// `for <target> in <items> if <condition> recursive`.
    pub(super) fn for_loop(&mut self) -> Result<String> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return Err(format!("expected `in`, found {}", self.found()));
        }
        let mut text = format!("for {target} in ({})|py_iter", self.tuple(false)?);
        if self.skip_name("if") {
            let _ = write!(text, " if {}", self.expression()?.text);
        }
        if self.skip_name("recursive") {
            text += " recursive";
        }
        Ok(text)
    }

    /// `with a = 1, b = 2`: no value sees the other names.
    pub(super) fn with(&mut self) -> Result<String> {
        let (mut targets, mut values) = (Vec::new(), Vec::new());
        while self.peek().is_some() {
            if !targets.is_empty() {
                self.expect(",")?;
            }
            targets.push(self.target(false)?);
            self.expect("=")?;
            values.push(self.expression()?.text);
        }
        match (targets.as_slice(), values.as_slice()) {
            ([], _) => Ok("with".to_owned()),
            ([target], [value]) => Ok(format!("with {target} = {value}")),
            _ => Ok(format!(
                "with ({}) = ({})",
                targets.join(", "),
                values.join(", ")
            )),
        }
    }

    /// A macro's parameters in brackets, written without them, and what its body begins with:
    /// minijinja does not let a default see the parameters before it.
    pub(super) fn parameters(&mut self) -> Result<(String, String)> {
        self.expect("(")?;
        let (mut names, mut defaults) = (Vec::new(), String::new());
        while !self.skip_operator(")") {
            if !names.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            names.push(name);
            if self.skip_operator("=") {
                let value = self.expression()?.text;
                let _ = write!(
                    defaults,
                    "{{% if {name} is undefined() %}}{{% set {name} = {value} %}}{{% endif %}}"
                );
            } else if !defaults.is_empty() {
                return Err(format!(
                    "the parameter `{name}` needs a default, as those before it"
                ));
            }
        }
        Ok((names.join(", "), defaults))
    }

    /// What a loop or `set` assigns to: a name, several in brackets or not, or with `attributes`
    /// `space.name`.
    pub(super) fn target(&mut self, attributes: bool) -> Result<String> {
        let mut parts = Vec::new();
        let mut tuple = false;
        loop {
            if self.skip_operator("(") {
                parts.push(format!(
                    "({})",
                    self.deeper(|parser| parser.target(attributes))?
                ));
                self.expect(")")?;
            } else {
                let mut name = self.name()?.to_owned();
                if attributes && self.skip_operator(".") {
                    name = format!("{name}.{}", self.name()?);
                }
                parts.push(name);
            }
            if !self.skip_operator(",") {
                break;
            }
            tuple = true;
            let ends = self.is_name("in") || self.is_operator("=") || self.is_operator(")");
            if ends || self.peek().is_none() {
                break;
            }
        }
        let comma = if tuple && parts.len() == 1 { "," } else { "" };
        Ok(parts.join(", ") + comma)
    }
}
