#!/usr/bin/env bash
# Builds fuselm for NVIDIA GPUs: target/cuda/release/fuselm, one program for machines with and
# without a GPU. Needs a CUDA toolkit (12.0 or newer, no newer than the driver of the machine that
# will run it): nvcc in CUDA_HOME/bin or in PATH. No GPU is needed to build.
#
# usage: scripts/build_cuda.sh [cargo build's arguments]
#   CUDA_HOME         the toolkit; without it, the one whose nvcc is in PATH
#   FUSELM_CARGO      another command than `build`: `check`
#   CUDA_COMPUTE_CAP  oldest GPU to run on; default 80 (Ampere), newer ones run its code too
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."

if [ -z "${CUDA_HOME:-}" ]; then
    nvcc=$(command -v nvcc) || {
        echo "no CUDA toolkit: set CUDA_HOME, or put nvcc in PATH" >&2
        exit 1
    }
    CUDA_HOME=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
fi
export CUDA_HOME CUDA_PATH=$CUDA_HOME CUDA_ROOT=$CUDA_HOME CUDA_TOOLKIT_ROOT_DIR=$CUDA_HOME
export NVCC=$CUDA_HOME/bin/nvcc PATH=$CUDA_HOME/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda}
mkdir -p "$CARGO_TARGET_DIR"
target=$(cd "$CARGO_TARGET_DIR" && pwd)

# The program must start where there is no CUDA library at all. What is asked for by name is opened
# at run time (see rustc_cuda.sh); the runtime library, which the compiled kernels of candle refer
# to, becomes part of the program: the linker takes this file for the shared library.
for lib in "$CUDA_HOME"/lib64 "$CUDA_HOME"/lib "$CUDA_HOME"/targets/*/lib; do
    if [ -e "$lib/libcudart_static.a" ]; then
        mkdir -p "$target/link"
        echo "INPUT($lib/libcudart_static.a -ldl -lrt -lpthread)" >"$target/link/libcudart.so"
        export FUSELM_CUDA_LINK=$target/link:$lib:$lib/stubs
        break
    fi
done
[ -n "${FUSELM_CUDA_LINK:-}" ] || { echo "$CUDA_HOME lacks libcudart_static.a" >&2; exit 1; }

export RUSTC_WRAPPER=$here/rustc_cuda.sh
exec cargo "${FUSELM_CARGO:-build}" --release --features cuda "$@"
