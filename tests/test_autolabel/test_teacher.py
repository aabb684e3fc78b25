"""What a teacher was trained on, from checkpoints that may be foreign."""

import importlib
import json
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from hmsa_mmseg.autolabel.teacher import describe_training, literal_settings
from hmsa_mmseg.autolabel.teacher_record import (
    SEEN_FILE,
    count_seen,
    labels_root,
    read_seen,
    write_seen,
)
from hmsa_mmseg.datasets.autolabel_files import META_FILE


def config_of(dataset, **settings):
    return Config(
        dict(train_dataloader=dict(dataset=dataset), **settings),
        cfg_text='#',
        filename='given.py',
        format_python_code=False,  # which takes seconds
    )


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a checkpoint with the text of a config."""

    def save(cfg=None, name='teacher.pth', key='cfg'):
        text = cfg if isinstance(cfg, str) else cfg and cfg.pretty_text
        meta = {} if text is None else {key: text}
        path = tmp_path / name
        torch.save(dict(meta=meta, state_dict=dict(w=torch.ones(2))), path)
        return str(path)

    return save


NOTHING = Config(dict(model=dict()), cfg_text='#', filename='given.py')


def test_the_text_of_a_config_is_read_as_it_was():
    cfg = Config(
        {
            'lr': -1.5e-3,
            'name': 'a "quoted" \'text\'\nof two lines',
            'scales': (0.5, 1.0),
            'nested': [dict(a=None, b=True), dict(c={'x-y': [1, (2,)]})],
            'train_cfg': dict(),
        }
    )
    known, failed = literal_settings(cfg.pretty_text)
    assert known == cfg.to_dict()
    assert failed == {}
    for text in ('a = ', 'a\0', '(' * 9000 + ')' * 9000):
        with pytest.raises(ValueError, match='not the text of a config'):
            literal_settings(text)


@pytest.mark.parametrize(
    'expression',
    [
        '__import__("os").mkdir(PATH)',
        'dict(a=open(PATH, "w"))',
        'f"{open(PATH, \'w\')}"',
        '{open(PATH, "w"): 1}',
        '(lambda: open(PATH, "w"))()',
        'dict({**open(PATH, "w")})',
        '{[]: 1}',
    ],
)
def test_nothing_is_run(tmp_path, expression):
    path = tmp_path / 'written'
    expression = expression.replace('PATH', repr(str(path)))
    text = f'a = 1\nb = {expression}\nc = b\nlater = 2\n'
    known, failed = literal_settings(text)
    assert not path.exists()
    assert known == dict(a=1, later=2)
    assert failed.keys() == {'b', 'c'}


def test_images_of_all_data_sets_are_listed(make_set, save, tmp_path):
    fine = make_set('fine', ['a/0.png', 'b/0.png'])
    for city in ('aachen', 'bochum', 'lindau'):
        folder = tmp_path / 'leftImg8bit/train' / city
        folder.mkdir(parents=True)
        (folder / f'{city}_0_leftImg8bit.png').write_bytes(b'1')
    city = dict(
        type='HMSACityscapesDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='leftImg8bit', seg_map_path='gtFine'),
        cities={'lindau', 'bochum'},
        pipeline=[],
    )
    gone = dict(fine, data_root='/nowhere')
    cfg = config_of(
        dict(
            type='ClassUniformDataset',
            dataset=dict(type='ConcatDataset', datasets=[fine, city, gone]),
        ),
        load_from='/gone/0.pth',
    )
    found = describe_training(save(cfg), NOTHING)
    assert found.images == [
        *((101, 'a/0.png'), (102, 'b/0.png')),
        (1, 'train/bochum/bochum_0_leftImg8bit.png'),
        (1, 'train/lindau/lindau_0_leftImg8bit.png'),
    ]
    first, second, third, start = found.sets
    assert first == dict(
        type='HMSAFolderDataset',
        source='checkpoint',
        data_root=fine['data_root'],
        classes=['road', 'tree'],
        images=2,
    )
    assert (second['cities'], second['images']) == (['bochum', 'lindau'], 2)
    assert (third['data_root'], third['images']) == ('/nowhere', None)
    assert (start['type'], start['path']) == ('load_from', '/gone/0.pth')
    assert json.loads(json.dumps(found.sets)) == found.sets
    read, unlisted, started = found.notes
    assert read == 'data sets are read from the config in teacher.pth'
    assert (
        'images of HMSAFolderDataset (/nowhere) are not listed: '
        'FileNotFoundError' in unlisted
    )
    assert 'what /gone/0.pth, where its training started' in started


def test_without_a_config_the_given_one_counts(make_set, save, tmp_path):
    cfg = config_of(make_set('given', ['0.png']))
    found = describe_training(save(), cfg)
    assert [one['source'] for one in found.sets] == ['config']
    assert found.images == [(101, '0.png')]
    assert 'teacher.pth holds no config' in found.note
    assert 'given.py, which may not be' in found.note
    # Weights alone are a checkpoint too.
    torch.save(dict(w=torch.ones(2)), tmp_path / 'weights.pth')
    found = describe_training(str(tmp_path / 'weights.pth'), NOTHING)
    assert (found.sets, found.images) == ([], [])
    # A config that is not understood is unknown.
    found = describe_training(save('train_dataloader = make()'), cfg)
    assert (found.sets, found.images) == ([], [])
    assert (
        'what teacher.pth was trained on is unknown: train_dataloader of its '
        'config: line 1: malformed node' in found.note
    )
    assert '--saw can tell it' in found.note


def test_declared_data_count_too(make_set, save, tmp_path):
    cfg = config_of(
        make_set('train', ['0.png']),
        val_dataloader=dict(dataset=make_set('val', ['1.png', '2.png'])),
    )
    found = describe_training(save(cfg), cfg, saw=['config:val_dataloader'])
    assert [one['source'] for one in found.sets] == ['checkpoint', 'declared']
    assert [name for _, name in found.images] == ['0.png', '1.png', '2.png']
    with pytest.raises(
        ValueError, match=r'given\.py: other\.dataset is missing'
    ):
        describe_training(save(cfg), cfg, saw=['config:other'])
    # Also as a list of images.
    path = str(tmp_path / 'list.txt')
    write_seen(path, [(3, 'a/0.png'), (4, '1.png')])
    found = describe_training(save('x = make()'), NOTHING, [path])
    assert found.images == [(4, '1.png'), (3, 'a/0.png')]
    about = dict(type='list', source='declared', path=path, images=2)
    assert found.sets == [about]


FOREIGN = dict(type='foreign.run')


class BuildingDataset(BaseDataset):
    """As one of another package may be."""

    def __init__(self, part=None, **kwargs):
        if part is not None:
            DATASETS.build(part)
        super().__init__(**kwargs)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Return what a module that mmengine can import has been called with."""
    module = tmp_path / 'modules' / 'foreign.py'
    module.parent.mkdir()
    module.write_text('calls = []\ndef run(**kwargs): calls.append(kwargs)\n')
    monkeypatch.syspath_prepend(module.parent)
    yield importlib.import_module('foreign').calls
    del sys.modules['foreign']


