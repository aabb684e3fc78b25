"""What there is to measure, and where each finding is kept.

A job is one measurement of one model; its key is a hash of all that decides
about its result: the config's content, the settings, the versions and, where
time or memory is measured, the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.version import __version__

from .accuracy import find_weights
from .models import MODES, Model, content_hash, modes_of

# Images (H, W) that are counted, and that are timed: all by default.
SIZES = {
    'full': ((512, 1024), (1024, 2048)),
    'small': ((64, 128), (128, 256)),
}
# On a processor smaller ones too: six scales with flips of a large network
# take minutes at 512x1024.
CPU_SIZES = {'full': ((256, 512),), 'small': ()}
# Crop (H, W) of a training step that is timed; None: the config's.
TRAINED = {
    ('full', 'cpu'): (128, 256),
    ('full', 'cuda'): None,
    ('small', 'cpu'): (64, 128),
    ('small', 'cuda'): (64, 128),
}
# Of a machine: what may change without another result.
_PASSING = ('load', 'date')


def versions() -> dict[str, str]:
    """Versions of the packages whose code is measured."""
    found = {'hmsa_mmseg': __version__}
    for name in ('mmsegmentation', 'onedl-mmsegmentation'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def plan(
    model: Model, args: argparse.Namespace, machine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """List what is to be measured of a model.

    Args:
        model (Model): A config.
        args (argparse.Namespace): The command line.
        machine (Mapping): From ``measure.machine``.

    Returns:
        list[dict]: Jobs with ``key``, ``model``, ``config``, ``part``,
        ``title`` and settings. A config that cannot be read gives jobs too,
        which then fail.
    """
    modes = [mode for mode in MODES if mode in args.modes]
    try:
        cfg = Config.fromfile(model.path).to_dict()
        content = content_hash(cfg)
        modes = modes_of(cfg, modes)
    except Exception:  # said by the job itself, in its row
        content = hashlib.sha256(model.path.read_bytes()).hexdigest()[:16]
    known = dict(content=content, versions=versions())
    timed = {k: v for k, v in machine.items() if k not in _PASSING}
    jobs = []
    for settings in _settings(model, args, modes):
        part = settings['part']
        identity = dict(settings, **known)
        if not part.endswith('counts'):
            identity['machine'] = timed
        text = json.dumps(identity, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        jobs.append(
            dict(
                key=key,
                model=model.name,
                config=str(model.path),
                title=' '.join(
                    [part, *map(str, filter(None, _labels(settings)))]
                ),
                **settings,
            )
        )
    return jobs


def _labels(settings: Mapping[str, Any]) -> Iterator[Any]:
    if settings['part'] == 'inference':
        yield 'x'.join(map(str, settings['size']))
    yield settings.get('dtype')


def _settings(
    model: Model, args: argparse.Namespace, modes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    sizes = SIZES[args.size]
    if 'counts' in args.parts:
        yield dict(part='inference counts', sizes=sizes, modes=modes)
        yield dict(part='training counts')
    clock = dict(device=args.device, rounds=args.rounds, seconds=args.seconds)
    for dtype in args.dtypes:
        if 'training' in args.parts:
            size = TRAINED[args.size, args.device]
            yield dict(part='training', size=size, dtype=dtype, **clock)
        if 'inference' in args.parts:
            smaller = CPU_SIZES[args.size] if args.device == 'cpu' else ()
            for size in (*smaller, *sizes):
                yield dict(
                    part='inference',
                    size=size,
                    dtype=dtype,
                    modes=modes,
                    max_tflop=args.max_tflop,
                    **clock,
                )
    if args.data_root is not None and 'mIoU' in args.parts:
        weights = find_weights(model.name, args.weights)
        if weights is not None:
            status = weights.stat()
            yield dict(
                part='mIoU',
                weights=str(weights),
                weights_state=[status.st_size, status.st_mtime_ns],
                data_root=str(args.data_root.absolute()),
                modes=modes,
                device=args.device,
            )


class Findings:
    """One JSON file for each job that is done, in one folder.

    Args:
        folder (Path): Made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, job: Mapping[str, Any]) -> Path:
        """File of a job."""
        return self.folder / f'{job["key"]}.json'

    def read(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found, or None.

        Raises:
            ValueError: If the file is damaged; with its name.
        """
        try:
            text = self.path(job).read_text()
        except FileNotFoundError:
            return None
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f'{self.path(job)} is damaged ({error}); delete it, or run '
                'with --fresh'
            ) from error

    def is_measured(self, job: Mapping[str, Any]) -> bool:
        """Whether a job is done and has not failed."""
        found = self.read(job)
        return found is not None and 'error' not in found

    def write(self, job: Mapping[str, Any], **content: Any) -> None:
        """Keep what was found: ``measured`` or ``error``, and more."""
        head = {k: job[k] for k in ('key', 'model', 'part', 'title')}
        write_text(
            self.path(job), json.dumps({**head, **content}, indent=2) + '\n'
        )

    def forget(self, job: Mapping[str, Any]) -> None:
        """Delete what was found."""
        self.path(job).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())
