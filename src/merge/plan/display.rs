//! A plan for people.

use std::fmt;

use super::Plan;
use crate::units::{Bytes, Count};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .models
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        let passes = self.matched.tensors.iter().map(|t| t.kernel.passes()).max();
        writeln!(
            f,
            "merge       {} of {}",
            self.config.method.name,
            names.join(", ")
        )?;
        if let Some(base) = &self.config.base_model {
            writeln!(f, "base        {base}")?;
        }
        writeln!(f, "output      {}", self.target.out().display())?;
        writeln!(
            f,
            "tensors     {} in {} file(s)",
            Count(self.tensors() as u64),
            self.layout.files().len()
        )?;
        writeln!(
            f,
            "read        {} in up to {} pass(es)",
            Bytes(self.bytes_in()),
            passes.unwrap_or(0)
        )?;
        write!(f, "write       {}", Bytes(self.bytes_written()))?;
        if let Some(free) = self.free_space() {
            let enough = free >= self.bytes_written();
            let but = if enough { "" } else { ": too little" };
            write!(f, " ({} free{but})", Bytes(free))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "memory      at most {} beyond the page cache",
            Bytes(self.memory())
        )?;
        let vocabulary = self.tokenizer.iter().flat_map(|files| &files.summary);
        for (at, line) in vocabulary.enumerate() {
            let title = if at == 0 { "vocabulary" } else { "" };
            writeln!(f, "{title:<12}{line}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning     {warning}")?;
        }
        for note in &self.matched.notes {
            writeln!(f, "note        {note}")?;
        }
        Ok(())
    }
}
