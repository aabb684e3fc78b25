"""Run mmseg's tools: one run per folder, progress on the screen."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROGRESS = re.compile(
    r'Iter\((?P<kind>train|val|test)\) \[\s*(?P<now>\d+)/\s*(?P<end>\d+)\]'
    r'.*?eta: (?P<eta>[\d:, days]*\d)'
)


def lock_folder(out):
    """Wait until no other run, and no training it left, uses a folder.

    Returns:
        file: To be kept open, also by the programs that are started.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = open(out / '.lock', 'w')  # noqa: SIM115  (open until the end)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'{out} is in use by another run; waiting for it to end')
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def open_state(root, settings, what, option, overwrite):
    """Read what an earlier run has noted in a folder, to go on with it.

    Args:
        root (Path): Folder with ``state.json``; made if it is missing.
        settings (dict): Of this run; the earlier one must have had the same.
        what (str): What the folder holds, for the error messages.
        option (str): The option that names the folder, likewise.
        overwrite (bool): Discard a run with other settings instead.

    Returns:
        dict | None: The state, None if there is none to go on with.

    Raises:
        SystemExit: If the folder holds something else.
    """
    path = root / 'state.json'
    if path.exists():
        state = json.loads(path.read_text())
        if state['settings'] == settings:
            return state
        if not overwrite:
            raise SystemExit(
                f'{root} holds {what} with other settings: '
                f'{state["settings"]}, now {settings}. Choose another '
                f'{option}, or --overwrite to discard it.'
            )
        shutil.rmtree(root)
    elif root.exists() and any(root.iterdir()):
        raise SystemExit(
            f'{root} is not empty and has no state.json of {what}; '
            f'choose another {option}'
        )
    root.mkdir(parents=True, exist_ok=True)
    return None


def tool_environment(threads, use_gpu=False):
    """Return the environment of a program that computes.

    Args:
        threads (int): That it may use.
        use_gpu (bool): Whether it may see one.

    Returns:
        dict: This one's, changed.
    """
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    # Threads that wait by spinning slow each other down several times as
    # soon as another program wants one of the cores.
    env.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    if not use_gpu:
        # The same run on every machine, also on one that has a GPU.
        env['CUDA_VISIBLE_DEVICES'] = ''
    return env


def run_logged(command, log_path, threads, lock, use_gpu=False):
    """Run a program; its output goes to a file, its progress to the screen.

    Raises:
        SystemExit: If the program fails; with the end of what it wrote.
    """
    tail, shown = [], 0.0
    process = subprocess.Popen(
        command,
        env=tool_environment(threads, use_gpu),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[lock.fileno()],
    )
    with process, open(log_path, 'a') as log:
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                tail = [*tail[-19:], line]
                match = PROGRESS.search(line)
                if match and time.monotonic() - shown > _pause():
                    shown = time.monotonic()
                    _show(match, line)
        except BaseException:
            process.terminate()
            raise
    if sys.stdout.isatty():
        print('\r\033[K', end='')
    if process.returncode != 0:
        raise SystemExit(
            ''.join(tail)
            + f'{" ".join(command[1:3])} failed ({process.returncode}); all '
            f'of its output: {log_path}'
        )


def _pause():
    return 0.5 if sys.stdout.isatty() else 15.0


def _show(match, line):
    loss = re.search(r' loss: ([\d.]+)', line)
    text = f'    {match["kind"]} {match["now"]}/{match["end"]}'
    text += f', {match["eta"]} left' + (f', loss {loss[1]}' if loss else '')
    end = '' if sys.stdout.isatty() else '\n'
    print(('\r\033[K' if not end else '') + text, end=end, flush=True)


def mmseg_tools():
    """Return the folder of mmseg's tools."""
    # First: it makes the rest of the stack importable.
    import hmsa_mmseg  # noqa: F401  # isort: skip
    import mmseg

    return Path(mmseg.__path__[0]) / '.mim' / 'tools'
