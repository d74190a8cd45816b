//! Which machine this is, and names that no other process makes.

use std::fs;
use std::sync::LazyLock;

use crate::error::{Context, Result};

/// The machine's name, for messages.
pub(super) fn name() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let known = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let known = known.or_else(|| std::env::var("HOSTNAME").ok());
        let name = known.unwrap_or_default();
        match name.trim() {
            "" => "this machine".to_owned(),
            name => name.to_owned(),
        }
    });
    &NAME
}

/// This start of this machine, 8 hexadecimal digits: the same for all processes whose locks each
/// other's kernel sees, whatever containers they are in.
pub(super) fn boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let id = id.unwrap_or_else(|_| name().to_owned());
        blake3::hash(id.as_bytes()).to_hex()[..8].to_owned()
    });
    &BOOT
}

/// The task of a batch system that this process is, for messages.
pub(super) fn job() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok();
    let array = || {
        let (job, task) = (
            variable("SLURM_ARRAY_JOB_ID")?,
            variable("SLURM_ARRAY_TASK_ID")?,
        );
        Some(format!("{job}_{task}"))
    };
    array().or_else(|| variable("SLURM_JOB_ID"))
}

/// 8 random hexadecimal digits.
pub(super) fn nonce() -> Result<String> {
    let number = getrandom::u32().during(|| "asking the system for a random number".into())?;
    Ok(format!("{number:08x}"))
}
