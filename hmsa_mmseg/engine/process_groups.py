"""How the processes of a run end: one before the others, or all together."""

from __future__ import annotations

import atexit
import gc
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from mmengine.dist import get_backend
from mmengine.runner import Runner

from hmsa_mmseg.compat import torch_has
from hmsa_mmseg.utils.ranks import from_all_processes

#: Of what a collective says that has failed.
_BACKENDS = re.compile('gloo|NCCL')
_TRIES = 600  # in a minute


def close_gloo_at_exit(runner: Runner) -> None:
    """Have the process group of a run destroyed when the program ends.

    mmseg's tools leave it to the interpreter. A thread of gloo that drops
    its last tensor while the interpreter shuts down aborts the process
    ("terminate called without an active exception", pytorch/pytorch#190489),
    and the launcher calls a training that has done all of its work failed.

    NCCL is left alone, as is any group in a program without a run of several
    processes.
    """
    if runner.distributed and get_backend() == 'gloo':
        atexit.register(close_gloo)


def close_gloo() -> None:
    """Destroy the process group if it is gloo's and nothing has failed.

    After an exception a collective may wait for processes that will never
    come.
    """
    failed = hasattr(sys, 'last_type')
    if get_backend() == 'gloo' and not failed:
        # A wrapped model holds the group, in cycles of references.
        gc.collect()
        if not torch_has('shutdown_of_gloo'):
            # Python is locked while the group is destroyed, and would wait
            # for threads that need it to drop their tensors. Let them end.
            with suppress(RuntimeError):
                dist.barrier()
            time.sleep(0.1)
        dist.destroy_process_group()


@contextmanager
def lost_processes_named(runner: Runner) -> Iterator[None]:
    """Say which process was lost, where collectives only say that one was.

    gloo notices at once that another process has ended.

    Raises:
        RuntimeError: In place of that of the back end, if processes of this
            machine have ended, or there are other machines.
    """
    if not runner.distributed:
        yield
        return
    places = from_all_processes(_place)
    try:
        yield
    except RuntimeError as error:
        if not _BACKENDS.search(str(error)):
            raise
        machine, _ = _place()
        here = {r: pid for r, (m, pid) in enumerate(places) if m == machine}
        # Its connections are closed while it ends, which may take seconds.
        for _ in range(_TRIES):
            lost = [rank for rank, pid in here.items() if _has_ended(pid)]
            if lost:
                break
            time.sleep(0.1)
        who = ', '.join(f'rank {r} (process {here[r]})' for r in lost)
        elsewhere = [str(r) for r in range(len(places)) if r not in here]
        if not lost and elsewhere:
            who = f'one of rank {", ".join(elsewhere)} on other machines'
        if not who:
            raise
        raise RuntimeError(
            f'{who} has ended, and the rest cannot go on: {error}\nLook at '
            'what it has printed; if that is nothing, it was killed, mostly '
            'as memory ran out. Start all again, with --resume.'
        ) from error


def _place() -> tuple[tuple[str, str], int]:
    """Tell machine, or container, and number of this process."""
    space = ''
    with suppress(OSError):
        space = os.readlink('/proc/self/ns/pid')
    return (socket.gethostname(), space), os.getpid()


def _has_ended(process: int) -> bool:
    """Whether a process of this machine has ended; known on Linux only."""
    try:
        stat = Path('/proc', str(process), 'stat').read_text()
    except OSError:
        return Path('/proc/self/stat').exists()
    # Behind the name; a zombie, which nobody has waited for, is Z.
    return stat.rpartition(')')[2].split()[0] in 'ZX'
