//! Arguments by position and by name, as Python's functions take them.

use minijinja::Value;
use minijinja::value::{Kwargs, ValueKind, from_args};

use super::python::{Result, error, index, text, type_of};

/// Calls with arguments in one slice, those by name last, as minijinja hands them to methods.
pub(super) fn in_one<T>(args: &[Value], names: Kwargs, call: impl FnOnce(&[Value]) -> T) -> T {
    if names.args().next().is_none() {
        return call(args);
    }
    let mut all = args.to_vec();
    all.push(Value::from(names));
    call(&all)
}

/// The arguments of a call.
pub(super) struct Arguments<'a> {
    of: &'a str,
    positions: &'a [Value],
    names: Option<Kwargs>,
}

impl<'a> Arguments<'a> {
    /// The arguments of `of`, which takes those in `names`, in this order, and no others.
    pub(super) fn new(of: &'a str, args: &'a [Value], names: &[&str]) -> Result<Self> {
        let arguments = Self::any(of, args)?;
        if arguments.positions.len() > names.len() {
            let found = arguments.positions.len();
            return Err(error(format!(
                "{of} takes {} arguments, found {found}",
                names.len()
            )));
        }
        for name in arguments.names() {
            match names.iter().position(|known| *known == name) {
                Some(at) if at >= arguments.positions.len() => {}
                Some(_) => return Err(error(format!("{of} got two values for `{name}`"))),
                None => return Err(error(format!("{of} has no argument `{name}`"))),
            }
        }
        Ok(arguments)
    }

    /// The arguments of `of`, which takes any.
    pub(super) fn any(of: &'a str, args: &'a [Value]) -> Result<Self> {
        if !args.last().is_some_and(Value::is_kwargs) {
            return Ok(Self {
                of,
                positions: args,
                names: None,
            });
        }
        let (positions, names): (&[Value], Kwargs) = from_args(args)?;
        Ok(Self {
            of,
            positions,
            names: Some(names),
        })
    }

    /// Those by position.
    pub(super) fn positions(&self) -> &'a [Value] {
        self.positions
    }

    /// The names of the others.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flat_map(Kwargs::args)
    }

    /// An argument by its name only.
    pub(super) fn named(&self, name: &str) -> Option<Value> {
        let names = self.names.as_ref().filter(|names| names.has(name))?;
        names.peek(name).ok()
    }

    /// An argument by its position or its name.
    pub(super) fn get(&self, at: usize, name: &str) -> Option<Value> {
        self.positions.get(at).cloned().or_else(|| self.named(name))
    }

    /// An argument that must be there.
    pub(super) fn required(&self, at: usize, name: &str) -> Result<Value> {
        self.get(at, name)
            .ok_or_else(|| error(format!("{} needs `{name}`", self.of)))
    }

    /// A text that must be there.
    pub(super) fn string(&self, at: usize, name: &str) -> Result<String> {
        self.as_string(&self.required(at, name)?, name)
    }

    /// A text that may be left out, or be none.
    pub(super) fn string_or_none(&self, at: usize, name: &str) -> Result<Option<String>> {
        match self.get(at, name) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(value) => self.as_string(&value, name).map(Some),
        }
    }

    fn as_string(&self, value: &Value, name: &str) -> Result<String> {
        match value.kind() {
            ValueKind::String => text(value),
            _ => {
                let found = type_of(value);
                Err(error(format!(
                    "{}: `{name}` must be str, not {found}",
                    self.of
                )))
            }
        }
    }

    /// An integer that may be left out, or be none.
    pub(super) fn integer(&self, at: usize, name: &str) -> Result<Option<i64>> {
        match self.get(at, name) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(value) => index(&value).map(Some),
        }
    }

    /// Whether an argument is given and true.
    pub(super) fn flag(&self, at: usize, name: &str) -> bool {
        self.get(at, name).is_some_and(|value| value.is_true())
    }
}
