"""Jobs that depend on each other, a few at a time; what is done stays done.

A job is a program with something that it makes. What has ended well is noted
in ``state.json`` of its folder and is not run again. Killed at any point, the
same command goes on: with what is not noted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hmsa_mmseg.utils import write_json

DEV = Path(__file__).resolve().parents[1]
#: Seconds between two looks at the programs.
PAUSE = 0.25


@dataclass(eq=False)
class Job:
    """One program to run, as a part of a run."""

    run: Run
    name: str
    #: Returns the program with its arguments, when all it needs is done.
    command: Callable[[], Sequence[object]]
    #: What is there when it is done.
    makes: Path
    #: Names of the jobs that come before.
    needs: Sequence[str] = ()
    #: Called when it has ended well; returns what is to be noted, of plain
    #: types. An exception makes the job a failure.
    finish: Callable[[], Any] = lambda: None
    #: Otherwise it is run only if another job needs it.
    wanted: bool = True

    def __str__(self) -> str:
        """Name it with its folder."""
        return f'{self.run.root.name}: {self.name}'

    @property
    def log(self) -> Path:
        """File that its output is appended to."""
        return self.run.root / 'logs' / f'{re.sub("[ /]", "_", self.name)}.log'


class Run:
    """The jobs of a folder, and what is known of them.

    ``settings`` are what results depend on, of plain types. SystemExit if the
    folder holds something else.
    """

    def __init__(
        self, root: Path, settings: dict, cwd: Path | None = None
    ) -> None:
        self.root = root
        self.cwd = cwd or root
        self.jobs: dict[str, Job] = {}
        self._path = root / 'state.json'
        if self._path.exists():
            self.state = json.loads(self._path.read_text())
            # As JSON has it: tuples are lists, keys are strings.
            now = json.loads(json.dumps(settings))
            if self.state['settings'] == now:
                return
            raise SystemExit(
                f'{root} holds a run with other settings: '
                f'{self.state["settings"]}, now {now}. Choose another '
                '--work-dir, or remove it.'
            )
        # Hidden is what a killed run has begun to write.
        if any(root.glob('[!.]*')):
            raise SystemExit(
                f'{root} is not empty and has no state.json of a run; choose '
                'another --work-dir'
            )
        self.state = dict(settings=settings, jobs={})
        write_json(self._path, self.state)

    def add(self, name: str, *options, **more) -> None:
        """Add a job; arguments as of :class:`Job`."""
        self.jobs[name] = Job(self, name, *options, **more)

    def _noted(self, name: str) -> dict:
        new = dict(done=False, seconds=0.0, cpu_seconds=0.0, result=None)
        return self.state['jobs'].setdefault(name, new)

    def is_done(self, name: str) -> bool:
        """Whether a job has ended well and what it made is there."""
        return self._noted(name)['done'] and self.jobs[name].makes.exists()

    def result(self, name: str) -> Any:
        """Return what was noted of a job."""
        return self._noted(name)['result']

    def total(self, times: str) -> float:
        """Add up the ``seconds`` or ``cpu_seconds`` of its jobs."""
        return sum(self._noted(name)[times] for name in self.jobs)

    def note(self, name: str, spent: float, cpu: float, **found: Any) -> None:
        """Note the time a job has taken, and ``found``, in the folder."""
        noted = self._noted(name)
        noted['seconds'] = round(noted['seconds'] + spent, 1)
        noted['cpu_seconds'] = round(noted['cpu_seconds'] + cpu, 1)
        noted.update(found)
        write_json(self._path, self.state)

    def pending(self) -> list[Job]:
        """List what is wanted and not done, with all that it needs."""
        found = set()

        def visit(name: str) -> None:
            if name not in found and not self.is_done(name):
                found.add(name)
                for other in self.jobs[name].needs:
                    visit(other)

        for name, job in self.jobs.items():
            if job.wanted:
                visit(name)
        return [job for name, job in self.jobs.items() if name in found]


class _Program(NamedTuple):
    """A job at work; its output begins at ``begin`` in the log."""

    job: Job
    process: subprocess.Popen
    since: float
    begin: int

    def output(self) -> str:
        """Read the end of what it has written."""
        with open(self.job.log, 'rb') as log:
            log.seek(max(self.begin, log.seek(0, os.SEEK_END) - 3000))
            return log.read().decode(errors='replace')


class Driver:
    """Runs all that is pending.

    Jobs that come first are preferred, ``slots`` run at a time. Programs that
    outlive this one keep the folder locked, by :func:`lock_folder`.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        lock,
        slots: int = 1,
        threads: int = 1,
        use_gpu: bool = False,
    ) -> None:
        self.waiting = [job for run in runs for job in run.pending()]
        self.lock = lock
        self.slots = slots
        self.env = tool_environment(threads, use_gpu)
        self.running: list[_Program] = []

    def run(self) -> None:
        """Run it; SystemExit, with the end of what it wrote, if one fails."""
        try:
            while self.waiting or self.running:
                self._start()
                time.sleep(PAUSE)
                for program in list(self.running):
                    if self._reap(program, program.process.poll):
                        spent = time.monotonic() - program.since
                        left = len(self.waiting) + len(self.running)
                        print(f'{program.job}: {spent:.0f} s, {left} to go')
        finally:
            for program in self.running:
                program.process.terminate()
            for program in list(self.running):
                self._reap(program, program.process.wait)

    def _start(self) -> None:
        for job in list(self.waiting):
            if len(self.running) == self.slots:
                return
            open_jobs = self.waiting + [p.job for p in self.running]
            names = {j.name for j in open_jobs if j.run is job.run}
            if names.intersection(job.needs):
                continue
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.log, 'ab') as log:
                begin = log.tell()
                process = subprocess.Popen(
                    [str(part) for part in job.command()],
                    cwd=job.run.cwd,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[self.lock.fileno()],
                )
            self.waiting.remove(job)
            self.running.append(
                _Program(job, process, time.monotonic(), begin)
            )
            print(f'{job} ...', flush=True)

    def _reap(self, program: _Program, wait: Callable[[], Any]) -> bool:
        """Note a program that has ended; return whether it has.

        ``wait`` is its process's ``poll``, or ``wait`` where it was told to
        stop.
        """
        before = _children_cpu()
        if wait() is None:
            return False
        # Programs are waited for one at a time: what is added is of this one
        # and of those that it has started.
        cpu = _children_cpu() - before
        self.running.remove(program)
        job, code = program.job, program.process.returncode
        found = {}
        try:
            if wait == program.process.poll:
                if code != 0 or not job.makes.exists():
                    raise SystemExit(
                        f'{program.output()}\n{job} failed ({code}); expected '
                        f'it to make {job.makes}; all of its output: {job.log}'
                    )
                found = dict(result=job.finish(), done=True)
        finally:  # the time of an interrupted job counts, too
            spent = time.monotonic() - program.since
            job.run.note(job.name, spent, cpu, **found)
        return True


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tool_environment(threads: int, use_gpu: bool) -> dict[str, str]:
    """Return the environment of a program that computes."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    # See benchmark.py.
    env.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    # Our own programs are modules of this folder.
    paths = [str(DEV), env.get('PYTHONPATH')]
    env['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    if not use_gpu:
        # The same run on every machine, also on one that has a GPU.
        env['CUDA_VISIBLE_DEVICES'] = ''
    return env


def lock_folder(folder: Path):
    """Wait until no other run, and no program it left, uses a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / '.lock', 'w')  # noqa: SIM115  (open until the end)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'{folder} is in use; waiting for that to end', flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
