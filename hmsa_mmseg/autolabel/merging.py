"""From what several processes have written to one list of all labels.

The files themselves are looked at: a line that a killed process has lost, or
one that tells of an earlier file, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hmsa_mmseg.datasets.autolabel_files import (
    FAILURES_FILE,
    IMAGES_FILE,
    MANIFEST_FILE,
    META_FILE,
    REPORT_HTML,
    REPORT_JSON,
    read_lines,
)
from hmsa_mmseg.utils.files import remove_stale_parts

from .meta import identities_in, identity_of, read_meta, write_lines
from .pairs import PairFiles
from .teacher_record import SEEN_FILE

# Files that are of no single image or process.
_OWN_FILES = (
    *(META_FILE, IMAGES_FILE, MANIFEST_FILE, FAILURES_FILE, SEEN_FILE),
    *(REPORT_JSON, REPORT_HTML),
)
# Reading and hashing wait for the disk.
_THREADS = 4


class Merged(NamedTuple):
    """How many images have a label or cannot, and which are missing."""

    labelled: int
    failed: int
    missing: list[str]


def merge(out: str | Path) -> Merged:
    """Write ``manifest.jsonl`` and ``failures.jsonl`` of a folder.

    It can be repeated, and interrupted. The files of single processes are
    removed when no image is missing any more. With images missing, what
    there is is listed. Labels whose pixels are damaged are removed.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the folder's metadata are damaged.
    """
    out = Path(out)
    meta = read_meta(out)
    files = files_of(out, meta)
    listed = _listed(out)
    shards = _shard_files(out, MANIFEST_FILE)
    known = _by_name(out / MANIFEST_FILE, shards)
    # Labels of an earlier run with other images stay.
    images = {n: known[n][-1].get('image', '') for n in known}
    images.update(listed)
    own, accepted = identity_of(meta), identities_in(meta)

    def line_of(name: str) -> dict[str, Any] | None:
        """Describe the label of an image; None if there is no whole one."""
        pair = files.find(name)
        if pair is None or pair.identity not in accepted:
            return None
        hashes = files.hashes(name, known.get(name, ()))
        if hashes is None:
            # Its head is good: only without it the image is labelled again.
            files.remove(name)
            return None
        line = manifest_line(name, images[name], pair.size, hashes, pair.mode)
        if pair.identity != own:
            line['identity'] = pair.identity
        return line

    with ThreadPoolExecutor(_THREADS) as pool:
        lines = [*pool.map(line_of, sorted(images))]
    labelled = [line for line in lines if line is not None]
    done = {line['name'] for line in labelled}
    wanted = {*_listed(out)} - done
    failure_shards = _shard_files(out, FAILURES_FILE)
    found = _by_name(out / FAILURES_FILE, failure_shards)
    failures = [found[name][-1] for name in sorted(found) if name in wanted]
    missing = sorted(wanted - {line['name'] for line in failures})
    write_lines(out / MANIFEST_FILE, labelled)
    write_lines(out / FAILURES_FILE, failures)
    if not missing:
        for path in (*shards, *failure_shards):
            path.unlink(missing_ok=True)
        remove_stale_parts([out / name for name in _OWN_FILES], shared=True)
    return Merged(len(labelled), len(failures), missing)


def forget_failures(out: Path) -> None:
    """Remove the lists of images that another teacher could not label.

    They are to be tried again, and until then missing.
    """
    for path in (out / FAILURES_FILE, *_shard_files(out, FAILURES_FILE)):
        path.unlink(missing_ok=True)


def files_of(out: str | Path, meta: Mapping[str, Any]) -> PairFiles:
    """Where the files of a folder's images are, by its metadata."""
    settings = meta['settings']
    return PairFiles(
        out, settings['layout'], has_prob=settings['prob'] != 'none'
    )


def _listed(out: Path) -> dict[str, str]:
    """Names of all images to be labelled, and their files."""
    lines = read_lines(out / IMAGES_FILE)
    return {line['name']: line['image'] for line in lines}


def _shard_files(out: Path, name: str) -> list[Path]:
    stem, suffix = name.rsplit('.', 1)
    return sorted(out.glob(f'{stem}.*-of-*.{suffix}'))


def _by_name(
    merged: Path, shards: Sequence[Path]
) -> dict[str, list[dict[str, Any]]]:
    """Lines of a merged file, then of single processes, by images' names."""
    # In this order: who merges at the same time removes the latter when the
    # former is there.
    of_shards = [line for path in shards for line in read_lines(path)]
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in (*read_lines(merged), *of_shards):
        lines.setdefault(line['name'], []).append(line)
    return lines


def manifest_line(
    name: str,
    image: str,
    size: tuple[int, int],
    hashes: Mapping[str, str | None],
    mode: str,
) -> dict[str, Any]:
    """One line of a manifest."""
    line = dict(name=name, image=image, size=list(size))
    return {**line, **hashes, 'mode': mode}
