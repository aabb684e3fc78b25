"""mmseg's test.py says how many images the student's teacher has seen."""

import json

import pytest

from hmsa_mmseg.autolabel.teacher_record import SEEN_FILE, write_seen
from hmsa_mmseg.datasets.autolabel_files import META_FILE


@pytest.fixture
def run_test(run_stock, config_file, random_weights, tmp_path, monkeypatch):
    """Return a function that tests a student with labels of a teacher."""
    # Laying out a config takes yapf seconds, each time it is written.
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode',
        lambda text, **kwargs: (text, True),
    )

    def run(name, images):
        labels = tmp_path / name / 'labels'
        labels.mkdir(parents=True)
        if images is not None:
            write_seen(labels / SEEN_FILE, images)
        meta = dict(trained_on=[dict(type='A', images=3)] if images else None)
        (labels / META_FILE).write_text(json.dumps(meta))
        config = tmp_path / name / 'student.py'
        config.write_text(
            f'_base_ = {str(config_file)!r}\n'
            f'experiment_name = {name!r}\n'
            "custom_hooks = [dict(type='TeacherLeakageHook',\n"
            f'    folders={str(labels)!r})]\n'
        )
        work_dir = tmp_path / name / 'work'
        run_stock('test.py', config, random_weights, '--work-dir', work_dir)
        (result,) = work_dir.glob('*/*.json')
        (log,) = work_dir.glob('*/*.log')
        return json.loads(result.read_text()), log.read_text()

    return run


def test_the_result_holds_what_the_teacher_saw(run_test, val_images):
    # The images have been moved, as their paths say.
    seen = [
        (image.stat().st_size, f'elsewhere/{image.name}')
        for image in val_images[:2]
    ]
    result, log = run_test('leaked', seen)
    assert result['teacher_saw_images'] == 2
    assert 'mIoU' in result
    assert log.count('2 of 3 images of the test data were in the train') == 1
    assert log.count('teacher_saw_images: 2.0000') == 1

    # Of the same names in another data set.
    result, log = run_test('clean', [(1, image.name) for image in val_images])
    assert result['teacher_saw_images'] == 0
    assert 'none of 3 images of the test data was in' in log


def test_the_result_says_that_it_is_not_known(run_test):
    result, log = run_test('unknown', None)
    assert result['teacher_saw_images'] is None
    assert 'whether images of the test data were in' in log
