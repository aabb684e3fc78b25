#!/usr/bin/env bash
# All that needs a GPU, in nine minutes and without a network: the figures of
# docs/gpu/README.md, what is most wanted first, and the tests that ask for CUDA.
# Without CUDA it says so and runs some of it at a small size.
#
#     tools/dev/gpu_check.sh [OUT]        default: docs/gpu
#
# PYTHON is the interpreter (default .venv/bin/python), AUTHORS a checkout of
# NVIDIA/semantic-segmentation whose network then takes part. Each step is a
# process with a limit of time: one that fails or hangs costs neither those
# after it nor what it has written, and makes the script fail in the end. Called
# again with the same OUT and the same code it goes on with what is missing. What
# the steps printed is in OUT/log.txt.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:-docs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
END=535 # seconds after which nothing is begun
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# Graphs crash where the profiler has let go of CUPTI.
export TEARDOWN_CUPTI=0
mkdir -p "$OUT"
rm -f "$OUT/log.txt"
failed=()

step() { # limit in seconds, name, command
    local limit=$1 name=$2 began=$SECONDS
    shift 2
    ((limit <= END - SECONDS)) || limit=$((END - SECONDS))
    echo "== $name (at most $limit s)" | tee -a "$OUT/log.txt"
    if ((limit < 20)); then
        failed+=("$name (no time left)")
        return
    fi
    if ! timeout -k 5 "$limit" "$@" >"$OUT/step.txt" 2>&1; then
        failed+=("$name")
        tail -n 15 "$OUT/step.txt"
    fi
    cat "$OUT/step.txt" >>"$OUT/log.txt"
    echo "   $((SECONDS - began)) s"
}
benchmark() { # limit in seconds, suite, pattern of its cases
    # To import everything takes some 20 s, the last figure asked for some more.
    step "$1" "$2 ${3:-}" "$PYTHON" tools/dev/benchmark.py "$2" \
        --cases "${3:-.}" --seconds $(($1 - 35)) --size "$size" --out "$OUT" \
        --rounds "$rounds" --dtypes $dtypes ${AUTHORS:+--authors "$AUTHORS"}
}
if gpu=$("$PYTHON" -c 'import torch
assert torch.cuda.is_available()
print(torch.cuda.get_device_name())' 2>/dev/null); then
    echo "GPU: $gpu"
    size=full rounds=7 dtypes='bfloat16 float16 float32'
    mapfile -t files < <(grep -rl --include='test_*.py' 'cuda.is_available' tests)
    step 45 'a graph' "$PYTHON" -m pytest -v -n 0 -p no:cacheprovider \
        -k 'steps_are_those and hrnet and float32' "${files[@]}"
    benchmark 85 train '^cross-entropy, 2'
    benchmark 85 train '^cross-entropy, 1'
    benchmark 75 train '^Cityscapes'
    benchmark 55 inference bfloat16
    benchmark 55 inference ' float16'
    # A test that hangs ends its process; the others of these files have run on
    # the CPU.
    step 75 tests "$PYTHON" -m pytest -v -n 6 -p no:cacheprovider \
        -k 'cuda or gpu or amp_optim' "${files[@]}"
    benchmark 55 train '^float32, cross-entropy, 2'
    benchmark 55 train '^float32, cross-entropy, 1'
    benchmark 50 train Mapillary
    benchmark 50 inference float32
    benchmark 240 train compiled
else
    echo 'no CUDA: some of it runs on the CPU, at a small size; its figures'
    echo 'say nothing about a GPU'
    END=100000 size=small rounds=1 dtypes=float32
    benchmark 600 train cross-entropy
    benchmark 600 inference
fi
rm -f "$OUT/step.txt"
cat "$OUT/table.md"
if [ ${#failed[@]} -gt 0 ]; then
    (
        IFS=';'
        echo "failed: ${failed[*]} (see $OUT/log.txt)"
    )
    exit 1
fi
rm -f "$OUT/unfinished.json"
echo "all done in $SECONDS s; results in $OUT"
