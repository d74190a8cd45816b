//! Compiles our GPU kernels to PTX for the feature `cuda`; does nothing without it.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "src/model/cuda/kernels";
const HEADER: &str = "common.cuh";
const SOURCES: [&str; 4] = ["ops", "attention", "vocabulary", "optim"];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed={FOLDER}/{HEADER}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let nvcc = match (std::env::var_os("NVCC"), std::env::var_os("CUDA_HOME")) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) => PathBuf::from(home).join("bin/nvcc"),
        (None, None) => PathBuf::from("nvcc"),
    };
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    for source in SOURCES {
        let file = format!("{FOLDER}/{source}.cu");
        println!("cargo::rerun-if-changed={file}");
        let status = Command::new(&nvcc)
            .args(["-ptx", "-O3", "-std=c++17"])
            .arg(format!("-arch=compute_{capability}"))
            .arg("-o")
            .arg(out.join(format!("{source}.ptx")))
            .arg(&file)
            .status()
            .map_err(|error| {
                format!(
                    "cannot run `{}`: {error}; set NVCC or CUDA_HOME",
                    nvcc.display()
                )
            })?;
        if !status.success() {
            return Err(format!("nvcc could not compile {file}"));
        }
    }
    Ok(())
}
