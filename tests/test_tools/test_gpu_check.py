"""The script for a machine with a GPU, with a Python that only answers."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dev' / 'gpu_check.sh'
SUITES = ['recipes', 'inference', 'train', 'rmi', 'loss', 'fusion', 'tta']
# Says whether there is CUDA, writes down its arguments, fails where told to.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
    [ -n "${FAKE_GPU:-}" ] && echo "$FAKE_GPU"
    exit
fi
echo "$*" >>"$FAKE_LOG"
echo "output of $*"
[[ "$*" != *"${FAKE_FAILURE:-nothing}"* ]]
"""


@pytest.fixture
def check(tmp_path):
    """Return a function that runs the script."""
    python = tmp_path / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)
    out = tmp_path / 'out'

    def run(**env):
        env = dict(
            os.environ,
            PYTHON=str(python),
            FAKE_LOG=str(tmp_path / 'calls'),
            **env,
        )
        done = subprocess.run(
            ['bash', str(SCRIPT), str(out)],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = (tmp_path / 'calls').read_text().splitlines()
        return done, calls, out

    return run


def test_without_cuda_it_says_so_and_runs_small(check):
    done, calls, out = check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'no CUDA' in done.stdout
    assert [call.split()[1] for call in calls] == SUITES
    for call in calls:
        assert f'--size small --rounds 1 --out {out}' in call
        assert '--authors' not in call
    log = (out / 'train.log').read_text()
    assert log.startswith('output of tools/dev/benchmark.py train')


def test_on_a_gpu_it_runs_at_true_size(check):
    done, calls, _ = check(FAKE_GPU='A card', AUTHORS='/authors')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'GPU: A card' in done.stdout
    tests, *calls = calls
    assert tests.startswith('-m pytest')
    assert 'test_mixed_precision.py' in tests
    assert [call.split()[1] for call in calls] == SUITES
    assert all('--size full' in call for call in calls)
    assert all('--authors /authors' in call for call in calls)
    half = '--dtypes float32 bfloat16 float16'
    assert [half in call for call in calls] == [
        name == 'inference' for name in SUITES
    ]


def test_a_failure_does_not_stop_the_rest(check):
    done, calls, _ = check(FAKE_FAILURE='benchmark.py train')
    assert done.returncode == 1
    assert 'failed: train' in done.stdout
    assert 'output of tools/dev/benchmark.py train' in done.stdout
    assert len(calls) == len(SUITES)


def test_limits_fit_in_eleven_minutes():
    limits = [
        int(words[2])
        for words in map(str.split, SCRIPT.read_text().splitlines())
        if words[:1] in (['benchmark'], ['step']) and words[2:3]
        if words[2].isdigit()
    ]
    assert len(limits) == len(SUITES) + 1
    assert sum(limits) <= 660
