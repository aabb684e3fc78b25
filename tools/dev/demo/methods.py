"""What the demo compares, and how it counts.

Shape shorthand in this module:
    K: classes, H, W: image size.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CONFIGS = Path(__file__).resolve().parents[3] / 'configs' / 'demo'
#: Model: its config. The two share everything but segmentor, head, scales.
MODELS = {
    'single': CONFIGS / 'fcn_r18s1_1xb4-1k_street-scenes-128x256.py',
    'hierarchical': CONFIGS
    / 'hmsa_r18s1_fcn_1xb4-1k_street-scenes-128x256.py',
}


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        key (str): Name of its folder and of its entry in the results.
        title (str): Name for people.
        model (str): Key of :data:`MODELS`.
        scales (tuple[float]): Relative image sizes it sees.
        tta (bool): Whether mmseg's ``--tta`` averages the scales.
    """

    key: str
    title: str
    model: str
    scales: tuple
    tta: bool = False


METHODS = (
    Method('single', 'Single scale 1', 'single', (1.0,)),
    Method('averaged', 'Averaged 0.5/1/2', 'single', (0.5, 1.0, 2.0), True),
    Method('hier-2', 'Hierarchical 0.5/1', 'hierarchical', (0.5, 1.0)),
    Method('hier-3', 'Hierarchical 0.5/1/2', 'hierarchical', (0.5, 1.0, 2.0)),
    Method(
        'hier-4',
        'Hierarchical 0.25/0.5/1/2',
        'hierarchical',
        (0.25, 0.5, 1.0, 2.0),
    ),
)


def write_json(path, content):
    """Write a JSON file that is complete or not there."""
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(partial, path)


def read_ids(path):
    """Read a PNG of class ids, uint8 (H, W)."""
    with Image.open(path) as image:
        return np.array(image)


def to_class_ids(train_ids, dataset):
    """Map Cityscapes trainIds (H, W) to the classes of a data set."""
    class_ids = train_ids.copy()
    for old, new in dataset.label_map.items():
        class_ids[train_ids == old] = new
    return class_ids


def class_iou(pairs, num_classes, ignore_index=255):
    """Intersection over union of each class over all pixels of all images.

    Args:
        pairs (Iterable[tuple[ndarray, ndarray]]): Predicted and true class
            ids of each image, both (H, W).
        num_classes (int): K.
        ignore_index (int): True id of the pixels that do not count.

    Returns:
        ndarray: IoU in percent, (K,); nan where a class is in neither.
    """
    # 64 bits: the index of a pair of classes overflows the labels' 8.
    counts = np.zeros(num_classes**2, np.int64)
    for predicted, true in pairs:
        valid = true != ignore_index
        index = true[valid].astype(np.int64) * num_classes + predicted[valid]
        counts += np.bincount(index, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    return np.where(union > 0, 100 * hits / np.maximum(union, 1), np.nan)


def markdown_table(rows, classes):
    """Format results as a Markdown table.

    Args:
        rows (dict): ``{method key: {'mIoU': float, 'IoU': {class: float}}}``.
        classes (Sequence[str]): Names of the columns after the mean.

    Returns:
        str: A row for each of :data:`METHODS`.
    """
    lines = [
        ' | '.join(['| method', 'mIoU', *classes]) + ' |',
        '| :-- |' + ' --: |' * (1 + len(classes)),
    ]
    for method in METHODS:
        row = rows[method.key]
        values = [row['mIoU'], *(row['IoU'][name] for name in classes)]
        cells = ['-' if value is None else f'{value:.1f}' for value in values]
        lines.append(' | '.join([f'| {method.title}', *cells]) + ' |')
    return '\n'.join(lines)


def mean_rows(seeds):
    """Average the rows of several seeds.

    Args:
        seeds (Sequence[dict]): As ``rows`` of :func:`markdown_table`.

    Returns:
        dict: The same structure.
    """

    def mean(values):
        values = [value for value in values if value is not None]
        return sum(values) / len(values) if values else None

    return {
        key: {
            'mIoU': mean([rows[key]['mIoU'] for rows in seeds]),
            'IoU': {
                name: mean([rows[key]['IoU'][name] for rows in seeds])
                for name in seeds[0][key]['IoU']
            },
        }
        for key in seeds[0]
    }


def load_dataset(model, data_root, split):
    """Build the data set of a split, without a pipeline.

    Args:
        model (str): Key of :data:`MODELS`.
        data_root (Path): Folder of the data set.
        split (str): Name of its sub-folders.

    Returns:
        HMSACityscapesDataset: Its items are dicts of paths.
    """
    # Here, not above: mmseg takes seconds to import.
    # First: it makes the rest of the stack importable.
    import hmsa_mmseg  # noqa: F401  # isort: skip
    from mmengine.config import Config
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(MODELS[model]).test_dataloader.dataset
    cfg.data_root = str(data_root)
    cfg.data_prefix = dict(
        img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}'
    )
    cfg.pipeline = []
    return DATASETS.build(cfg)
