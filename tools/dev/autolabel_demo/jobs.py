"""Run programs that depend on each other, a few at a time.

One loop starts what can start, looks at the logs for progress, and notes what
has ended. What was noted is not run again.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from demo.running import PROGRESS, tool_environment

#: Seconds between two looks at the programs.
PAUSE = 0.25
#: As tools/autolabel.py writes its progress: images of all.
IMAGES = re.compile(r': (?P<now>\d+)/(?P<end>\d+) images')


class Job(NamedTuple):
    """One program to run.

    Attributes:
        key (str): Its name, different from that of every other job.
        command (Callable): Returns the command; called when all that it
            needs is done.
        needs (tuple[str]): Keys of the jobs that come before.
        cost (float): How long it takes, in any unit that all jobs share.
        log (Path): File that its output is appended to.
        finish (Callable): Called when it has ended well; an exception makes
            it a failure.
    """

    key: str
    command: Callable[[], Sequence[object]]
    needs: tuple
    cost: float
    log: Path
    finish: Callable[[], None] = lambda: None


class Running(NamedTuple):
    """A program at work."""

    job: Job
    process: subprocess.Popen
    since: float
    begin: int  # where its output begins in the log


class JobPool:
    """Runs jobs side by side.

    Args:
        jobs (Sequence[Job]): In the order in which they are preferred.
        slots (int): How many run at a time.
        threads (int): That each of them may use.
        lock (file): From :func:`demo.running.lock_folder`; programs that
            outlive this one keep the folder locked.
        note (Callable): Called with the key, the seconds and the CPU seconds
            of each job that has ended, in whatever way, and whether it is
            done.
        is_done (Callable): Whether the job of a key is done already.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: int,
        threads: int,
        lock,
        note: Callable[[str, float, float, bool], None],
        is_done: Callable[[str], bool],
    ) -> None:
        self.jobs = jobs
        self.slots = slots
        self.threads = threads
        self.lock = lock
        self.note = note
        self.done = {job.key for job in jobs if is_done(job.key)}
        self.running: list[Running] = []
        self.line = StatusLine(jobs, self.done)

    def run(self) -> None:
        """Run all that is not done.

        Raises:
            SystemExit: If a program fails; with the end of what it wrote.
        """
        try:
            while len(self.done) < len(self.jobs):
                self._start()
                self._look()
                self.line.show(self.running, self.done)
                time.sleep(PAUSE)
        finally:
            self._stop()
            self.line.clear()

    def _start(self) -> None:
        busy = {running.job.key for running in self.running}
        for job in self.jobs:
            if len(self.running) == self.slots:
                return
            is_free = job.key not in self.done | busy
            if is_free and self.done.issuperset(job.needs):
                command = [str(part) for part in job.command()]
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with open(job.log, 'ab') as log:
                    begin = log.tell()
                    process = subprocess.Popen(
                        command,
                        env=tool_environment(self.threads),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        pass_fds=[self.lock.fileno()],
                    )
                self.running.append(
                    Running(job, process, time.monotonic(), begin)
                )
                self.line.say(f'{job.key} ...')

    def _look(self) -> None:
        for running in list(self.running):
            before = _children_cpu()
            if running.process.poll() is None:
                continue
            # Programs are waited for one at a time: what is added is of this
            # one and of those that it has started.
            self._end(running, _children_cpu() - before)

    def _end(self, running: Running, cpu: float) -> None:
        self.running.remove(running)
        job, code = running.job, running.process.returncode
        is_well = False
        try:
            if code != 0:
                text = _output(running)
                raise SystemExit(
                    f'{text[-3000:]}\n{job.key} failed ({code}); all of its '
                    f'output: {job.log}'
                )
            job.finish()
            is_well = True
        finally:  # the time of an interrupted job counts, too
            spent = time.monotonic() - running.since
            self.note(job.key, spent, cpu, is_well)
        self.done.add(job.key)
        self.line.say(f'{job.key}: {spent:.0f} s')

    def _stop(self) -> None:
        for running in self.running:
            running.process.terminate()
        for running in list(self.running):
            before = _children_cpu()
            running.process.wait()
            spent = time.monotonic() - running.since
            cpu = _children_cpu() - before
            self.note(running.job.key, spent, cpu, False)
        self.running.clear()


class StatusLine:
    """Says how far everything is, on a terminal in one line.

    Args:
        jobs (Sequence[Job]): All of them.
        done (set[str]): Keys of those that are done from the start.
    """

    def __init__(self, jobs: Sequence[Job], done: set[str]) -> None:
        self.costs = {job.key: job.cost for job in jobs}
        self.total = sum(self.costs.values())
        self.first = self._cost_of(done)
        self.start = time.monotonic()
        self.shown = 0.0
        self.is_terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(f'[{self._clock()}] {text}', flush=True)

    def show(self, running: Sequence[Running], done: set[str]) -> None:
        """Print how far things are, now and then."""
        now = time.monotonic()
        if not running or now - self.shown < (1 if self.is_terminal else 30):
            return
        self.shown = now
        parts, cost = [], self._cost_of(done)
        for each in running:
            share, text = _progress(each)
            cost += share * each.job.cost
            parts.append(f'{each.job.key} {text}'.rstrip())
        text = f'{100 * cost / self.total:.0f} %'
        gained = cost - self.first
        if gained > 0.02 * self.total:
            left = (now - self.start) * (self.total - cost) / gained
            text += f', {_minutes(left)} left'
        text = f'[{self._clock()}] {text}: {"; ".join(parts)}'
        end = '' if self.is_terminal else '\n'
        start = '\r\033[K' if self.is_terminal else ''
        if self.is_terminal:
            text = text[: os.get_terminal_size().columns - 1]
        print(start + text, end=end, flush=True)

    def clear(self) -> None:
        """Remove the line that does not stay."""
        if self.is_terminal:
            print('\r\033[K', end='', flush=True)

    def _cost_of(self, keys: set[str]) -> float:
        return sum(self.costs[key] for key in keys)

    def _clock(self) -> str:
        return _minutes(time.monotonic() - self.start)


def _minutes(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _output(running: Running, limit: int = 20000) -> str:
    """Read the end of what a program has written."""
    with open(running.job.log, 'rb') as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(running.begin, size - limit))
        return log.read().decode(errors='replace')


def _progress(running: Running) -> tuple[float, str]:
    """Return the share of a job that is done, and words for it."""
    text = _output(running, 3000)
    found = list(PROGRESS.finditer(text)) or list(IMAGES.finditer(text))
    if not found:
        return 0.0, ''
    now, end = int(found[-1]['now']), int(found[-1]['end'])
    return min(now / max(end, 1), 1.0), f'{now}/{end}'
