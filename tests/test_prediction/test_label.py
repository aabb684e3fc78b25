"""What tools/autolabel.py writes, and what a student is then trained on."""

import hashlib
import json
import re
import struct
import zlib

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from hmsa_mmseg.autolabel.label_folder import label_ids_of
from hmsa_mmseg.autolabel.meta import read_meta
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.loading import read_config

from .conftest import NAMES, SCRIPTS_IDS, TABLE, draw, read, save, tree


def assert_labels(folder, name, probs, label_ids):
    label = read(folder / f'{name}.png')
    prob = read(folder / f'{name}_prob.png')
    assert label.dtype == prob.dtype == np.uint8
    assert label.shape == prob.shape == probs.shape[1:]
    # Rounding may move a pixel from one class to another, or its confidence
    # over a step.
    assert np.mean(label == np.array(label_ids)[probs.argmax(0)]) > 0.999
    floor = np.floor(probs.max(0).astype(np.float64) * 255)
    assert np.abs(prob - floor).max() <= 1
    assert np.mean(prob == floor) > 0.99


def test_labels_against_the_definition(network, whole):
    """Label ids as cityscapesScripts numbers them; largest probability."""
    entries = re.findall(r'([a-z ]+?) (\d+) (\d+)', TABLE.replace('\n', ' '))
    cityscapes = DATASETS.get('HMSACityscapesDataset').METAINFO['classes']
    assert [name.strip() for name, _, _ in entries] == [*cityscapes]
    found = set()
    for seed, name in enumerate(NAMES):
        probs = network()(draw(seed)).softmax(dim=1)[0].numpy()
        assert_labels(whole, name, probs, SCRIPTS_IDS)
        found |= {*np.unique(probs.argmax(0))}
    # Something was to be mapped.
    assert len(found) >= 5


def test_scales_flip_and_train_ids(label, network, tmp_path):
    options = ('--scales', '1,0.5', '--flip', '--label-format', 'trainIds')
    label(*options, '--limit', '1')
    logits = network(0.5, 1.0)
    logits = (logits(draw(0)) + logits(draw(0), flip=True)) / 2
    probs = logits.softmax(dim=1)[0].numpy()
    assert_labels(tmp_path / 'out', 'a/0', probs, range(19))
    settings = read_meta(tmp_path / 'out')['settings']
    assert settings['scales'] == [0.5, 1.0]
    assert settings['flip'] is True
    assert settings['label_ids'] == [*range(19)]
    assert not (tmp_path / 'out/a/1.png').exists()


def test_no_logits_of_whole_images(label, monkeypatch):
    """Classes and confidence are decided a few rows at a time."""
    seen = []
    predict = MultiScaleAttentionSegmentor.predict

    def looking(self, inputs, data_samples=None):
        results = predict(self, inputs, data_samples)
        seen.append((self.test_cfg.classes_only, {*results[0].keys()}))
        return results

    monkeypatch.setattr(MultiScaleAttentionSegmentor, 'predict', looking)
    option = 'model.test_cfg.scale_maps=True'
    label('--limit', '1', '--cfg-options', option)
    assert seen == [(True, {'pred_sem_seg', 'confidence'})]


def test_meta_manifest_and_files(teacher, whole):
    found = tree(whole)
    pairs = {f'{n}{end}.png' for n in NAMES for end in ('', '_prob')}
    assert {*found} == pairs | {
        *('autolabel_meta.json', 'images.jsonl', 'manifest.jsonl'),
        'failures.jsonl',
    }
    manifest = [
        json.loads(line) for line in found['manifest.jsonl'].splitlines()
    ]
    assert [line['name'] for line in manifest] == [*NAMES]
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
    teacher_digest = digest(teacher.checkpoint.read_bytes())
    assert meta['teacher']['checkpoint_sha256'] == teacher_digest
    assert meta['images'] == dict(source='/images', count=5)
    assert meta['settings']['label_format'] == 'labelIds'
    assert meta['settings']['label_ids'] == SCRIPTS_IDS
    assert meta['round'] is meta['previous'] is None


def digest(content):
    return hashlib.sha256(content).hexdigest()


def test_number_of_classes(teacher):
    """Eight bits, and 255 is none of the classes."""
    cfg = read_config(str(teacher.config))

    with pytest.raises(ValueError, match='256 classes'):
        label_ids_of(cfg, ['x'] * 256, None)
    label_format, label_ids = label_ids_of(cfg, ['x'] * 255, None)
    assert (label_format, label_ids.max()) == ('trainIds', 254)
    with pytest.raises(ValueError, match='one class, x'):
        label_ids_of(cfg, ['x'], None)


