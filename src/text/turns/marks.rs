//! Marks that stand for contents.

/// Marks that stand for contents: private characters, which no template trims or splits.
pub(in crate::text) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    pub(in crate::text) const DEFAULT: Self = Self {
        open: '\u{E0F0}',
        close: '\u{E0F1}',
    };

    /// Marks that a text does not have itself.
    pub(super) fn not_in(text: &str) -> Option<Self> {
        let others = ('\u{F0000}'..'\u{F0100}').map(|open| Self {
            open,
            close: char::from_u32(open as u32 + 0x100).unwrap_or(open),
        });
        let absent = |marks: &Self| !text.contains([marks.open, marks.close]);
        std::iter::once(Self::DEFAULT).chain(others).find(absent)
    }

    /// The mark of message `index`.
    pub(in crate::text) fn of(&self, index: usize) -> String {
        format!("{}{index}{}", self.open, self.close)
    }

    /// A longer one.
    pub(super) fn long(&self, index: usize) -> String {
        format!(
            "{}{}{}",
            self.open,
            format!("{index} ").repeat(30),
            self.close
        )
    }

    /// What stands before the first mark of a text, whose it is, and what stands after it.
    pub(super) fn next<'a>(&self, text: &'a str) -> Option<(&'a str, usize, &'a str)> {
        let (before, rest) = text.split_once(self.open)?;
        let (index, after) = rest.split_once(self.close)?;
        Some((before, index.parse().ok()?, after))
    }
}
