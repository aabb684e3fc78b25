"""What is said when a student is scored on images its teacher has seen."""

import json
import logging
from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from mmseg.registry import DATASETS

from hmsa_mmseg.autolabel import TeacherLeakageHook
from hmsa_mmseg.autolabel.teacher_record import SEEN_FILE, write_seen
from hmsa_mmseg.datasets.autolabel_files import META_FILE


@pytest.fixture
def make_set(make_set):
    """Return a function that makes a data set of so many images."""

    def make(name, count):
        images = [f'{name}_{k}.png' for k in range(count)]
        return make_set(name, images, test_mode=True)

    return make


@pytest.fixture
def make_labels(tmp_path):
    """Return a function that writes what labels say of their teacher."""

    def make(images=(), trained_on=(dict(type='A', images=3),), name='labels'):
        folder = tmp_path / name
        folder.mkdir()
        meta = dict(trained_on=list(trained_on))
        (folder / META_FILE).write_text(json.dumps(meta))
        write_seen(folder / SEEN_FILE, images)
        return str(folder)

    return make


@pytest.fixture
def look(make_set):
    """Return a function that lets a hook look at a data set of 3 images."""

    def look(hook, dataset=None, cfg=(), rank=0, mode='test'):
        if dataset is None:
            dataset = make_set('val', 3)
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
        said = []
        runner = SimpleNamespace(
            rank=rank,
            cfg=ConfigDict(cfg),
            val_loop=loop,
            test_loop=loop,
            logger=SimpleNamespace(
                warning=lambda text: said.append((logging.WARNING, text)),
                info=lambda text: said.append((logging.INFO, text)),
            ),
        )
        metrics = dict(mIoU=50.0)
        for _ in range(2):  # a validation comes again
            getattr(hook, f'before_{mode}')(runner)
            getattr(hook, f'after_{mode}_epoch')(runner, metrics)
        assert metrics.pop('mIoU') == 50.0
        assert list(metrics) in ([], ['teacher_saw_images'])
        return metrics.get('teacher_saw_images', 'nothing'), said

    return look


@pytest.mark.parametrize('mode', ['val', 'test'])
def test_images_that_the_teacher_saw(make_set, make_labels, look, mode):
    """Each counts once, also where a data set has it several times."""
    seen = [(101, 'a/val_0.png'), (103, 'val_2.png'), (1, 'val_1.png')]
    val = make_set('val', 3)
    dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[val, val]),
    )
    hook = TeacherLeakageHook(make_labels(seen))
    found, said = look(hook, dataset, mode=mode)
    assert found == 2
    ((level, text),) = said
    assert level == logging.WARNING
    assert text.startswith(f'2 of 3 images of the {mode} data were in the ')


def test_images_that_it_did_not_see(make_labels, look):
    labels = make_labels([(10, 'other.png')])
    found, said = look(TeacherLeakageHook(labels))
    assert found == 0
    assert [level for level, _ in said] == [logging.INFO]
    # Only the first process speaks.
    assert look(TeacherLeakageHook(labels), rank=1) == (0, [])


def test_data_sets_that_it_is_known_to_have_seen(make_set, look):
    saw = [make_set('train', 2), make_set('val', 3)]
    found, said = look(TeacherLeakageHook(saw=saw))
    assert found == 3
    assert said[0][1].startswith('3 of 3 images of the test data were')
    assert look(TeacherLeakageHook(saw=saw[:1]))[0] == 0
    gone = dict(saw[0], data_root='/nowhere')
    found, said = look(TeacherLeakageHook(saw=gone))
    assert found is None
    assert (
        'images of saw=HMSAFolderDataset (/nowhere) are not listed: '
        'FileNotFoundError' in said[0][1]
    )


def test_unknown_is_no_silence(tmp_path, make_labels, look):
    folder = tmp_path / 'unknown'
    folder.mkdir()
    (folder / META_FILE).write_text('{"trained_on": null}')
    found, said = look(TeacherLeakageHook([str(folder)]))
    assert found is None
    ((level, text),) = said
    assert level == logging.WARNING
    assert f'is unknown: not all that the teacher of {folder} was ' in text
    assert 'trained_on is not known; there is no teacher_images.txt' in text
    # What is known is a lower bound then.
    known = make_labels([(101, 'val_0.png')])
    found, said = look(TeacherLeakageHook([known, str(folder)]))
    assert found == 1
    assert said[0][1].startswith('at least 1 of 3 images')
    # A run is not stopped by data sets of any other kind.
    found, said = look(TeacherLeakageHook(known), object())
    assert found is None
    assert 'is unknown: ' in said[0][1]


def test_folders_are_found_beside_the_labels(make_set, make_labels, look):
    root = make_labels([(102, 'val_1.png')], name='round_1')
    fine, extra = make_set('train', 1), make_set('extra', 1)
    extra['data_prefix'] = dict(
        img_path='images', seg_map_path=f'{root}/extra'
    )
    both = dict(type='ConcatDataset', datasets=[fine, extra])
    cfg = dict(train_dataloader=dict(dataset=both))
    assert look(TeacherLeakageHook(), cfg=cfg)[0] == 1
    both['datasets'].pop()
    # The latter is that of a config without training data.
    for cfg in (dict(train_dataloader=dict(dataset=both)), {}):
        found, said = look(TeacherLeakageHook(), cfg=cfg)
        assert found is None
        assert 'no labels of train_dataloader have an autolabel' in said[0][1]
