"""Small folders of auto-labels whose true labels are known."""

from pathlib import Path

import numpy as np
from PIL import Image

from hmsa_mmseg.autolabel.merging import manifest_line
from hmsa_mmseg.autolabel.meta import identity_of, write_lines, write_meta
from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.datasets.autolabel_files import (
    FAILURES_FILE,
    IMAGES_FILE,
    MANIFEST_FILE,
)

CLASSES = ('road', 'tree', 'car', 'sky')
PALETTE = [[128, 64, 128], [0, 128, 0], [0, 0, 142], [70, 130, 180]]
#: As in the files; the numbers of classes are others.
LABEL_IDS = [7, 21, 26, 23]


def make_meta(**settings):
    """Return metadata of labels of four classes."""
    settings = {
        **dict(scales=[1.0], flip=False, label_format='labelIds'),
        **dict(label_ids=LABEL_IDS, prob='floor255', layout='folders'),
        **dict(classes=list(CLASSES), palette=PALETTE),
        **settings,
    }
    return dict(
        version=1,
        teacher=dict(
            checkpoint='teacher.pth',
            checkpoint_sha256='12' * 32,
            config='teacher.py',
            config_sha256='34' * 32,
        ),
        settings=settings,
        trained_on=[dict(type='CityscapesDataset', images=2975)],
        round=None,
        previous=None,
        code_version='0.1.0',
        images=dict(source='images', count=1),
    )


def write_tree(folder, pairs, images=None, meta=None, failures=()):
    """Write a folder of auto-labels; pairs are classes and confidence."""
    meta = make_meta() if meta is None else meta
    write_meta(folder, meta)
    settings = meta['settings']
    has_prob = settings['prob'] != 'none'
    files = PairFiles(folder, settings['layout'], has_prob)
    ids = np.array(settings['label_ids'], np.uint8)
    lines = []
    for name in sorted(pairs):
        label, confidence = pairs[name]
        if not has_prob:
            confidence = None
        hashes = files.write(name, ids[label], confidence, identity_of(meta))
        path = f'{images or "images"}/{name}.png'
        lines.append(manifest_line(name, path, label.shape, hashes, 'whole'))
    write_lines(folder / MANIFEST_FILE, lines)
    write_lines(folder / FAILURES_FILE, failures)
    listed = [dict(name=k['name'], image=k['image']) for k in lines]
    write_lines(folder / IMAGES_FILE, [*listed, *failures])
    return folder


def fake_pairs(names, seed=0, size=(32, 64)):
    """Draw label and confidence, and the true label, of each name."""
    pairs, truths = {}, {}
    for i, name in enumerate(names):
        rng = np.random.default_rng([seed, i])
        truth = rng.integers(0, 4, (size[0] // 8, size[1] // 8))
        truth = truth.repeat(8, 0).repeat(8, 1).astype(np.uint8)
        confidence = rng.integers(0, 256, size, dtype=np.uint8)
        wrong = rng.random(size) > confidence / 255
        shift = rng.integers(1, 4, size)
        label = np.where(wrong, (truth + shift) % 4, truth)
        truth[rng.random(size) < 0.1] = 255
        pairs[name] = label.astype(np.uint8), confidence
        truths[name] = truth
    return pairs, truths


def write_truths(root, truths):
    """Write images and true labels as HMSAFolderDataset reads them."""
    for name, truth in truths.items():
        picture = np.full((*truth.shape, 3), 90, np.uint8)
        picture[..., 1] = truth
        for kind, pixels in (('images', picture), ('masks', truth)):
            path = Path(root) / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def write_config(path, **roots):
    """Write a config with a loader of the labels in each folder."""
    loaders = [
        f"""
{name} = dict(
    dataset=dict(
        type='HMSAFolderDataset',
        data_root={str(root)!r},
        classes={CLASSES!r},
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadSegLabels', num_classes={len(CLASSES)}),
        ],
    )
)
"""
        for name, root in roots.items()
    ]
    path.write_text(
        "default_scope = 'mmseg'\n"
        "custom_imports = dict(imports=['hmsa_mmseg'])\n"
        'model = dict()\n' + ''.join(loaders)
    )
    return str(path)
