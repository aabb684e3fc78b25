"""What the reader of a report must not miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hmsa_mmseg.autolabel.report_counts import Counts
from hmsa_mmseg.autolabel.report_tree import Tree
from hmsa_mmseg.autolabel.report_truths import Truths
from hmsa_mmseg.autolabel.seen_images import count_seen
from hmsa_mmseg.autolabel.teacher_record import read_teacher
from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER, META_FILE

#: A check on fewer images says little about a threshold.
FEW_IMAGES = 20
#: Of classes, so many are named.
MAX_NAMES = 20


def find_seen(folder: Path, truths: Truths, counts: Counts) -> dict[str, Any]:
    """Count the images of the checked split that the teacher was trained on.

    Args:
        folder (Path): Of the auto-labels.
        truths (Truths): Of the split.
        counts (Counts): Of its auto-labels.

    Returns:
        dict: ``images``, how many were compared, ``seen``, how many of those
        the teacher knows, None if that cannot be said, and ``problem``, what
        is not known.
    """
    record = read_teacher(folder)
    names = [image.name for image in counts.compared]
    paths = [truths.images[i] for i in truths.match(names).values()]
    seen, problem = None, record.problem
    if record.images:
        try:
            seen = count_seen(paths, record.images)
        except OSError as error:
            problem = f'{problem}; {error}' if problem else str(error)
    return dict(images=len(paths), seen=seen, problem=problem)


def find_notes(
    data: dict[str, Any],
    tree: Tree,
    check: Tree | None,
    previous_note: str | None,
) -> list[str]:
    """Write the notes at the head of the page.

    Args:
        data (dict): Of the report, all but these notes.
        tree (Tree): The folder.
        check (Tree | None): The labels of the checked split.
        previous_note (str | None): Why the round before is missing.

    Returns:
        list[str]: Sentences.
    """
    notes = _of_images(data['images'], '')
    if tree.meta.get('mixed'):
        notes.append(
            f'The labels are of {1 + len(tree.meta["mixed"])} teachers or '
            'settings, which are not told apart here.'
        )
    if not tree.has_confidence:
        notes.append(
            'The labels have no confidence (--prob none): thresholds change '
            'nothing.'
        )
    absent = data['never_predicted']
    if absent:
        more = len(absent) - MAX_NAMES
        notes.append(
            f'Classes that no pixel has: {", ".join(absent[:MAX_NAMES])}'
            + (f' and {more} more.' if more > 0 else '.')
        )
    if previous_note:
        notes.append(previous_note)
    prior = data['prior']
    if prior and prior['damaged']:
        notes.append(
            f'{_number(prior["damaged"], "label")} of the prior could not be '
            f'read, for example {prior["damaged"][0]}'
        )
    if data['coarse']:
        notes += _of_truth(data['coarse'], 'coarse')
    if data['check']:
        notes += _of_check(data['check'], tree, check)
    elif (tree.folder / CHECK_FOLDER / META_FILE).is_file():
        notes.append(
            f'{CHECK_FOLDER} holds labels of a split that nothing is compared '
            f'with: its true labels are given by --config CONFIG --check '
            'config:<loader>.'
        )
    if data['changes'] and data['changes']['missing']:
        missing = data['changes']['missing']
        notes.append(
            f'{_number(missing, "image")} could not be compared with the '
            f'round before, for example {missing[0]["name"]}: '
            f'{missing[0]["error"]}.'
        )
    return notes


def _of_images(images: dict[str, Any], where: str) -> list[str]:
    notes = []
    if images['damaged']:
        first = images['damaged'][0]
        notes.append(
            f'{_number(images["damaged"], "pair")} of label and confidence'
            f'{where} cannot be used, and nothing of it is counted, for '
            f'example {first["error"]}.'
        )
    if images['failed']:
        count = len(images['failed'])
        notes.append(
            f'{count} image{"s" if count > 1 else ""}{where} could not be '
            'labelled: '
            + ', '.join(f'{n} {key}' for key, n in images['failures'].items())
            + '.'
        )
    if images['missing']['count']:
        notes.append(
            f'{images["missing"]["count"]} images{where} are still to be '
            f'labelled, for example {images["missing"]["names"][0]}.'
        )
    if images['unlisted']['count']:
        notes.append(
            f'{images["unlisted"]["count"]} label files{where} are not in '
            'the manifest and are not counted, for example '
            f'{images["unlisted"]["names"][0]}.'
        )
    return notes


def _of_truth(part: dict[str, Any], kind: str) -> list[str]:
    notes = []
    if not part['images']:
        notes.append(f'No image has a {kind} label: are the names others?')
    elif part['without']['count']:
        notes.append(
            f'{part["without"]["count"]} images have no {kind} label, for '
            f'example {part["without"]["names"][0]}.'
        )
    if part['damaged']:
        first = part['damaged'][0]
        notes.append(
            f'{_number(part["damaged"], f"{kind} label")} could not be read, '
            f'for example {first["name"]}: {first["error"]}.'
        )
    return notes


def _of_check(part: dict[str, Any], tree: Tree, check: Tree) -> list[str]:
    notes = [*_of_truth(part, 'true'), *_of_images(part['pairs'], ' of check')]
    for key in ('teacher', 'settings'):
        if tree.meta.get(key) != check.meta.get(key):
            notes.append(
                f'The checked split was labelled with another {key}: what is '
                'said of it need not hold for the other labels.'
            )
    if part['unused']:
        notes.append(
            f'{part["unused"]} images of {part["data_set"]} have no label in '
            'check.'
        )
    seen = part['seen']
    if seen['seen']:
        notes.append(
            f'The teacher was trained on {seen["seen"]} of the '
            f'{seen["images"]} images that it is checked on: precision is '
            'too high, and the suggested threshold too low.'
        )
    elif seen['problem']:
        notes.append(
            'Whether the teacher was trained on images that it is checked on '
            f'is not sure: {seen["problem"]}.'
        )
    if 0 < part['images'] < FEW_IMAGES:
        notes.append(
            f'The teacher is checked on {part["images"]} images only.'
        )
    return notes


def _number(found: list, what: str) -> str:
    return f'{len(found)} {what}{"s" if len(found) != 1 else ""}'
