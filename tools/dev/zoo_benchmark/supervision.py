"""Runs the jobs of a model in a process of its own, within limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .jobs import Findings, write_text

_TOOLS = Path(__file__).resolve().parents[1]
_WORKER = (sys.executable, '-m', 'zoo_benchmark.worker')
_POLL_SECONDS = 0.2


class Limits(NamedTuple):
    """What a process may use.

    Attributes:
        timeout (float): Seconds of one job, the start of the process
            included.
        memory_gb (float, optional): 1e9 bytes of private memory.
        threads (int, optional): Of torch.
        device (str): ``cpu`` hides GPUs.
        deadline (float, optional): Of ``time.monotonic``, when to stop. What
            is not done then leaves no finding.
    """

    timeout: float
    memory_gb: float | None
    threads: int | None
    device: str
    deadline: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop."""
        return self.deadline is not None and time.monotonic() > self.deadline


def run_jobs(
    jobs: Sequence[dict[str, Any]],
    counts: dict[str, Any] | None,
    findings: Findings,
    limits: Limits,
    begun: Callable[[dict[str, Any]], None],
) -> None:
    """Do the jobs of one model; each leaves a finding, unless time is up.

    A process that dies or takes too long costs the job it was at; the others
    get a new process.

    Args:
        jobs (Sequence[dict]): From ``jobs.plan``.
        counts (dict, optional): The model's job of counting operations.
        findings (Findings): Where to keep what is found.
        limits (Limits): Of each process.
        begun (Callable): Called with each job as it begins.
    """
    left = list(jobs)
    for job in left:
        findings.forget(job)
    while left and not limits.is_over:
        begun(left[0])
        reason = _run(left, counts, findings, limits, begun)
        left = [job for job in left if findings.read(job) is None]
        if left and not limits.is_over:
            findings.write(left.pop(0), error=reason)


def _run(
    jobs: Sequence[dict[str, Any]],
    counts: dict[str, Any] | None,
    findings: Findings,
    limits: Limits,
    begun: Callable[[dict[str, Any]], None],
) -> str:
    """Run one process until it ends or is ended; return why it stopped."""
    name = jobs[0]['model']
    order = findings.folder / f'{name}.order'
    log_path = findings.folder / f'{name}.log'
    write_text(
        order,
        json.dumps(
            dict(
                jobs=list(jobs),
                counts=counts,
                folder=str(findings.folder.absolute()),
                threads=limits.threads,
                memory_gb=limits.memory_gb,
                parent=os.getpid(),
            )
        ),
    )
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(_search_path()))
    if limits.device == 'cpu':
        env['CUDA_VISIBLE_DEVICES'] = ''
    if limits.threads:
        env['OMP_NUM_THREADS'] = str(limits.threads)
    with log_path.open('ab') as log:
        process = subprocess.Popen(
            [*_WORKER, str(order)],
            env=env,
            stdout=log,
            stderr=log,
            # Not in reach of Ctrl-C: it is ended from here.
            start_new_session=True,
        )
        try:
            return _watch(process, jobs, findings, limits, begun)
        finally:
            _end(process)
            order.unlink(missing_ok=True)


def _search_path() -> list[str]:
    rest = os.environ.get('PYTHONPATH')
    return [str(_TOOLS), *([rest] if rest else [])]


def _watch(
    process: subprocess.Popen,
    jobs: Sequence[dict[str, Any]],
    findings: Findings,
    limits: Limits,
    begun: Callable[[dict[str, Any]], None],
) -> str:
    done, since = 0, time.monotonic()
    while process.poll() is None:
        before = done
        while done < len(jobs) and findings.path(jobs[done]).is_file():
            done += 1
        if done > before:
            since = time.monotonic()
            if done < len(jobs):
                begun(jobs[done])
        if limits.is_over:
            return 'time is up'
        if time.monotonic() - since > limits.timeout:
            return f'stopped after {limits.timeout:g} s (--timeout)'
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    code = process.returncode
    if code < 0:
        text = f'killed by {signal.Signals(-code).name}'
        if -code == signal.SIGKILL:
            text += ', as the system does when memory runs out'
        return text
    return f'the process ended with code {code}; see its log'


def _end(process: subprocess.Popen) -> None:
    """End a process and those it has started, such as loaders of data."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
