//! Regular expressions over the names of modules, as Python's `re` has them.

use fancy_regex::Regex;

/// An expression.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    regex: Regex,
}

impl Expression {
    /// An expression that stands for a whole name: `re.fullmatch`.
    pub fn whole(text: &str) -> Option<Self> {
        Self::of(&format!(r"\A(?:{text})\z"))
    }

    /// An expression that stands for a name or the last parts of it, as those of `rank_pattern`.
    pub fn last_parts(text: &str) -> Option<Self> {
        Self::of(&format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// An expression that stands for a name, or for what lies in it, as those of `modules_to_save`.
    pub fn or_within(text: &str) -> Option<Self> {
        Self::of(&format!(r"\A(?:|.*\.)(?:{text})(?:\z|\..*)"))
    }

    fn of(regex: &str) -> Option<Self> {
        Some(Self {
            regex: Regex::new(regex).ok()?,
        })
    }

    /// Whether it stands for `name`. An expression that takes too long does not.
    pub fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name).unwrap_or(false)
    }
}

/// Values for the modules that expressions stand for; the first that fits counts.
#[derive(Clone, Debug)]
pub(super) struct Pattern<T>(pub Vec<(Expression, T)>);

impl<T: Copy> Pattern<T> {
    /// The value for a module, if there is one of its own.
    pub fn of(&self, module: &str) -> Option<T> {
        let found = self.0.iter().find(|(name, _)| name.is_match(module));
        found.map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_in_python() {
        let name = "model.layers.10.self_attn.q_proj";
        for (text, whole, last) in [
            (".*q_proj", true, true),
            ("q_proj", false, true),
            ("_proj", false, false),
            ("q_proj|v_proj", false, true),
            (r"model\.layers\.\d+\.self_attn\.(q|v)_proj", true, true),
            (r"^model.layers.10.self_attn.q_proj", true, true),
            (r"layers.(?!10\.)\d+.*", false, false),
            (r"(?P<n>layers).1\d.*", false, true),
        ] {
            assert_eq!(
                Expression::whole(text).unwrap().is_match(name),
                whole,
                "{text}"
            );
            assert_eq!(
                Expression::last_parts(text).unwrap().is_match(name),
                last,
                "{text}"
            );
        }
        assert!(Expression::or_within("self_attn").unwrap().is_match(name));
        assert!(!Expression::or_within("self").unwrap().is_match(name));
        assert!(Expression::whole("(").is_none());
    }
}
