//! The companions in a model's folder: which files there are, and copies of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::companions::{ADAPTER_CONFIG, COMPANIONS, FileKind, Role, kind_of};
use super::weights::weight_files;
use crate::error::{Context, Result};
use crate::files::digest;
use crate::units::Bytes;

/// A file of more bytes is no companion: weights in a format that is not known, or data.
const LARGEST: u64 = 256 << 20;
/// Folders within folders that are looked into.
const DEEPEST: usize = 8;

/// What is beside the weights in a model's folder.
#[derive(Debug, Default)]
pub struct Companions {
    dir: PathBuf,
    /// Paths in the folder, with `/`, sorted.
    files: Vec<(String, Role)>,
    /// What does not belong to the model, or is not taken over, and why.
    left: Vec<(String, &'static str)>,
}

impl Companions {
    /// Lists the files of the folder `dir`; none where there is no such folder.
    ///
    /// Links are followed within the folder and, as in the caches of Hugging Face, to the blobs
    /// beside it; the files of a tokenizer, which are read in any case, wherever they are.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut found = Self {
            dir: dir.to_path_buf(),
            ..Self::default()
        };
        if !dir.is_dir() {
            return Ok(found);
        }
        let weights = weight_files(dir)?;
        let real = dir.canonicalize().at(dir)?;
        found.list("", 0, &real)?;
        found.files.sort_by(|a, b| a.0.cmp(&b.0));
        found.left.retain(|(name, _)| !weights.contains(name));
        found.left.sort();
        Ok(found)
    }

    fn list(&mut self, folder: &str, depth: usize, real: &Path) -> Result<()> {
        let at = self.dir.join(folder);
        for entry in fs::read_dir(&at).at(&at)? {
            let entry = entry.at(&at)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = match folder {
                "" => name,
                _ => format!("{folder}/{name}"),
            };
            let kind = entry.file_type().at(&at)?;
            if kind.is_dir() {
                self.folder(path, depth, real)?;
            } else {
                self.file(path, kind.is_symlink(), real);
            }
        }
        Ok(())
    }

    /// Looks into a folder, or says why not.
    fn folder(&mut self, path: String, depth: usize, real: &Path) -> Result<()> {
        match kind_of(&format!("{path}/x")) {
            FileKind::Hidden => return Ok(()),
            FileKind::Apart => {
                self.leave(path + "/", "other formats and states of the weights");
                return Ok(());
            }
            _ => {}
        }
        if depth == DEEPEST {
            self.leave(path + "/", "too deep");
        } else if self.dir.join(&path).join(ADAPTER_CONFIG).exists() {
            self.leave(path + "/", "an adapter");
        } else {
            self.list(&path, depth + 1, real)?;
        }
        Ok(())
    }

    fn file(&mut self, path: String, is_link: bool, real: &Path) {
        let role = match kind_of(&path) {
            FileKind::Hidden | FileKind::Own | FileKind::Apart => return,
            FileKind::Weights if path.ends_with(".index.json") => return,
            FileKind::Weights => {
                return self.leave(path, "weights that the model does not consist of");
            }
            FileKind::Companion(role) => role,
        };
        let place = self.dir.join(&path);
        let Ok(meta) = place.metadata() else {
            return self.leave(path, "a link to nothing");
        };
        if is_link && !role.is_tokenizer() && !is_within(&place, real) {
            self.leave(path, "a link out of the folder");
        } else if !meta.is_file() {
            self.leave(path, "no file");
        } else if meta.len() > LARGEST {
            self.leave(path, "too large");
        } else {
            self.files.push((path, role));
        }
    }

    fn leave(&mut self, path: String, why: &'static str) {
        self.left.push((path, why));
    }

    /// Copies those whose role is `wanted` to the folder `to`.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn copy(&self, to: &Path, wanted: impl Fn(Role) -> bool) -> Result<()> {
        for (name, _) in self.files.iter().filter(|(_, role)| wanted(*role)) {
            let (from, to) = (self.dir.join(name), to.join(name));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).at(folder)?;
            }
            // Not `fs::copy`: a read-only original would make a read-only copy.
            let mut source = File::open(&from).at(&from)?;
            let mut copy = File::create(&to).at(&to)?;
            std::io::copy(&mut source, &mut copy).at(&to)?;
        }
        Ok(())
    }

    /// What is not taken over, for people: the files of the folder that are left out in any case,
    /// and those of a role for which `why` has a reason.
    pub fn left_out(&self, why: impl Fn(Role) -> Option<&'static str>) -> Option<String> {
        let mut left = self.left.clone();
        let others = self.files.iter();
        left.extend(others.filter_map(|(name, role)| Some((name.clone(), why(*role)?))));
        let mut reasons: Vec<&str> = left.iter().map(|(_, why)| *why).collect();
        reasons.sort_unstable();
        reasons.dedup();
        let parts = reasons.into_iter().map(|reason| {
            let names = left.iter().filter(|(_, why)| *why == reason);
            let names: Vec<String> = names.map(|(name, _)| format!("`{name}`")).collect();
            let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
            match names.len() {
                0..=4 => format!("{shown} ({reason})"),
                count => format!("{shown} and {} more ({reason})", count - 4),
            }
        });
        let parts: Vec<String> = parts.collect();
        let limit = match left.iter().any(|(_, why)| *why == "too large") {
            true => format!("; companions have at most {}", Bytes(LARGEST)),
            false => String::new(),
        };
        (!parts.is_empty()).then(|| {
            let dir = self.dir.display();
            format!("left out of {dir}: {}{limit}", parts.join("; "))
        })
    }

    /// Digest of all of them.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut all = String::new();
        for (name, _) in &self.files {
            all += &format!("{name} {}\n", digest::file(&self.dir.join(name))?);
        }
        Ok(digest::text(&all))
    }
}

/// Whether a link leads to a file within its model's folder, whose real place is `real`, or to a
/// blob of a Hugging Face cache.
fn is_within(link: &Path, real: &Path) -> bool {
    let Ok(target) = link.canonicalize() else {
        return false;
    };
    // `models--OWNER--NAME/snapshots/REVISION/config.json` leads to `../../blobs/DIGEST`.
    let blobs = target.parent().filter(|dir| dir.ends_with("blobs"));
    let owner = blobs.and_then(Path::parent).and_then(Path::file_name);
    let in_cache = owner.is_some_and(|name| name.to_string_lossy().starts_with("models--"));
    target.starts_with(real) || in_cache
}

/// Whether a file that is hidden or not known would be downloaded with a model.
pub(super) fn is_downloaded(path: &str) -> bool {
    matches!(kind_of(path), FileKind::Companion(_))
}

/// Whether a file is one of those that determine tokens.
pub(super) fn is_of_tokenizer(path: &str) -> bool {
    COMPANIONS.iter().any(|companion| companion.name == path)
}
