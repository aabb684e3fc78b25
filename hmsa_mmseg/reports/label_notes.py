"""What the reader of a report on auto-labels must not miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hmsa_mmseg.autolabel.teacher_record import count_seen, read_teacher
from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER, META_FILE

from .label_counts import Counts
from .label_set import LabelSet
from .label_truths import Truths

#: A check on fewer images says little about a threshold.
FEW_IMAGES = 20
#: Of classes, so many are named.
MAX_NAMES = 20


def find_seen(folder: Path, truths: Truths, counts: Counts) -> dict[str, Any]:
    """Count the images of the checked split that the teacher was trained on.

    Returns:
        dict: ``images``, how many were compared, ``seen``, how many of those
        the teacher knows, None if that cannot be said, and ``problem``, what
        is not known.
    """
    record = read_teacher(folder)
    names = [one['name'] for one in counts.images if 'compared' in one]
    paths = [truths.images[i] for i in truths.match(names).values()]
    seen, problem = None, record.note or None
    if record.images:
        try:
            seen = count_seen(paths, record.images)
        except OSError as error:
            problem = f'{problem}; {error}' if problem else str(error)
    return dict(images=len(paths), seen=seen, problem=problem)


def find_notes(
    data: dict[str, Any],
    labels: LabelSet,
    check: LabelSet | None,
    previous_note: str | None,
) -> Iterator[str]:
    """Write the notes at the head of the page, from all other data of it.

    ``check`` are the labels of the checked split, ``previous_note`` says why
    the round before is missing.
    """
    yield from _of_images(data['images'], '')
    if labels.meta.get('mixed'):
        yield (
            f'The labels are of {1 + len(labels.meta["mixed"])} teachers or '
            'settings, which are not told apart here.'
        )
    if not labels.has_confidence:
        yield (
            'The labels have no confidence (--prob none): thresholds change '
            'nothing.'
        )
    absent = data['never_predicted']
    if absent:
        more = len(absent) - MAX_NAMES
        end = f' and {more} more.' if more > 0 else '.'
        yield (
            'Classes that no pixel has: '
            f'{", ".join(map(str, absent[:MAX_NAMES]))}{end}'
        )
    if previous_note:
        yield previous_note
    prior = data['prior']
    if prior and prior['damaged']:
        yield (
            f'{_number(prior["damaged"], "label")} of the prior could not be '
            f'read, for example {prior["damaged"][0]}'
        )
    if data['coarse']:
        yield from _of_truth(data['coarse'], 'coarse')
    if check is not None:
        yield from _of_check(data['check'], labels, check)
    elif (labels.folder / CHECK_FOLDER / META_FILE).is_file():
        yield (
            f'{CHECK_FOLDER} holds labels of a split that nothing is compared '
            'with: its true labels are given by --config CONFIG --check '
            'config:<loader>.'
        )
    missing = data['changes'] and data['changes']['missing']
    if missing:
        yield (
            f'{_number(missing, "image")} could not be compared with the '
            f'round before, for example {_example(missing)}.'
        )


def _of_images(images: dict[str, Any], where: str) -> Iterator[str]:
    if images['damaged']:
        yield (
            f'{_number(images["damaged"], "pair")} of label and confidence'
            f'{where} cannot be used, and nothing of it is counted, for '
            f'example {images["damaged"][0]["error"]}.'
        )
    if images['failed']:
        failures = images['failures'].items()
        yield (
            f'{_number(images["failed"], "image")}{where} could not be '
            f'labelled: {", ".join(f"{n} {key}" for key, n in failures)}.'
        )
    for found, what in (
        (images['missing'], f'images{where} are still to be labelled'),
        (
            images['unlisted'],
            f'label files{where} are not in the manifest and are not counted',
        ),
    ):
        if found['count']:
            yield f'{found["count"]} {what}, for example {found["names"][0]}.'


def _of_truth(part: dict[str, Any], kind: str) -> Iterator[str]:
    if not part['images']:
        yield f'No image has a {kind} label: are the names others?'
    elif part['without']['count']:
        yield (
            f'{part["without"]["count"]} images have no {kind} label, for '
            f'example {part["without"]["names"][0]}.'
        )
    if part['damaged']:
        yield (
            f'{_number(part["damaged"], f"{kind} label")} could not be read, '
            f'for example {_example(part["damaged"])}.'
        )


def _of_check(
    part: dict[str, Any], labels: LabelSet, check: LabelSet
) -> Iterator[str]:
    yield from _of_truth(part, 'true')
    yield from _of_images(part['pairs'], ' of check')
    for key in ('teacher', 'settings'):
        if labels.meta.get(key) != check.meta.get(key):
            yield (
                f'The checked split was labelled with another {key}: what is '
                'said of it need not hold for the other labels.'
            )
    if part['unused']:
        yield (
            f'{part["unused"]} images of {part["data_set"]} have no label in '
            'check.'
        )
    seen = part['seen']
    if seen['seen']:
        yield (
            f'The teacher was trained on {seen["seen"]} of the '
            f'{seen["images"]} images that it is checked on: precision is '
            'too high, and the suggested threshold too low.'
        )
    elif seen['problem']:
        yield (
            'Whether the teacher was trained on images that it is checked on '
            f'is not sure: {seen["problem"]}.'
        )
    if 0 < part['images'] < FEW_IMAGES:
        yield f'The teacher is checked on {part["images"]} images only.'


def _number(found: list, what: str) -> str:
    return f'{len(found)} {what}{"s" if len(found) != 1 else ""}'


def _example(rows: list[dict[str, Any]]) -> str:
    return f'{rows[0]["name"]}: {rows[0]["error"]}'
