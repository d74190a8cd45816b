#!/usr/bin/env bash
# Runs a program that was built for CUDA on a machine without a GPU: its kernels, and candle's,
# compiled for the host, take the place of the GPU. This checks what is computed, not that a GPU
# takes it, and is slow. Needs g++ 12 on x86-64, and the sources of candle-kernels that cargo fetched.
#
# usage: tests/gpu_emulation/run.sh PROGRAM ARGUMENTS, e.g.
#   tests/gpu_emulation/run.sh target/cuda/release/examples/gpu_check tests
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${FUSELM_EMULATION:-$here/../../target/gpu_emulation}
mkdir -p "$build"
build=$(cd "$build" && pwd)
candle=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/candle-kernels-0.11.1/src | head -1)

flags="-std=c++20 -O1 -ffp-contract=off -fPIC -fpermissive -w -D__CUDA_ARCH__=800"
flags="$flags -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0 -I$here/shim -I$here"

# Compiles a file of kernels twice: their names are known after the first time.
kernels() {
    local name=$2 source=$1 object=$build/$2.o
    if [ ! "$object" -nt "$source" ] || [ -n "$(find "$here" "$(dirname "$source")" -newer "$object" -type f)" ]; then
        g++ $flags -x c++ -c "$source" -o "$object"
        {
            echo "#include \"$source\""
            echo '#include "launch.h"'
            nm --defined-only "$object" | awk '$2 == "T" && $3 !~ /^_Z/ { print "KERNEL(" $3 ")" }'
        } >"$build/$name.cpp"
        g++ $flags -c "$build/$name.cpp" -o "$object"
    fi
}
for name in ops attention vocabulary optim; do
    kernels "$here/../../src/model/cuda/kernels/$name.cu" "ours_$name"
done
for name in affine binary cast fill indexing reduce ternary unary; do
    kernels "$candle/$name.cu" "candle_$name"
done
# Helpers of candle are the same in all its files.
g++ $flags -shared "$here/emulator.cpp" "$here/libraries.cpp" "$build"/ours_*.o "$build"/candle_*.o \
    -Wl,-Bsymbolic -Wl,--allow-multiple-definition -o "$build/libcuda.so.1"
for library in libcublas.so.13 libcurand.so.10; do ln -sf libcuda.so.1 "$build/$library"; done

LD_LIBRARY_PATH=$build exec "$@"
