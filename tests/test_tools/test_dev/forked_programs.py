"""Programs run by copies of a process that has imported everything.

Importing mmseg takes seconds, and a loop of trainings, labels and tests runs
two dozen programs.
"""

import gc
import multiprocessing
import os
import runpy
import sys


class ForkedProgram:
    """Stands in for ``subprocess.Popen`` of a Python script or module."""

    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(
        [
            *('hmsa_mmseg', 'mmseg.apis', 'mmseg.datasets', 'mmseg.models'),
            # Imported when an optimizer or a visualizer is built.
            *('torch._dynamo', 'matplotlib.pyplot', 'jinja2', __name__),
        ]
    )

    def __init__(self, command, cwd, env, stdout, **_):
        assert command[0] == sys.executable
        self.process = self.context.Process(
            target=run_program, args=(command[1:], cwd, env, stdout.name)
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        self.process.join(0)
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()


def run_program(arguments, cwd, env, log):
    """Run a program as ``python ...`` would."""
    with open(log, 'a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115
    import torch
    from mmengine.config import config
    from mmengine.runner import runner

    torch.set_num_threads(1)
    # mmengine collects garbage when it builds a data set: not what is here.
    gc.freeze()
    # It lays out configs, which takes seconds each time.
    config.FormatCode = lambda text, **_: (text, True)

    # It asks compilers for their versions, which takes a second.
    runner.collect_env = dict
    os.chdir(cwd)
    sys.path[:0] = env['PYTHONPATH'].split(os.pathsep)
    if arguments[0] == '-m':
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, os.path.dirname(arguments[0]))
        runpy.run_path(arguments[0], run_name='__main__')
