//! Parameters of methods: declared once, looked up when a merge is planned, typed from then on.
//!
//! [`declare`] makes from one declaration the rows of the table (name, values, default, doc) and
//! the struct that a kernel reads its values from.

use crate::error::{Error, Result};

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A word.
    Word(String),
}

/// The values that a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number in a closed interval.
    Number(f64, f64),
    /// A whole number from 0 to this one.
    Whole(f64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A parameter's default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DefaultValue {
    /// It must be given for every model (the base model excepted).
    Required,
    /// This number.
    Number(f64),
    /// This flag.
    Flag(bool),
    /// This word.
    Word(&'static str),
}

impl DefaultValue {
    fn scalar(self) -> Option<Scalar> {
        match self {
            Self::Required => None,
            Self::Number(value) => Some(Scalar::Number(value)),
            Self::Flag(value) => Some(Scalar::Flag(value)),
            Self::Word(value) => Some(Scalar::Word(value.to_owned())),
        }
    }
}

impl std::fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Required => f.write_str("required"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Word(value) => f.write_str(value),
        }
    }
}

/// One parameter of a method.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its key under `parameters`.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// What holds where it is not given.
    pub default: DefaultValue,
    /// Whether each model has its own; else it is one for all.
    pub per_model: bool,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl Parameter {
    /// Checks a value.
    ///
    /// # Errors
    ///
    /// A value of the wrong kind, or outside the range.
    pub fn check(&self, value: &Scalar) -> Result<()> {
        let fits = match (self.kind, value) {
            (Kind::Number(low, high), Scalar::Number(number)) => (low..=high).contains(number),
            (Kind::Whole(high), Scalar::Number(number)) => {
                (0.0..=high).contains(number) && number.fract() == 0.0
            }
            (Kind::Flag, Scalar::Flag(_)) => true,
            (Kind::Choice(words), Scalar::Word(word)) => words.contains(&word.as_str()),
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(self.refusal(value)),
        }
    }

    fn refusal(&self, value: &Scalar) -> Error {
        let expected = match self.kind {
            Kind::Number(f64::MIN, f64::MAX) => "a number".to_owned(),
            Kind::Number(low, f64::MAX) => format!("a number of at least {low}"),
            Kind::Number(low, high) => format!("a number from {low} to {high}"),
            Kind::Whole(high) => format!("a whole number from 0 to {high}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        };
        let found = match value {
            Scalar::Number(number) => number.to_string(),
            Scalar::Flag(flag) => flag.to_string(),
            Scalar::Word(word) => format!("`{word}`"),
        };
        Error::usage(format!(
            "`{}`: expected {expected}, found {found}",
            self.name
        ))
    }
}

/// What is configured for one tensor.
pub trait Configured {
    /// The number of models besides the base.
    fn models(&self) -> usize;

    /// The value of a parameter: that of a model, or the one for all models.
    fn value(&self, name: &str, model: Option<usize>) -> Option<Scalar>;

    /// The error for a parameter that must be given and is not.
    fn missing(&self, name: &str, model: Option<usize>) -> Error;
}

/// The declaration of a parameter of type `T`, but for its name.
#[derive(Clone, Copy)]
pub struct Declared<T> {
    kind: Kind,
    default: DefaultValue,
    doc: &'static str,
    typed: fn(&Scalar) -> Option<T>,
}

/// A number that must be given, of any size.
pub const fn number(doc: &'static str) -> Declared<f64> {
    Declared {
        kind: Kind::Number(f64::MIN, f64::MAX),
        default: DefaultValue::Required,
        doc,
        typed: |value| match value {
            Scalar::Number(number) => Some(*number),
            _ => None,
        },
    }
}

/// A flag.
pub const fn flag(default: bool, doc: &'static str) -> Declared<bool> {
    Declared {
        kind: Kind::Flag,
        default: DefaultValue::Flag(default),
        doc,
        typed: |value| match value {
            Scalar::Flag(flag) => Some(*flag),
            _ => None,
        },
    }
}

/// One of some words, by default the first.
pub const fn choice<T>(
    words: &'static [&'static str],
    typed: fn(&Scalar) -> Option<T>,
    doc: &'static str,
) -> Declared<T> {
    Declared {
        kind: Kind::Choice(words),
        default: DefaultValue::Word(words[0]),
        doc,
        typed,
    }
}

impl Declared<f64> {
    /// From `low` to `high`.
    pub const fn within(mut self, low: f64, high: f64) -> Self {
        self.kind = Kind::Number(low, high);
        self
    }

    /// A whole number of at most `high`.
    pub const fn whole(mut self, high: f64) -> Self {
        self.kind = Kind::Whole(high);
        self
    }

    /// With a default.
    pub const fn or(mut self, default: f64) -> Self {
        self.default = DefaultValue::Number(default);
        self
    }
}

impl<T> Declared<T> {
    /// The parameter with its name.
    pub const fn named(&self, name: &'static str, per_model: bool) -> Parameter {
        Parameter {
            name,
            kind: self.kind,
            default: self.default,
            per_model,
            doc: self.doc,
        }
    }

    /// Its value for all models.
    ///
    /// # Errors
    ///
    /// A value that must be given and is not, or is of the wrong kind.
    pub fn of_all(&self, name: &'static str, configured: &dyn Configured) -> Result<T> {
        self.read(name, configured, None)
    }

    /// Its value for each model.
    ///
    /// # Errors
    ///
    /// As [`Declared::of_all`].
    pub fn of_models(&self, name: &'static str, configured: &dyn Configured) -> Result<Vec<T>> {
        (0..configured.models())
            .map(|model| self.read(name, configured, Some(model)))
            .collect()
    }

    fn read(
        &self,
        name: &'static str,
        configured: &dyn Configured,
        model: Option<usize>,
    ) -> Result<T> {
        let value = configured
            .value(name, model)
            .or_else(|| self.default.scalar())
            .ok_or_else(|| configured.missing(name, model))?;
        (self.typed)(&value).ok_or_else(|| self.named(name, model.is_some()).refusal(&value))
    }
}

/// Declares the parameters of a method: those that each model has, and those that are one for all
/// models. Makes a struct with a field for each (a vector with one entry for each model, or a
/// value), its rows for the table (`PARAMETERS`) and what reads them for one tensor (`read`).
/// What is declared may depend on a flag of the type.
macro_rules! declare {
    (struct $name:ident $(<$flag:ident>)? {
        $(each { $($own:ident: $own_type:ty = $own_declared:expr,)* })?
        $(all { $($one:ident: $one_type:ty = $one_declared:expr,)* })?
    }) => {
        #[derive(Debug)]
        pub struct $name $(<const $flag: bool>)? {
            $($($own: Vec<$own_type>,)*)?
            $($($one: $one_type,)*)?
        }

        impl $(<const $flag: bool>)? $name $(<$flag>)? {
            const PARAMETERS: &[$crate::merge::methods::parameter::Parameter] = &[
                $($(($own_declared).named(stringify!($own), true),)*)?
                $($(($one_declared).named(stringify!($one), false),)*)?
            ];

            fn read(
                configured: &dyn $crate::merge::methods::parameter::Configured,
            ) -> $crate::error::Result<Self> {
                Ok(Self {
                    $($($own: ($own_declared).of_models(stringify!($own), configured)?,)*)?
                    $($($one: ($one_declared).of_all(stringify!($one), configured)?,)*)?
                })
            }
        }
    };
}
pub(super) use declare;
