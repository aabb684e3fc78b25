"""`AutoLabelDataset`: any classes, beside any finely labelled data set."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS

CLASSES = ('road', 'tree', 'sky')
PALETTE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
SIZE = (4, 6)
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=3),
    dict(type='UniteCoarseLabels', classes=(1,)),
    dict(type='ApplyConfidence', threshold=0.5),
]
NAMES = ('a', 'sub/a', 'sub/b')


def build(root, **kwargs):
    cfg = dict(type='AutoLabelDataset', data_root=str(root), pipeline=PIPELINE)
    return DATASETS.build({**cfg, **kwargs})


def settings(**kwargs):
    return dict(
        label_format='trainIds',
        label_ids=[0, 1, 2],
        prob='floor255',
        layout='folders',
        classes=CLASSES,
        palette=PALETTE,
        **kwargs,
    )


def write_meta(folder, version=1, **changes):
    meta = dict(
        version=version, teacher={}, settings={**settings(), **changes}
    )
    (folder / 'autolabel_meta.json').write_text(json.dumps(meta))


def paths(dataset, root, key):
    infos = map(dataset.get_data_info, range(len(dataset)))
    return [info[key].replace(f'{root}/', '') for info in infos]


@pytest.fixture
def root(tmp_path, write_png):
    """Three images, the first row of each label sure, the second not."""
    for k, name in enumerate(NAMES):
        suffix = ('.jpg', '.jpeg', '.png')[k]
        write_png(tmp_path / f'images/{name}{suffix}', np.zeros((*SIZE, 3)))
        write_png(tmp_path / f'autolabels/{name}.png', np.full(SIZE, k))
        prob = np.full(SIZE, 127)
        prob[0] = 128
        write_png(tmp_path / f'autolabels/{name}_prob.png', prob)
    return tmp_path


def test_what_the_tool_writes(root):
    write_meta(root / 'autolabels')
    dataset = build(root)
    assert paths(dataset, root, 'seg_map_path') == [
        f'autolabels/{name}.png' for name in NAMES
    ]
    assert paths(dataset, root, 'prob_map_path') == [
        f'autolabels/{name}_prob.png' for name in NAMES
    ]
    assert dataset.metainfo['classes'] == CLASSES
    assert dataset.metainfo['palette'] == PALETTE
    for k in range(3):
        label = dataset[k]['gt_seg_map']
        assert (label[0] == k).all()
        assert (label[1:] == 255).all()


def test_label_ids_and_other_classes(root):
    def found(**kwargs):
        dataset = build(root, **kwargs)
        return [dataset[k]['gt_seg_map'][0, 0] for k in range(3)]

    options = dict(label_format='labelIds', label_ids=[2, 0, 1])
    assert found(classes=CLASSES, **options) == [1, 2, 0]
    assert found(classes=CLASSES, label_format='trainIds') == [0, 1, 2]
    write_meta(root / 'autolabels', **options)
    assert found() == [1, 2, 0]
    write_meta(root / 'autolabels')
    # Fewer, in another order.
    assert found(classes=('sky', 'road')) == [1, 255, 0]
    same = dict(label_format='trainIds', label_ids=(0, 1, 2), layout='folders')
    assert found(prob=True, **same) == [0, 1, 2]


LABEL_IDS = dict(classes=CLASSES, label_format='labelIds')


@pytest.mark.parametrize(
    ('meta', 'kwargs', 'match'),
    [
        (None, dict(classes=CLASSES), r'label_format is missing.*autolab'),
        (None, dict(label_format='trainIds'), 'classes is missing'),
        (None, LABEL_IDS, 'without label_ids'),
        (None, dict(LABEL_IDS, label_ids=[0, 1, 1]), '3 different values'),
        (None, dict(LABEL_IDS, label_ids=[0, 1, 255]), '3 different values'),
        (None, dict(layout='flat'), "layout='flat'; expected one of"),
        ({}, dict(classes=('sky', 'car')), r"have no \['car'\] \(1 of 2"),
        ({}, dict(label_format='labelIds'), r'label_format=.*_meta.json says'),
        ({}, dict(prob=False), r'prob=.*_meta.json says'),
        ({}, dict(data_prefix=dict(img_path='images')), 'path is missing'),
        ({}, dict(skip_list=['a.jpg', 'a.jpeg', 'b.png']), '3 of 3 images'),
        (dict(version=2), {}, 'version=2; expected 1'),
        (dict(label_ids=[0]), {}, '1 label_ids of 3 classes'),
        (dict(label_ids='x'), {}, 'settings are damaged'),
        (dict(layout='flat'), {}, "layout='flat'; expected one of"),
    ],
)
@pytest.mark.fault(
    'settings of a data set that contradict those of its auto-labels',
    'refused, with both',
)
def test_settings_that_make_no_sense(root, meta, kwargs, match):
    if meta is not None:
        write_meta(root / 'autolabels', **meta)
    with pytest.raises(ValueError, match=match):
        build(root, **kwargs)


def test_settings_one_folder_above(root):
    # Labels of one split of several, which were made together.
    write_meta(root / 'autolabels')
    prefix = dict(img_path='images/sub', seg_map_path='autolabels/sub')
    dataset = build(root, data_prefix=prefix)
    assert all((dataset[k]['gt_seg_map'][0] == k + 1).all() for k in (0, 1))
    (root / 'autolabels/sub/autolabel_meta.json').write_text('{"version": 1')
    with pytest.raises(
        ValueError, match=r'sub/autolabel_meta.json is damaged'
    ):
        build(root, data_prefix=prefix)


def test_without_confidence(root):
    for path in root.rglob('*_prob.png'):
        path.unlink()
    match = r'3 of 3 images have no confidence map.*a_prob.png'
    options = dict(classes=CLASSES, label_format='trainIds')
    with pytest.raises(FileNotFoundError, match=match):
        build(root, **options)
    assert (build(root, prob=False, **options)[1]['gt_seg_map'] == 1).all()
    write_meta(root / 'autolabels', prob='none')
    dataset = build(root)
    assert 'prob_map_path' not in dataset.get_data_info(0)
    assert (dataset[1]['gt_seg_map'] == 1).all()


def test_one_flat_folder(root):
    flat = root / 'flat'
    flat.mkdir()
    for name in ('a', 'b'):
        for kind in ('', '_prob'):
            path = root / f'autolabels/sub/{name}{kind}.png'
            path.rename(flat / path.name)
    options = dict(
        classes=CLASSES, label_format='trainIds', layout='authors-flat'
    )
    prefix = dict(img_path='images', seg_map_path='flat')
    with pytest.raises(ValueError, match=r"'a.jpg' and 'sub/a.jpeg'.*share"):
        build(root, data_prefix=prefix, **options)
    (root / 'images/a.jpg').unlink()
    dataset = build(root, data_prefix=prefix, **options)
    expected = ['flat/a.png', 'flat/b.png']
    assert paths(dataset, root, 'seg_map_path') == expected
    # A list of images, by their names with or without suffix.
    (root / 'some.txt').write_text('sub/b\na.jpeg\n')
    (root / 'images/sub/a.jpeg').rename(root / 'images/a.jpeg')
    dataset = build(root, data_prefix=prefix, ann_file='some.txt', **options)
    assert paths(dataset, root, 'seg_map_path') == expected


@pytest.mark.fault(
    'auto-labels or confidences that are missing',
    "refused with the reasons noted, or left out with missing='drop'",
)
def test_lacking_files(root, logged, write_png):
    write_meta(root / 'autolabels')
    write_png(root / 'coarse/sub/b.png', np.ones(SIZE))
    (root / 'autolabels/a.png').unlink()
    (root / 'autolabels/sub/a_prob.png').unlink()
    failure = dict(name='a', image='a.jpg', reason='grey', error='one channel')
    (root / 'autolabels/failures.jsonl').write_text(
        json.dumps(failure) + '\n{"name": "cut o'
    )
    match = r"1 of 3 images have no label.*'drop'.*1 of them.*failures.*: grey"
    with pytest.raises(FileNotFoundError, match=match):
        build(root)
    assert len(build(root, test_mode=True)) == 3
    dataset = build(root, missing='drop')
    assert paths(dataset, root, 'seg_map_path') == ['autolabels/sub/b.png']
    lines = logged('INFO')
    assert '1 of 3 images have no label. 1 of them are in' in lines[0]
    assert '1 of 2 images have no confidence map' in lines[1]

    (root / 'autolabels/sub/b.png').unlink()
    # Of a process that still runs.
    failure = dict(name='sub/b', image='b.png', reason='empty', error='')
    (root / 'autolabels/failures.1-of-3.jsonl').write_text(json.dumps(failure))
    with pytest.raises(FileNotFoundError, match=r"2 of them .*'.*/a.png'"):
        build(root)


def test_a_label_that_is_the_confidence_of_another(root, write_png):
    write_meta(root / 'autolabels')
    write_png(root / 'images/a_prob.jpg', np.zeros((*SIZE, 3)))
    write_png(root / 'autolabels/a_prob_prob.png', np.full(SIZE, 255))
    with pytest.raises(ValueError, match=r"a_prob.png' would be both.*a.jpg"):
        build(root)


@pytest.fixture
def fine(root, write_png):
    """Config of a fine set like ADE20K: files with zero for nothing."""
    write_png(root / 'fine/images/f.jpg', np.zeros((*SIZE, 3)))
    write_png(root / 'fine/labels/f.png', np.full(SIZE, 2))
    # Coarse labels of the other images, stored as the fine ones.
    for name in NAMES:
        coarse = np.zeros(SIZE)
        coarse[:, :2] = 2
        write_png(root / f'coarse/{name}.png', coarse)
    return dict(
        type='BaseSegDataset',
        data_root=str(root / 'fine'),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        reduce_zero_label=True,
        pipeline=PIPELINE,
    )


def test_beside_a_fine_set_with_other_files(root, fine, write_png):
    options = dict(label_format='labelIds', label_ids=[2, 0, 1])
    write_meta(root / 'autolabels', **options)
    prefix = dict(
        img_path='images', seg_map_path='autolabels', coarse_map_path='coarse'
    )
    part = build(root, like=fine, data_prefix=prefix)
    both = ConcatDataset([DATASETS.build(fine), part])
    assert both.metainfo['reduce_zero_label'] is True
    assert (both[0]['gt_seg_map'] == 1).all()
    # Its values are mapped and not shifted; the coarse ones are shifted.
    found = [both[k]['gt_seg_map'][0].tolist() for k in (1, 2, 3)]
    assert found == [[value] * 6 for value in (1, 2, 0)]
    with pytest.raises(ValueError, match=r"like together with \['classes'\]"):
        build(root, like=fine, classes=CLASSES)

    label = np.full(SIZE, 2)
    label[0, 5] = 0
    write_png(root / 'autolabels/a.png', label)
    assert part[0]['gt_seg_map'][0].tolist() == [1, 1, 0, 0, 0, 1]
    # mmseg's loader takes reduce_zero_label of the first sample it sees.
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    stock = build(root, like=fine, pipeline=load)
    found = [stock[k]['gt_seg_map'][0, 0] for k in range(3)]
    assert found == [0, 2, 0]
    (root / 'coarse/sub/a.png').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'have no coarse label.*sub/a'
    ):
        build(root, like=fine, data_prefix=prefix)


def test_like_the_class_of_a_data_set(root):
    cls = DATASETS.get('PascalContextDataset59')
    classes = cls.METAINFO['classes']
    write_meta(
        root / 'autolabels',
        classes=classes,
        label_ids=[*range(len(classes))],
        palette=cls.METAINFO['palette'],
    )
    part = build(root, like=cls.__name__, pipeline=[])
    # It wants a folder of images even so.
    prefix = dict(img_path=str(root))
    theirs = cls(data_prefix=prefix, lazy_init=True)
    # ConcatDataset compares types, too.
    assert part.metainfo == theirs.metainfo
    assert type(part.metainfo['palette']) is type(theirs.metainfo['palette'])
    assert part.metainfo['reduce_zero_label'] is True
    assert part.get_data_info(0)['reduce_zero_label'] is False
    assert part.get_data_info(0)['label_map'][58] == 58


def test_the_config_in_the_documentation(root, write_png):
    page = Path(__file__).parents[2] / 'docs/coarse_data.md'
    (text,) = re.findall(
        r'<!-- config -->\n```python\n(.*?)```', page.read_text(), re.S
    )
    assert text.count("'my_data'") == 2
    cfg = Config.fromstring(text.replace("'my_data'", repr(str(root))), '.py')
    write_png(root / 'images/train/f.jpg', np.zeros((*SIZE, 3)))
    write_png(root / 'masks/train/f.png', np.full(SIZE, 2))
    for path in (root / 'images/a.jpg', *(root / 'images/sub').iterdir()):
        new = root / 'unlabelled' / path.relative_to(root / 'images')
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    write_meta(root / 'autolabels')
    (root / 'autolabels/a.png').unlink()
    # Of the two that are left one is sure.
    write_png(root / 'autolabels/sub/b_prob.png', np.full(SIZE, 230))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    labels = [s['data_samples'].gt_sem_seg.data for s in dataset]
    found = [{*label.unique().tolist()} for label in labels]
    assert found == [{2}, {255}, {2}]
