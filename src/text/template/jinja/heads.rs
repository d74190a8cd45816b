//! Heads of statements: loops, scopes, macros, and what they assign to.

use std::fmt::Write as _;

use super::expression::{Parser, Result};

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