@pytest.mark.parametrize(
    'dataset',
    [
        FOREIGN,
        dict(pipeline=[FOREIGN]),
        dict(backend_args=FOREIGN),
        dict(type='BuildingDataset', part=dict(FOREIGN)),
        dict(metainfo=[FOREIGN]),
        dict(type='AutoLabelDataset', like='foreign.run'),
        dict(
            type='AutoLabelDataset',
            like=dict(type='AutoLabelDataset', like=FOREIGN),
        ),
        dict(
            type='AutoLabelDataset',
            like=dict(type='CityscapesDataset', pipeline=[FOREIGN]),
        ),
    ],
)
@pytest.mark.fault(
    "a program in the config of a teacher's checkpoint",
    'nothing of it is called',
)
def test_a_foreign_checkpoint_calls_nothing(
    make_set, save, calls, monkeypatch, dataset
):
    known = DATASETS.module_dict
    monkeypatch.setitem(known, 'BuildingDataset', BuildingDataset)
    dataset = {**make_set('set', ['0.png']), **dataset}
    text = f'train_dataloader = {dict(dataset=dataset)!r}'
    assert len(describe_training(save(text), NOTHING).sets) == 1
    assert calls == []
    # mmengine would.
    DATASETS.build(FOREIGN)
    assert calls == [{}]


@pytest.mark.parametrize(
    'dataset',
    [
        3,
        dict(datasets=3),
        dict(type=['A'], source='x', images=4),
        dict(type='HMSAFolderDataset', data_prefix=dict(seg_map_path=4)),
    ],
)
def test_what_is_no_config_is_no_error(save, dataset):
    text = f'train_dataloader = {dict(dataset=dataset)!r}'
    found = describe_training(save(text), NOTHING)
    assert found.images == []
    assert [one['images'] for one in found.sets] in ([], [None])
    assert 'not ' in found.note or 'no data to train on' in found.note


def test_a_foreign_checkpoint_asks_no_server(make_set, save, monkeypatch):
    dataset = make_set('set', ['0.png'], ann_file='http://a.invalid/list.txt')
    monkeypatch.setattr(
        'urllib.request.urlopen', lambda *_: pytest.fail('asked')
    )
    found = describe_training(save(config_of(dataset)), NOTHING)
    assert found.images == []
    assert 'it is not on this machine' in found.note


