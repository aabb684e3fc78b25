"""SIGKILL at random points: nothing is lost, nothing is half written."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from hmsa_mmseg.autolabel.meta import identity_of, read_meta
from hmsa_mmseg.autolabel.pairs import PairFiles

pytestmark = pytest.mark.usefixtures('quick')
KILLS = 50
# Calls between which the state of the disk changes; of each run there are
# about so many, in several threads.
CALLS = ('replace', 'fsync', 'unlink', 'open')
CALLS_OF_A_RUN = 150


def kill_at_call(number, is_after):
    """Kill this process at its n-th call, before it or after."""
    left = [number]

    def wrap(function):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if left[0] == 0 and is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    Path.unlink = wrap(Path.unlink)
    Path.open = wrap(Path.open)


def kill_between(count):
    """Kill this process between n-th confidence and its label."""
    replace, left = os.replace, [count]

    def replacing(part, path):
        replace(part, path)
        left[0] -= str(path).endswith('_prob.png')
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replacing


def kill_after(seconds):
    """Kill this process at any moment, also within a call of the system."""
    # Its default action ends a process as SIGKILL does: at once.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def choose(rng):
    """Choose a moment."""
    kind = rng.choice(('call', 'between', 'time'))
    if kind == 'call':
        number, is_after = rng.randint(1, CALLS_OF_A_RUN), rng.random() < 0.5
        return lambda: kill_at_call(number, is_after)
    if kind == 'between':
        count = rng.randint(1, 4)
        return lambda: kill_between(count)
    seconds = rng.uniform(0.02, 0.5)
    return lambda: kill_after(seconds)


def assert_no_half_pair(out):
    """Each label that is there has its confidence, and both are whole."""
    labels = [
        path.relative_to(out).with_suffix('').as_posix()
        for path in out.rglob('*.png')
        if not path.name.endswith('_prob.png')
    ]
    files = PairFiles(out)
    identities = {files.find(name).identity for name in labels}
    if identities:
        assert identities == {identity_of(read_meta(out))}
    return len(labels)


def test_50_kills(run, argv, fork, images, tmp_path, tree, done):
    """Each run goes on where the killed one was, until one has ended.

    Then the files are those of a run that was never killed, to the last
    bit, and no part is left; and it begins anew.
    """
    out = tmp_path / 'out'
    shutil.rmtree(out)
    # The model is loaded here, once for all copies of this process.
    run('--limit', '1', out='warm')
    rng = random.Random(0)
    killed = finished = 0
    seen = set()
    while killed < KILLS:
        status = fork(argv(images), choose(rng))()
        if status == 0:
            finished += 1
            assert tree(out) == done
            shutil.rmtree(out)
            continue
        assert status in (-signal.SIGKILL, -signal.SIGALRM)
        killed += 1
        if out.exists():
            seen.add(assert_no_half_pair(out))
    # At several stages of a run, not always before or after it.
    assert len(seen & {1, 2, 3, 4}) >= 2
    run()
    assert tree(out) == done
    assert finished >= 1
