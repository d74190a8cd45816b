//! Expressions, parsed as Jinja2 does and written for minijinja.
//!
//! Where the two agree an expression stays as it is. Operators that follow Python's rules become
//! filters of our own (`a % b` is `a|py_mod(b)`), which the engine calls without looking up a name.

use super::tokens::Token;

/// Deepest nesting of brackets and operators; Python gives up at about the same depth.
const DEEPEST: usize = 60;

/// Most links of chains (`a|b|c`, `a.b.c`, `a or b or c`) in a tag, or branches of an `if`: the engine
/// goes down one level for each, and says itself where it will not go as deep as this.
pub(super) const LONGEST: usize = 500;

/// An expression in minijinja's syntax, and what may follow it there.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) level: Level,
    /// Its name, if it is only that.
    pub(super) name: Option<String>,
    /// Whether it is a tuple in its brackets.
    pub(super) tuple: bool,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum Level {
    /// Takes `.name`, `[..]` and `(..)`.
    Primary,
    /// Takes `|filter` and `is test`.
    Filtered,
    /// Stands in brackets when it is an operand.
    Other,
}

impl Written {
    pub(super) fn new(text: impl Into<String>, level: Level) -> Self {
        let text = text.into();
        Self {
            text,
            level,
            name: None,
            tuple: false,
        }
    }

    pub(super) fn at(self, level: Level) -> String {
        match self.level <= level {
            true => self.text,
            false => format!("({})", self.text),
        }
    }
}

/// What is wrong otherwise.
pub(super) type Result<T> = std::result::Result<T, String>;

/// The tokens of a tag that are still to be read.
pub(super) struct Parser<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    /// Whether a filter or test that does not exist is an error only where it is reached, as
    /// Jinja2 has it inside of conditions.
    pub(super) soft: bool,
    /// Names that hold namespaces: their attributes are never methods.
    pub(super) namespaces: &'a [String],
    depth: usize,
    links: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token], soft: bool, namespaces: &'a [String]) -> Self {
        Self {
            tokens,
            at: 0,
            soft,
            namespaces,
            depth: 0,
            links: 0,
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

    pub(super) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("an expression nested deeper than {DEEPEST}"));
        }
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Counts a link of a chain.
    pub(super) fn link(&mut self) -> Result<()> {
        self.links += 1;
        match self.links > LONGEST {
            true => Err(format!(
                "a chain of more than {LONGEST} operators, filters and attributes"
            )),
            false => Ok(()),
        }
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
            self.link()?;
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
            self.link()?;
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
            self.link()?;
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
            self.link()?;
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
            self.link()?;
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
            self.link()?;
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
}

/// Whether it is a text or a number: what is compared with these cannot be large.
pub(super) fn plain(written: &str) -> bool {
    written.starts_with(|c: char| c == '"' || c.is_ascii_digit()) && !written.contains('|')
        || matches!(written, "true" | "false" | "none")
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}
