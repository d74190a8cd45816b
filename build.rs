//! Lists the files of `sql/` for the program, and compiles our GPU kernels to PTX for the feature
//! `cuda`.
#![allow(clippy::print_stdout)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of `sql/`, and what `query::Group` calls them.
const SQL: [(&str, &str); 6] = [
    ("functions", "Functions"),
    ("tables", "Tables"),
    ("views", "Views"),
    ("queries", "Queries"),
    ("transforms", "Transforms"),
    ("checks", "Checks"),
];

const FOLDER: &str = "src/model/cuda/kernels";
const HEADER: &str = "common.cuh";
const SOURCES: [&str; 4] = ["ops", "attention", "vocabulary", "optim"];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    list_sql(&out).map_err(|error| format!("listing sql/: {error}"))?;
    match std::env::var_os("CARGO_FEATURE_CUDA") {
        Some(_) => compile_kernels(&out),
        None => Ok(()),
    }
}

/// Writes `sql.rs`: group, file name without `.sql`, text of each file, by name.
fn list_sql(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let root = fs::canonicalize("sql")?;
    let mut list = String::from("&[\n");
    for (folder, group) in SQL {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        let files = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<PathBuf> = files.iter().map(fs::DirEntry::path).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "sql"));
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            writeln!(list, "(Group::{group}, {name:?}, include_str!({file:?})),")?;
        }
    }
    fs::write(out.join("sql.rs"), list + "]")?;
    Ok(())
}

fn compile_kernels(out: &Path) -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed={FOLDER}/{HEADER}");
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
