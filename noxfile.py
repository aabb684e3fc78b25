"""The stacks of packages that users have, each in an environment of its own.

``make test-matrix`` runs all sessions, ``nox -s torch-2.1`` one of them. One
whose Python or torch is not to be had is skipped, with the reason.

On Linux the torch of PyPI brings CUDA's libraries, 2 to 3 GB for a session.
pip takes builds for the CPU instead, a tenth of that, from where
PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL names a place that has them.
"""

import nox

nox.options.default_venv_backend = 'venv'
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False

# A few minutes: the network and its golden values, the losses, the engine,
# the authors' weights, and a training with mmseg's own tools.
TESTS = [
    'tests/test_compat.py',
    'tests/test_utils',
    'tests/test_models/test_golden.py',
    'tests/test_models/test_scale_fusion.py',
    'tests/test_models/test_decode_heads',
    'tests/test_models/test_losses',
    'tests/test_engine',
    'tests/test_tools/test_nvidia2mmseg.py',
    'tests/test_tools/test_stock_train.py',
    'tests/test_tools/test_stock_test.py',
]


def check(session: nox.Session, torch: str, numpy: str, extra: str) -> None:
    """Install as the README says, import, and run ``TESTS``."""
    try:
        session.install(torch, numpy)
    except nox.command.CommandFailed:
        session.skip(f'{torch} for Python {session.python} is not to be had')
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


@nox.session(name='torch-2.0', python='3.9')
def torch_2_0(session: nox.Session) -> None:
    """The oldest that is accepted."""
    check(session, 'torch==2.0.1', 'numpy==1.24.*', 'mmlab')


@nox.session(name='torch-2.1', python='3.10')
def torch_2_1(session: nox.Session) -> None:
    """The newest for which mmcv's own wheels exist."""
    check(session, 'torch==2.1.2', 'numpy==1.26.*', 'mmlab')


@nox.session(name='torch-2.5', python='3.12')
def torch_2_5(session: nox.Session) -> None:
    """The last that loads any file unless told otherwise."""
    check(session, 'torch==2.5.1', 'numpy', 'mmlab')


@nox.session(name='newest', python='3.11')
def newest(session: nox.Session) -> None:
    """The torch of the Makefile."""
    check(session, 'torch==2.13.0', 'numpy', 'mmlab')


@nox.session(python='3.11')
def onedl(session: nox.Session) -> None:
    """The maintained forks of OpenMMLab's packages."""
    check(session, 'torch==2.13.0', 'numpy', 'onedl')