@pytest.mark.parametrize('layout', ['folders', 'authors-flat'])
def test_what_a_student_is_trained_on(label, network, tmp_path, layout):
    """The data set gives the teacher's classes above a threshold."""
    root = tmp_path / 'data'
    images = 'leftImg8bit/train_extra'
    cities = ('aachen/aachen_000000', 'bochum/bochum_000001')
    for seed, name in enumerate(cities):
        save(root / images / f'{name}_000019_leftImg8bit.png', seed)
    label('--layout', layout, source=root / images, out='data/labels')
    for threshold in (0.0, 0.5, 0.9):
        dataset = DATASETS.build(
            dict(
                type='CityscapesAutoLabelDataset',
                data_root=str(root),
                data_prefix=dict(img_path=images, seg_map_path='labels'),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadSegLabels', num_classes=19),
                    dict(type='ApplyConfidence', threshold=threshold),
                ],
            )
        )
        assert len(dataset) == 2
        ignored = 0
        for seed, sample in enumerate(dataset):
            probs = network()(draw(seed)).softmax(1)[0].numpy()
            # As the authors store and compare it.
            stored = (probs.max(axis=0) * 255).astype(np.uint8) / 255
            expected = np.where(stored < threshold, 255, probs.argmax(axis=0))
            found = sample['gt_seg_map']
            assert np.mean(found == expected) > 0.998
            assert threshold or len(np.unique(found)) >= 4
            ignored += (found == 255).sum()
        assert (ignored > 0) == (threshold > 0)


def as_deep(image):
    return Image.fromarray(np.array(image.convert('L')).astype('u2') * 257)


def huge(path):
    """A PNG file whose head promises more pixels than any reader takes."""

    def chunk(kind, data):
        crc = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I4s', len(data), kind) + data + crc

    head = struct.pack('>IIBBBBB', 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = chunk(b'IHDR', head), chunk(b'IDAT', b'x'), chunk(b'IEND', b'')
    path.write_bytes(b''.join((b'\x89PNG\r\n\x1a\n', *chunks)))


def with_alpha(image):
    image = image.convert('RGBA')
    image.putalpha(99)
    return image


#: Files, and the pixels of each as made of a good image, or its content.
FAULTS = {
    'undecodable.png': b'no image at all',
    'empty.png': b'',
    'truncated.png': lambda image: image,  # is cut below
    'grey.jpg': lambda image: image.convert('L'),
    'grey.tif': lambda image: image.convert('L'),
    'alpha.webp': with_alpha,
    '16-bit.png': as_deep,
    '16-bit.tif': as_deep,
    'constant.png': lambda image: Image.new('RGB', image.size),
}
GOOD = {
    **dict.fromkeys(('jpg', 'bmp', 'webp', 'tif'), lambda image: image),
    'png': lambda image: image.quantize(16),
    'jpeg': lambda image: image.convert('CMYK'),
    # A single pixel says nothing.
    'ppm': lambda image: image.resize((1, 1)),
}


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.fault(
    'images that are empty, cut, no image, or too large: autolabel',
    'listed with the reason; the others are labelled',
)
@pytest.mark.fault(
    'images that are grey, with alpha, of 16 bits, of one colour',
    'listed as such; labelled with --allow',
)
def test_images_that_fail(label, tmp_path):
    """All in one run: no output, a line, and the others are done.

    Kinds are told from the file, not from what loaders make of it.
    """
    images = tmp_path / 'kinds'
    image = Image.fromarray(draw(7))
    good = {f'good.{suffix}': make for suffix, make in GOOD.items()}
    names = {}
    for name, make in {**FAULTS, **good}.items():
        kind, suffix = name.split('.')
        # Names are without suffix.
        path = images / f'{suffix}/{kind}.{suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(make, bytes):
            path.write_bytes(make)
        else:
            make(image).save(path)
        if kind != 'good':
            names[f'{suffix}/{kind}'] = kind
    path = images / 'png/truncated.png'
    path.write_bytes(path.read_bytes()[:-200])
    huge(images / 'png/huge.png')
    names['png/huge'] = 'undecodable'
    said = label(source=images, code=1)
    failures = read_lines(tmp_path / 'out/failures.jsonl')
    assert {line['name']: line['reason'] for line in failures} == names
    for line in failures:
        assert line['image'].startswith(f'{images}/{line["name"]}.')
        assert line['image'] in line['error']
        assert '\n' not in line['error']
    assert '10 images failed' in said
    assert {name for name in tree(tmp_path / 'out') if '.png' in name} == {
        f'{suffix}/good{end}.png' for suffix in GOOD for end in ('', '_prob')
    }
    assert read(tmp_path / 'out/ppm/good_prob.png').shape == (1, 1)
    kinds = ('grey', 'alpha', '16-bit', 'constant')
    label('--allow', *kinds, source=images, code=1)
    reasons = {
        x['reason'] for x in read_lines(tmp_path / 'out/failures.jsonl')
    }
    assert reasons == {'empty', 'truncated', 'undecodable'}


def test_options_that_make_no_sense(label, tmp_path):
    test_set, names = 'test_dataloader.dataset', 'a,b,c,d,e,f,g,h,i,j,k,l,m'
    for options, named in (
        (
            '--label-format labelIds --cfg-options '
            f'{test_set}.type=BaseSegDataset '
            f'{test_set}.metainfo.classes={names},n,o,p,q,r,s',
            '--label-format labelIds',
        ),
        ('--check config:none', 'none.dataset is missing'),
        ('--check .', '--check .: expected a data set of the config'),
        ('--threshold 1.5', 'threshold=1.5'),
    ):
        assert named in label(*options.split(), code=1)
        assert not (tmp_path / 'out').exists()
