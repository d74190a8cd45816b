//! Whether the output folder may be written to.

use std::path::Path;

use crate::checkpoint::{CONFIG, Target};
use crate::error::{Error, Result};
use crate::files::existing_ancestor;
use crate::merge::inputs::Model;

/// Checks that the output folder may be written to.
///
/// # Errors
///
/// A folder that lies inside an input or contains one, a file, a folder that is not empty (with
/// `force`: that is no model folder).
pub fn check_output(models: &[Model], out: &Path, force: bool) -> Result<Target> {
    let place = existing_ancestor(out);
    let exists = out.exists();
    let folders = models.iter().flat_map(|model| {
        let adapter = model.adapter.iter().map(|adapter| &adapter.dir);
        std::iter::once(&model.dir).chain(adapter)
    });
    let refused = |relation: &str, folder: &Path| {
        Err(Error::usage(format!(
            "the output `{}` {relation} the input folder `{}`",
            out.display(),
            folder.display()
        ))
        .remedy("choose another output folder"))
    };
    for folder in folders {
        let dir = existing_ancestor(folder);
        if place.starts_with(&dir) {
            return refused("lies inside", folder);
        }
        if exists && dir.starts_with(&place) {
            return refused("contains", folder);
        }
    }
    let target = Target::look(out, force)?;
    if target.is_taken() {
        let problem =
            |what: &str| Error::usage(format!("the output folder `{}` is {what}", out.display()));
        if !force {
            return Err(
                problem("not empty").remedy("choose another one, or replace it with `--force`")
            );
        }
        if !target.holds(CONFIG) {
            return Err(
                problem("no model folder (it has no config.json) and is not replaced")
                    .remedy("choose another one, or remove it yourself"),
            );
        }
    }
    Ok(target)
}
