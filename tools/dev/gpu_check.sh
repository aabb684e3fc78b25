#!/usr/bin/env bash
# All that needs a GPU, in nine minutes and without a network: the tests that
# ask for CUDA, the authors' training recipes in half precision with their peak
# memory, and the benchmarks at true size in float32, bfloat16 and float16. What
# matters most comes first. Without CUDA it says so and runs the same at a small
# size.
#
#     tools/dev/gpu_check.sh [OUT]        default: docs/gpu
#
# PYTHON is the interpreter (default .venv/bin/python), AUTHORS a checkout of
# NVIDIA/semantic-segmentation whose network then takes part. Every step has a
# limit of time; one that fails does not stop those after it, and makes the
# script fail in the end. A suite writes its page after each case. What each
# step printed is in OUT/<step>.log.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:-docs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$OUT"
failed=()

step() { # name, limit in seconds, command
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name (at most $limit s)"
    if ! timeout "$limit" "$@" >"$OUT/$name.log" 2>&1; then
        failed+=("$name")
        tail -n 15 "$OUT/$name.log"
    fi
    echo "   $((SECONDS - began)) s"
}
benchmark() { # name, limit in seconds, further arguments
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$PYTHON" tools/dev/benchmark.py "$name" --fresh \
        --size "$size" --rounds "$rounds" --out "$OUT" --seconds 15 \
        ${AUTHORS:+--authors "$AUTHORS"} "$@"
}

dtypes=float32
if gpu=$("$PYTHON" -c 'import torch
assert torch.cuda.is_available()
print(torch.cuda.get_device_name())' 2>/dev/null); then
    echo "GPU: $gpu"
    size=full rounds=5 dtypes='float32 bfloat16 float16'
    mapfile -t files < <(grep -rl --include='test_*.py' 'cuda.is_available' tests)
    # The others of these files have run on the CPU.
    step tests 60 "$PYTHON" -m pytest -q -p no:cacheprovider \
        -k 'cuda or gpu or amp_optim' "${files[@]}"
else
    echo 'no CUDA: everything runs on the CPU, at a small size; its figures'
    echo 'say nothing about a GPU'
    size=small rounds=1
fi
benchmark train 170
# shellcheck disable=SC2086
benchmark inference 120 --dtypes $dtypes
benchmark tta 50
benchmark rmi 20
benchmark loss 25
benchmark fusion 25
# shellcheck disable=SC2086
benchmark zoo 70 --dtypes $dtypes --models \
    ocrnet_hr48_4xb2-160k_cityscapes-512x1024 \
    hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (see the logs in $OUT)"
    exit 1
fi
echo "all done in $SECONDS s; results in $OUT"
