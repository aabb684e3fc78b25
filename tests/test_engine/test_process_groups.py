"""How programs with a process group end."""

import atexit
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner

from hmsa_mmseg.engine import SafeResumeRunner, process_groups
from hmsa_mmseg.engine.process_groups import (
    close_gloo,
    lost_processes_named,
)

TURNS = 2
# At the end of rank 0 a collective is under way, and the interpreter takes
# two seconds to shut down: gloo drops the tensor within them. The ranks are
# forked from one process, which has imported torch for all of them.
SCRIPT = """
import os, sys, time
import torch
import torch.distributed as dist
from types import SimpleNamespace
from hmsa_mmseg.engine.process_groups import close_gloo_at_exit

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)

def fork_ranks(turns):
    for turn in range(turns):
        children = []
        for rank in (0, 1):
            child = os.fork()
            if child == 0:
                return turn, rank
            children.append(child)
        states = [os.waitpid(child, 0)[1] for child in children]
        codes = [os.waitstatus_to_exitcode(state) for state in states]
        print('turn', turn, codes)
    sys.exit()

folder, turns = sys.argv[1], int(sys.argv[2])
turn, rank = fork_ranks(turns)
dist.init_process_group(
    'gloo',
    init_method=f'file://{folder}/meeting{turn}',
    rank=rank,
    world_size=2,
)
close_gloo_at_exit(SimpleNamespace(distributed=True))
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


@pytest.mark.fault(
    'a process ends before a collective of another has ended',
    'both end with status 0',
)
def test_collective_that_ends_late_does_not_abort(tmp_path):
    done = subprocess.run(
        [sys.executable, '-u', '-c', SCRIPT, str(tmp_path), str(TURNS)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=240,
    )
    # The forks print lines of their own.
    said = [s for s in done.stdout.splitlines() if s.startswith('turn')]
    assert said == [f'turn {turn} [0, 0]' for turn in range(TURNS)], (
        done.stderr
    )


@pytest.fixture
def own_group(tmp_path):
    """A process group that this program has made itself."""
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1
    )
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(launcher='none', runner_type=SafeResumeRunner),
        dict(runner_type=SafeResumeRunner),
        dict(runner_type=Runner),  # with SafeCheckpointHook
        dict(hook='CheckpointHook', loop='ResumableIterBasedTrainLoop'),
    ],
)
def test_only_runs_of_several_processes_close_it(
    make_runner, own_group, monkeypatch, kwargs
):
    registered = []
    monkeypatch.setattr(atexit, 'register', registered.append)
    monkeypatch.setenv('LOCAL_RANK', '-1')  # as TWO_RANKS of test_tools
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    kwargs = {'launcher': 'pytorch', **kwargs}
    cfg = Config(dict(model_wrapper_cfg=wrapper))
    make_runner(cfg=cfg, **kwargs).train()
    closing = process_groups.close_gloo in registered
    assert closing == (kwargs['launcher'] == 'pytorch')


@pytest.mark.parametrize('failed', [False, True])
def test_leaves_failed_programs_alone(own_group, monkeypatch, failed):
    """There, waiting for a collective could take until its timeout."""
    if failed:
        monkeypatch.setattr(sys, 'last_type', ValueError, raising=False)
    else:
        monkeypatch.delattr(sys, 'last_type', raising=False)
    close_gloo()
    assert dist.is_initialized() == failed
    if not failed:
        assert close_gloo() is None  # there is none any more


@pytest.mark.parametrize(
    ('said', 'machines', 'found'),
    [
        ('gloo: closed by peer', 2, 'one of rank 1 on other machines has end'),
        ('gloo: closed by peer', 1, '^gloo: closed by peer$'),
        ('out of memory', 2, '^out of memory$'),
    ],
)
def test_processes_that_cannot_be_seen(monkeypatch, said, machines, found):
    """Those that can be are killed in test_several_processes.py."""
    here = process_groups._place()
    places = [here, (('another', ''), here[1])][:machines]
    module = 'hmsa_mmseg.engine.process_groups'
    monkeypatch.setattr(f'{module}.from_all_processes', lambda place: places)
    monkeypatch.setattr(f'{module}._TRIES', 1)
    runner = SimpleNamespace(distributed=True)
    with (
        pytest.raises(RuntimeError, match=found),
        lost_processes_named(runner),
    ):
        raise RuntimeError(said)