@pytest.fixture
def relabelled(make_set, tmp_path):
    """Return a data set with labels of an earlier teacher, and their root."""
    labels = tmp_path / 'second' / 'round_1'
    (labels / 'masks').mkdir(parents=True)
    dataset = make_set('second', ['1.png'])
    dataset['data_prefix'] = dict(
        img_path='images', seg_map_path='round_1/masks'
    )
    return dataset, labels


def test_images_of_the_teachers_teacher_count(relabelled, save):
    dataset, labels = relabelled
    before = [dict(type='CityscapesDataset', source='declared', images=1)]
    (labels / META_FILE).write_text(json.dumps(dict(trained_on=before)))
    write_seen(labels / SEEN_FILE, [(7, 'val/0.png')])
    found = describe_training(save(config_of(dataset)), NOTHING)
    assert found.images == [(101, '1.png'), (7, 'val/0.png')]
    assert found.sets[1:] == [{**before[0], 'teacher_of': str(labels)}]


@pytest.mark.parametrize(
    ('name', 'labels'),
    [
        ('AutoLabelDataset', 'autolabels'),
        ('CityscapesAutoLabelDataset', 'refinement_final/train_extra'),
    ],
)
def test_labels_where_they_are_by_default(tmp_path, name, labels):
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / labels / META_FILE).write_text('{}')
    leaf = dict(type=name, data_root=str(tmp_path))
    assert labels_root(leaf) == tmp_path / labels
    leaf['data_prefix'] = dict(img_path='images')
    assert labels_root(leaf) is None


@pytest.mark.parametrize(
    ('meta', 'reason'),
    [
        ('{"trained_on": null}', 'trained_on is not known'),
        ('{"trained_on": 3}', 'autolabel_meta.json: TypeError'),
        ('{"trained', 'autolabel_meta.json: JSONDecodeError'),
        (
            '{"trained_on": [{"type": "A", "images": null}]}',
            'images of A were not listed',
        ),
        (
            '{"trained_on": [{"type": "A"}],'
            ' "teacher": {"checkpoint_sha256": "a"}, "mixed": ['
            '{"teacher": {"checkpoint_sha256": "a", "checkpoint": "a.pth"}},'
            '{"teacher": {"checkpoint_sha256": "b", "checkpoint": "b.pth"}}]}',
            'labels of other teachers are mixed in: b.pth',
        ),
        ('{"trained_on": [{"type": "A"}], "mixed": [3]}', 'AttributeError'),
    ],
)
def test_what_is_not_known_of_it_is_said(relabelled, save, meta, reason):
    dataset, labels = relabelled
    (labels / META_FILE).write_text(meta)
    found = describe_training(save(config_of(dataset)), NOTHING)
    assert found.images == [(101, '1.png')]
    assert found.sets[-1] == dict(
        type='unknown', teacher_of=str(labels), images=None
    )
    assert reason in found.note
    assert 'there is no teacher_images.txt' in found.note


@pytest.mark.parametrize(
    'like',
    ['CityscapesDataset', dict(type='CityscapesDataset', pipeline=[])],
)
def test_auto_labelled_images_are_listed(relabelled, save, like):
    # Labels need not be there any more.
    dataset, _ = relabelled
    dataset.update(type='AutoLabelDataset', like=like, label_format='trainIds')
    del dataset['classes']
    found = describe_training(save(config_of(dataset)), NOTHING)
    assert found.images == [(101, '1.png')]
    assert 'like' not in found.sets[0]
    assert 'not listed' not in found.note


def test_lists_are_read_as_they_were_written(tmp_path):
    path = tmp_path / 'new' / SEEN_FILE
    images = [(3, 'a b/ü.png'), (0, 'tab\there.png'), (10**12, 'c/d/e.jpg')]
    write_seen(path, images)
    assert read_seen(path) == images
    write_seen(path, [(1, 'two\nlines.png')])
    assert read_seen(path) == [(1, 'two lines.png')]
    for line in ('a.png', '-3\ta.png', '3\t'):
        path.write_text(f'3\ta.png\n{line}\n')
        with pytest.raises(ValueError, match=r'images\.txt, line 2: '):
            read_seen(path)


def test_seen_is_same_name_and_size(tmp_path):
    paths = []
    for name, size in (('a/0.png', 5), ('b/0.png', 6), ('b/1.png', 5)):
        paths.append(tmp_path / name)
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(bytes(size))
    assert count_seen(paths, [(5, 'elsewhere/0.png')]) == 1
    assert count_seen(paths, [(5, '0.png'), (5, '1.png'), (6, 'x.png')]) == 2
    assert count_seen(paths, []) == 0
    with pytest.raises(FileNotFoundError):
        count_seen([tmp_path / 'gone.png'], [])
