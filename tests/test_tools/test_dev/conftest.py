"""Experiments whose programs are copies of a process that has mmseg."""

import pytest
import run
from driver import jobs
from test_tools.test_dev.forked_programs import ForkedProgram


@pytest.fixture(scope='session')
def start():
    """Return a function that runs an experiment.

    It returns what was started, and raises KeyboardInterrupt before a program
    of whose command ``stop_at`` is a part.
    """

    def start(*arguments, stop_at=None):
        started = []

        class Program(ForkedProgram):
            def __init__(self, command, **options):
                started.append(' '.join(command[1:]))
                if stop_at and stop_at in started[-1]:
                    raise KeyboardInterrupt
                super().__init__(command, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs.subprocess, 'Popen', Program)
            patch.setattr(jobs, 'PAUSE', 0.02)
            run.main([str(part) for part in arguments])
        return started

    return start
