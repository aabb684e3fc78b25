"""Find the class centroids of a config's training set, ahead of training.

ClassUniformSampler does the same when training starts, if there is no file
of them yet. For large data sets this is the place to use more processes, and
to see how often each class occurs. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from mmseg.registry import DATASETS

from hmsa_mmseg.datasets import ClassUniformDataset
from hmsa_mmseg.datasets.centroid_index import (
    index_path,
    load_or_build,
    read_rows,
    write_rows,
)
from hmsa_mmseg.datasets.centroids import LabelCentroids


def load_dataset(cfg: Config) -> ClassUniformDataset:
    """Build the training set of a config, wrapped if it is not."""
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if not isinstance(dataset, ClassUniformDataset):
        dataset = ClassUniformDataset(dataset)
    return dataset


def changed_labels(
    labels: LabelCentroids, stored: np.ndarray, found: np.ndarray
) -> list[str]:
    """Name the labels whose stored centroids are not those found now."""
    return [
        labels.path(k)
        for k in range(len(labels.items))
        if not np.array_equal(
            stored[stored[:, 0] == k], found[found[:, 0] == k]
        )
    ]


def verify(
    labels: LabelCentroids, cache_dir: str | None, num_workers: int
) -> np.ndarray:
    """Read all labels again, and replace the file if it is not right."""
    path = index_path(labels, cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        found = load_or_build(labels, folder, num_workers)
    try:
        stored = read_rows(path)
    except (OSError, ValueError) as error:
        print(f'{path}: {error}')
        changed = ['all']
    else:
        changed = changed_labels(labels, stored, found)
    if changed:
        write_rows(path, found, path.parent)
        shown = ', '.join(changed[:10])
        print(f'{len(changed)} labels differed, file replaced: {shown}')
    else:
        print(f'all {len(labels.items)} labels are as in the file')
    return found


def class_table(names: tuple[str, ...], rows: np.ndarray) -> str:
    """Format how many centroids each class has, in how many labels."""
    width = max(len(name) for name in names)
    lines = [f'{"class":{width}}  centroids  labels']
    for class_id, name in enumerate(names):
        mine = rows[rows[:, 3] == class_id, 0]
        count = len(np.unique(mine))
        lines.append(f'{name:{width}}  {len(mine):9}  {count:6}')
    return '\n'.join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='train config file path')
    parser.add_argument(
        '--workers',
        type=int,
        help='processes that read labels. Default: one per CPU, up to 8',
    )
    parser.add_argument(
        '--cache-dir',
        help="folder of the file. Default: cache_dir of the config's sampler",
    )
    parser.add_argument(
        '--tile-size',
        type=int,
        help="side of a tile. Default: tile_size of the config's sampler",
    )
    parser.add_argument(
        '--verify',
        choices=('quick', 'full'),
        default='quick',
        help='how to check a file that is there: quick compares names, '
        'sizes, checksum and a few labels, full reads every label again',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build the file, or check it, and print a table; 1 on an error."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        sampler = cfg.train_dataloader.sampler
        cache_dir = args.cache_dir or sampler.get('cache_dir')
        tile_size = args.tile_size or sampler.get('tile_size', 1024)
        dataset = load_dataset(cfg)
        labels, _ = dataset.labels(tile_size)
        build = verify if args.verify == 'full' else load_or_build
        rows = build(labels, cache_dir, args.workers)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(class_table(dataset.metainfo['classes'], rows))
    path = index_path(labels, cache_dir)
    if not os.path.exists(path):
        print(f'error: {path} could not be written', file=sys.stderr)
        return 1
    print(f'{len(rows)} centroids of {len(labels.items)} labels: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
