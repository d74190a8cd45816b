//! What a path that may not exist yet lies in.

use std::path::{Path, PathBuf};

/// The folder that contains (or is) `path` and exists, made absolute.
pub(crate) fn existing_ancestor(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute
        .ancestors()
        .find_map(|ancestor| ancestor.canonicalize().ok())
        .unwrap_or(absolute)
}
