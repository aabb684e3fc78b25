"""Count which classes a model takes for which, from the maps of hmsa test.

Takes the arguments of mmseg's tool of this name, whose numbers are wrong
from 17 classes on. Writes ``confusion_matrix.png``, ``.csv`` (pixels) and
``.json`` (pixels and scores).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from functools import partial

from mmseg.registry import DATASETS
from rich.progress import Progress

from hmsa_mmseg.analysis.confusion_matrix import (
    confusion_of_dataset,
    match_predictions,
    normalised,
)
from hmsa_mmseg.analysis.confusion_plot import DPI, draw_confusion
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.confusion import scores
from hmsa_mmseg.zoo import find_config

TITLE = 'Normalized Confusion Matrix'
NUM_LISTED = 10


def as_csv(matrix: np.ndarray, labels: list[str]) -> str:
    """Write the pixels as a table, with the classes in the first row."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['true / predicted', *labels])
    for label, row in zip(labels, matrix.tolist()):
        writer.writerow([label, *row])
    return file.getvalue()


def as_json(matrix: np.ndarray, labels: list[str], config: str) -> str:
    """Write the pixels and the scores, None for those that are not known."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else round(float(value), 4)

    found = {
        name: [plain(one) for one in value] if np.ndim(value) else plain(value)
        for name, value in scores(matrix).items()
    }
    content = dict(
        config=config,
        classes=labels,
        rows='true class',
        columns='predicted class',
        pixels=matrix.tolist(),
        **found,
    )
    return json.dumps(content, indent=2) + '\n'


def largest(matrix: np.ndarray, labels: list[str]) -> list[str]:
    """Name the most frequent mistakes, by their share of the true class."""
    share = np.nan_to_num(normalised(matrix, 'rows'))
    np.fill_diagonal(share, 0)
    lines = []
    for index in share.argsort(axis=None)[::-1][:NUM_LISTED]:
        row, column = np.unravel_index(index, share.shape)
        if share[row, column] > 0:
            lines.append(
                f'{share[row, column]:5.1f}% of {labels[row]} is taken for '
                f'{labels[column]}'
            )
    return lines


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', help='config file path, or the name of one of the zoo'
    )
    parser.add_argument(
        'prediction_path', help='the folder that hmsa test --out wrote'
    )
    parser.add_argument('save_dir', help='where to write')
    parser.add_argument(
        '--show', action='store_true', help='show confusion matrix'
    )
    parser.add_argument(
        '--color-theme',
        default='viridis',
        help="colour map of matplotlib. Default: viridis (mmseg's: winter, "
        'whose equal steps do not look equal)',
    )
    parser.add_argument(
        '--title', default=TITLE, help='title of the matrix color map'
    )
    parser.add_argument(
        '--normalize',
        choices=('rows', 'columns', 'none'),
        default='rows',
        help='what the picture shows: percent of the true class, percent of '
        'the predicted class, or pixels. Default: rows',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    args = parser.parse_args(argv)
    if args.normalize == 'none' and args.title == TITLE:
        args.title = 'Confusion Matrix'
    return args


def main(argv: list[str] | None = None) -> int:
    """Count, write and print; 1 on an error."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(find_config(args.config))
        cfg.merge_from_dict(args.cfg_options or {})
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        loader = cfg.get('test_dataloader')
        if loader is None:
            raise ValueError(f'{args.config} has no test_dataloader')
        dataset = DATASETS.build(loader.dataset)
        labels = list(dataset.metainfo['classes'])
        maps = match_predictions(args.prediction_path, dataset)
        with Progress() as bar:
            task = bar.add_task('count', total=len(maps))
            step = partial(bar.advance, task)
            matrix = confusion_of_dataset(dataset, maps, step)
        figure = draw_confusion(
            normalised(matrix, args.normalize),
            labels,
            args.normalize,
            args.title,
            args.color_theme,
        )
        picture = io.BytesIO()
        figure.savefig(picture, dpi=DPI, format='png')
        for suffix, content in (
            ('.csv', as_csv(matrix, labels).encode()),
            ('.json', as_json(matrix, labels, args.config).encode()),
            ('.png', picture.getvalue()),
        ):
            path = Path(args.save_dir, f'confusion_matrix{suffix}')
            with atomic_file(path) as file:
                file.write(content)
    except (ImportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    found = scores(matrix)
    print(f'aAcc: {found["aAcc"]:.2f}  mIoU: {found["mIoU"]:.2f}')
    print('\n'.join(largest(matrix, labels)))
    print(f'written: {args.save_dir}/confusion_matrix.png, .csv, .json')
    if args.show:
        from matplotlib import pyplot

        pyplot.show()
    return 0


if __name__ == '__main__':
    sys.exit(main())
