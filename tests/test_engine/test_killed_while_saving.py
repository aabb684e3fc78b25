"""SIGKILL at arbitrary moments of a process that does nothing but save."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name('saving_process.py')
ROUNDS = 5


def test_there_is_always_a_whole_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(ROUNDS)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = [
        json.loads(line)
        for line in done.stdout.splitlines()
        if line.startswith('{')
    ]
    assert len(rounds) == ROUNDS
    last = 0
    for found in rounds:
        assert found['killed'] == 9
        assert found['rejected'] == 0
        names = [name for name, _, _ in found['files']]
        # The outdated file may not have been removed yet; those of earlier
        # rounds have.
        assert len(names) in (1, 2)
        assert found['pointer'] in names
        for name, iteration, steps in found['files']:
            assert name == f'iter_{iteration}.pth'
            assert steps == iteration
        newest = max(iteration for _, iteration, _ in found['files'])
        assert found['newest'] == f'iter_{newest}.pth'
        assert newest > last
        last = newest
