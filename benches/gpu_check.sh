#!/usr/bin/env bash
# Checks fuselm on a machine with an NVIDIA GPU: CPU and GPU agree, and how fast the GPU is, beside
# PyTorch where python3 has it. Needs neither cargo nor network: copy this file, gpu_check.py and
# the program `gpu_check` (built by `scripts/build_cuda.sh --example gpu_check`) into one folder.
# Takes less than 8 minutes.
#
# usage: gpu_check.sh [PROGRAM]     default: gpu_check beside this file, or where it is built
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=${1:-}
for candidate in "$here/gpu_check" "$here/../target/cuda/release/examples/gpu_check"; do
    if [ -z "$program" ] && [ -f "$candidate" ] && [ -x "$candidate" ]; then program=$candidate; fi
done
if [ -z "$program" ]; then
    echo "no program: build it with scripts/build_cuda.sh --example gpu_check" >&2
    exit 2
fi

# PyTorch brings the libraries; find its folder without importing it.
found=$(python3 - 2>/dev/null <<'P'
import glob, os, sys
for base in sys.path:
    for pattern in ("nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/curand/lib"):
        for folder in glob.glob(os.path.join(base, pattern)):
            print(folder)
P
)
for folder in $found; do LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
echo "$(date -u +%F), ${gpu:-no GPU reported by nvidia-smi}, $(nproc) CPU cores"
echo
# The first line to say what is missing where there is no GPU.
"$program" tests cuda:0
agree=$?
[ "$agree" -le 1 ] || exit "$agree"
echo

figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    "$program" models | timeout 200 python3 "$here/gpu_check.py" >"$figures"
    echo "PyTorch $(python3 -c 'import torch; print(torch.__version__)')"
    echo
fi
timeout 200 "$program" speed cuda:0 "$figures" || exit 1
exit "$agree"
