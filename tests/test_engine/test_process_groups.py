"""How programs with a process group end."""

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from hmsa_mmseg.engine.process_groups import close_gloo

# At the end of rank 0 a collective is under way, and the interpreter takes a
# second to shut down: gloo drops the tensor within it.
SCRIPT = """
import sys, time
import torch
import torch.distributed as dist
import hmsa_mmseg.engine

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group(
    'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
)
slow = Slow()
dist.barrier()
if rank == 1:
    time.sleep(0.5)
works = [dist.all_reduce(x, async_op=True) for x in torch.zeros(50, 1000)]
if rank == 1:
    for work in works:
        work.wait()
    del work
del works
"""


@pytest.mark.parametrize('turn', range(2))
def test_collective_that_ends_late_does_not_abort(tmp_path, turn):
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', SCRIPT, str(tmp_path), str(rank)],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


@pytest.mark.parametrize('failed', [False, True])
def test_leaves_failed_programs_alone(tmp_path, monkeypatch, failed):
    """There, waiting for a collective could take until its timeout."""
    if failed:
        monkeypatch.setattr(sys, 'last_type', ValueError, raising=False)
    else:
        monkeypatch.delattr(sys, 'last_type', raising=False)
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1
    )
    close_gloo()
    assert dist.is_initialized() == failed
    if failed:
        dist.destroy_process_group()


def test_without_a_group():
    assert close_gloo() is None
