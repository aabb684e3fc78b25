"""The stacks of packages that users have, each in an environment of its own.

``make test-matrix`` runs all sessions, ``nox -s torch-2.1`` one of them. One
whose Python or torch is not to be had is skipped, with the reason.

On Linux the torch of PyPI brings CUDA's libraries, 2 to 3 GB for a session.
pip takes builds for the CPU instead, a tenth of that, from where
PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL names a place that has them.
"""

import subprocess

import nox

nox.options.default_venv_backend = 'venv'

# Python, torch, numpy, extra.
STACKS = {
    # The oldest that is accepted.
    'torch-2.0': ('3.9', 'torch==2.0.1', 'numpy==1.24.*', 'mmlab'),
    # The newest for which there are wheels of full mmcv.
    'torch-2.1': ('3.10', 'torch==2.1.2', 'numpy==1.26.*', 'mmlab'),
    # The last whose torch.load takes no names of what a file may hold.
    'torch-2.5': ('3.12', 'torch==2.5.1', 'numpy', 'mmlab'),
    # The torch of the Makefile, and the forks of OpenMMLab's packages.
    'newest': ('3.11', 'torch==2.13.0', 'numpy', 'mmlab'),
    'onedl': ('3.11', 'torch==2.13.0', 'numpy', 'onedl'),
}
# Some six minutes: the network and its golden values, the losses, the engine,
# the authors' weights, and a training with mmseg's own tools.
TESTS = [
    'tests/test_compat.py',
    'tests/test_utils',
    'tests/test_models/test_golden.py',
    'tests/test_models/test_scale_fusion.py',
    'tests/test_models/test_decode_heads',
    'tests/test_models/test_losses',
    'tests/test_models/test_segmentors',
    'tests/test_models/test_tiled',
    'tests/test_engine',
    'tests/test_tools/test_nvidia2mmseg.py',
    'tests/test_tools/test_bad_runs.py',
    'tests/test_tools/test_stock_train.py',
    'tests/test_tools/test_stock_test.py',
]


def runs(python: str) -> bool:
    """Whether a command such as ``python3.9`` is there, and no empty shim."""
    try:
        subprocess.run(
            [f'python{python}', '-c', ''],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def add_session(
    name: str, python: str, torch: str, numpy: str, extra: str
) -> None:
    """Define a session that installs as the README says and tests."""

    @nox.session(name=name, python=python if runs(python) else False)
    def check(session: nox.Session) -> None:
        if not session.python:
            session.skip(f'there is no Python {python}')
        try:
            session.install(torch, numpy)
        except nox.command.CommandFailed:
            session.skip(f'{torch} for Python {python} is not to be had')
        options = []
        if extra == 'mmlab':
            session.install('setuptools>=68,<82', 'wheel')
            options = ['--no-build-isolation']
        session.install(*options, '-e', f'.[{extra},dev]', numpy)
        try:
            session.run('python', '-c', 'import cv2')
        except nox.command.CommandFailed:  # There is no libGL.
            session.run('pip', 'uninstall', '-q', '-y', 'opencv-python')
            session.install('opencv-python-headless', numpy)
        session.run('python', '-c', 'import hmsa_mmseg')
        session.run('pytest', '-m', 'not slow', *(session.posargs or TESTS))


for name, stack in STACKS.items():
    add_session(name, *stack)
