"""From the tool to what a student is trained on.

The tool writes, the data set reads: its classes must be those of the largest
probability, ignored below a threshold, computed here in memory.
"""

import re

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS
from hmsa_mmseg.utils.loading import load_model, read_config

pytestmark = pytest.mark.usefixtures('quick')
NAMES = ('aachen/aachen_000000_000019', 'bochum/bochum_000001_000019')
# cityscapesScripts, helpers/labels.py: name, id, train id of the classes that
# are evaluated; a transcription.
TABLE = """
road 7 0, sidewalk 8 1, building 11 2, wall 12 3, fence 13 4, pole 17 5,
traffic light 19 6, traffic sign 20 7, vegetation 21 8, terrain 22 9,
sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14, bus 28 15,
train 31 16, motorcycle 32 17, bicycle 33 18
"""


def probabilities(teacher, pixels):
    """float32 (classes, h, w) of an image, RGB uint8 (h, w, 3)."""
    model = load_model(read_config(str(teacher.config)), teacher.checkpoint)
    data = dict(inputs=[torch.from_numpy(pixels[..., ::-1].copy())])
    data['inputs'][0] = data['inputs'][0].permute(2, 0, 1)
    inputs = model.data_preprocessor(data)['inputs']
    with torch.no_grad():
        return model.encode_decode(inputs).softmax(dim=1)[0].numpy()


@pytest.mark.parametrize('layout', ['folders', 'authors-flat'])
def test_two_images(run, teacher, tmp_path, draw, save, read, layout):
    root = tmp_path / 'data'
    images = root / 'leftImg8bit/train_extra'
    for seed, name in enumerate(NAMES):
        save(images / f'{name}_leftImg8bit.png', seed)
    run('--layout', layout, source=images, out='data/labels')
    probs = [probabilities(teacher, draw(seed)) for seed in range(2)]
    ids = np.array([int(x.split()[-2]) for x in TABLE.split(',')])
    for name, of_image in zip(NAMES, probs):
        path = name if layout == 'folders' else name.split('/')[1]
        label = read(root / f'labels/{path}_leftImg8bit.png')
        # Rounding may move a pixel to the other side of something.
        assert np.mean(label == ids[of_image.argmax(axis=0)]) > 0.998
    for threshold in (0.0, 0.5, 0.9):
        dataset = read_back(root, threshold)
        assert len(dataset) == 2
        ignored = 0
        for sample, of_image in zip(dataset, probs):
            # As the authors store and compare it.
            stored = (of_image.max(axis=0) * 255).astype(np.uint8) / 255
            classes = of_image.argmax(axis=0)
            expected = np.where(stored < threshold, 255, classes)
            found = sample['gt_seg_map']
            assert np.mean(found == expected) > 0.998
            assert threshold or len(np.unique(found)) >= 4
            ignored += (found == 255).sum()
        assert (ignored > 0) == (threshold > 0)


def read_back(root, threshold):
    """The data set of the labels, with its first transforms."""
    return DATASETS.build(
        dict(
            type='CityscapesAutoLabelDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path='leftImg8bit/train_extra', seg_map_path='labels'
            ),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadSegLabels', num_classes=19),
                dict(type='ApplyConfidence', threshold=threshold),
            ],
        )
    )


def test_label_ids_are_those_of_cityscapes_scripts():
    found = [
        (name, int(label_id), int(train_id))
        for name, label_id, train_id in re.findall(
            r'([a-z ]+?) (\d+) (\d+)', TABLE.replace('\n', ' ')
        )
    ]
    assert [train_id for _, _, train_id in found] == [*range(19)]
    assert [label_id for _, label_id, _ in found] == [*EVALUATED_IDS]
    cityscapes = DATASETS.get('HMSACityscapesDataset').METAINFO['classes']
    assert [name.strip() for name, _, _ in found] == [*cityscapes]
