"""`run.json`, and the refusal to mix runs."""

import pytest

from hmsa_mmseg.visualization import FOLDER, check_run, read_run, write_run

RUN = dict(config='a.py', checkpoint='a.pth', scales=[0.5, 1.0], date='x')


def test_round_trip(tmp_path):
    assert read_run(tmp_path) is None
    check_run(tmp_path, RUN)
    write_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN


def test_a_repeated_run_is_the_same_run(tmp_path):
    write_run(tmp_path, {**RUN, 'metrics': {'mIoU': 3.0}, 'num_images': 2})
    check_run(tmp_path, {**RUN, 'date': 'y'})


@pytest.mark.parametrize(
    ('key', 'value'), [('checkpoint', 'b.pth'), ('scales', []), ('tta', 'T')]
)
def test_another_run_is_refused(tmp_path, key, value):
    write_run(tmp_path, RUN)
    with pytest.raises(ValueError, match=rf'another run \({key}: .*, now '):
        check_run(tmp_path, {**RUN, key: value})


def test_damaged_file_is_named(tmp_path):
    write_run(tmp_path, RUN)
    (tmp_path / FOLDER / 'run.json').write_text('{')
    with pytest.raises(ValueError, match=r'run.json is damaged'):
        check_run(tmp_path, RUN)
