"""What tools/autolabel.py writes for good images."""

import hashlib
import json

import numpy as np
import pytest
import torch
from autolabelling import identity

from hmsa_mmseg.autolabel.meta import read_meta
from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.loading import load_model, read_config

# cityscapesScripts, helpers/labels.py: id of each train id, in their order.
pytestmark = pytest.mark.usefixtures('quick')
SCRIPTS_IDS = [
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
    *(23, 24, 25, 26, 27, 28, 31, 32, 33),
]


def literal(teacher, pixels, scales=None, flip=False):
    """Classes and confidence of an image, by the definition.

    Args:
        pixels (ndarray): RGB, uint8 (h, w, 3).
    """
    cfg = read_config(str(teacher.config))
    if scales is not None:
        cfg.model.test_cfg.scales = scales
    model = load_model(cfg, str(teacher.checkpoint))
    mean, std = (
        torch.tensor(cfg.model.data_preprocessor[key])[:, None, None]
        for key in ('mean', 'std')
    )
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    inputs = ((image - mean) / std)[None]
    with torch.no_grad():
        logits = model.encode_decode(inputs)
        if flip:
            other = model.encode_decode(inputs.flip(-1)).flip(-1)
            logits = (logits + other) / 2
    probs = logits.softmax(dim=1)[0]
    return probs.argmax(dim=0).numpy(), probs.max(dim=0)[0].numpy()


def assert_labels(folder, name, classes, confidence, read, label_ids):
    label = read(folder / f'{name}.png')
    prob = read(folder / f'{name}_prob.png')
    assert label.dtype == prob.dtype == np.uint8
    assert label.shape == prob.shape == classes.shape
    # Rounding may move a pixel from one class to another, or its confidence
    # over a step.
    assert np.mean(label == np.array(label_ids)[classes]) > 0.999
    floor = np.floor(confidence.astype(np.float64) * 255)
    assert np.abs(prob - floor).max() <= 1
    assert np.mean(prob == floor) > 0.99


def test_labels_against_the_definition(run, teacher, draw, tmp_path, read):
    """Label ids as cityscapesScripts numbers them; largest probability."""
    run()
    found = set()
    for seed, name in enumerate(['a/0', 'a/1', 'b/0', 'b/c/2', 'top']):
        classes, confidence = literal(teacher, draw(seed))
        assert_labels(
            *(tmp_path / 'out', name, classes, confidence, read, SCRIPTS_IDS)
        )
        found |= {*np.unique(classes)}
    # Something was to be mapped.
    assert len(found) >= 5


def test_scales_flip_and_train_ids(run, teacher, draw, tmp_path, read):
    run(
        *('--scales', '1,0.5', '--flip', '--label-format', 'trainIds'),
        *('--limit', '1'),
    )
    classes, confidence = literal(teacher, draw(0), (0.5, 1.0), flip=True)
    assert_labels(
        *(tmp_path / 'out', 'a/0', classes, confidence, read, range(19))
    )
    settings = read_meta(tmp_path / 'out')['settings']
    assert settings['scales'] == [0.5, 1.0]
    assert settings['flip'] is True
    assert settings['label_ids'] == [*range(19)]
    assert not (tmp_path / 'out/a/1.png').exists()


def test_no_logits_of_whole_images(run, monkeypatch):
    """Classes and confidence are decided a few rows at a time."""
    seen = []
    predict = MultiScaleAttentionSegmentor.predict

    def looking(self, inputs, data_samples=None):
        results = predict(self, inputs, data_samples)
        seen.append((self.test_cfg.classes_only, {*results[0].keys()}))
        return results

    monkeypatch.setattr(MultiScaleAttentionSegmentor, 'predict', looking)
    run(
        *('--limit', '1', '--cfg-options'),
        'model.test_cfg.scale_maps=True',
    )
    assert seen == [(True, {'pred_sem_seg', 'confidence'})]


def test_meta_manifest_and_files(teacher, tree, whole):
    found = tree(whole)
    names = ['a/0', 'a/1', 'b/0', 'b/c/2', 'top']
    pairs = {f'{n}{end}.png' for n in names for end in ('', '_prob')}
    assert {*found} == pairs | {
        *('autolabel_meta.json', 'images.jsonl', 'manifest.jsonl'),
        'failures.jsonl',
    }
    manifest = [
        json.loads(line) for line in found['manifest.jsonl'].splitlines()
    ]
    assert [line['name'] for line in manifest] == names
    assert manifest[3] == dict(
        name='b/c/2',
        image='/images/b/c/2.png',
        size=[32, 64],
        label_sha256=digest(found['b/c/2.png']),
        prob_sha256=digest(found['b/c/2_prob.png']),
        mode='whole',
    )
    assert found['failures.jsonl'] == b''
    meta = json.loads(found['autolabel_meta.json'])
    assert meta['teacher']['checkpoint_sha256'] == digest(
        teacher.checkpoint.read_bytes()
    )
    assert meta['teacher']['checkpoint'] == 'teacher.pth'
    assert meta['images'] == dict(source='/images', count=5)
    assert meta['settings']['label_format'] == 'labelIds'
    assert meta['settings']['label_ids'] == SCRIPTS_IDS
    assert meta['settings']['classes'][10] == 'sky'
    assert meta['round'] is meta['previous'] is None


def digest(content):
    return hashlib.sha256(content).hexdigest()


def test_twice_the_same_bytes(run, whole, tmp_path, tree):
    run('--threads', '0', '--writers', '1')
    assert tree(tmp_path / 'out') == tree(whole)


def test_without_confidence_and_flat(run, tmp_path, images, tree):
    (images / 'a/0.png').rename(images / 'a/other.png')
    run('--prob', 'none', '--layout', 'authors-flat')
    assert sorted(n for n in tree(tmp_path / 'out') if 'png' in n) == [
        *('0.png', '1.png', '2.png', 'other.png', 'top.png')
    ]
    meta = read_meta(tmp_path / 'out')
    assert meta['settings']['prob'] == 'none'
    assert meta['settings']['layout'] == 'authors-flat'


def test_number_of_classes(monkeypatch):
    """Eight bits, and 255 is none of the classes."""

    class Model:
        classes = ('x',) * 256

    monkeypatch.setattr(identity, 'find_test_set', lambda cfg: {})
    with pytest.raises(ValueError, match='256 classes'):
        identity.label_ids_of({}, Model, None)
    Model.classes = ('x',) * 255
    label_format, label_ids = identity.label_ids_of({}, Model, None)
    assert label_format == 'trainIds'
    assert label_ids.max() == 254
    Model.classes = ('x',)
    with pytest.raises(ValueError, match='one class, x'):
        identity.label_ids_of({}, Model, None)
