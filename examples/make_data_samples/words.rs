//! Word lists: one `key: entry, entry` a line, `#` begins a comment. They are part of the program,
//! so a mistake in them is reported with its line.

use anyhow::{Context, Result, anyhow};

/// The lines of a word list, as (key, entries).
pub fn lists(text: &'static str) -> Result<Vec<(&'static str, Vec<&'static str>)>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (key, entries) = line
                .split_once(": ")
                .with_context(|| format!("no `key: entries` in the word list line `{line}`"))?;
            Ok((key, entries.split(", ").collect()))
        })
        .collect()
}

/// The entries of one key.
pub fn entries(
    lists: &[(&'static str, Vec<&'static str>)],
    key: &str,
) -> Result<Vec<&'static str>> {
    let found = lists.iter().find(|(name, _)| *name == key);
    found
        .map(|(_, entries)| entries.clone())
        .ok_or_else(|| anyhow!("the word list has no `{key}`"))
}
