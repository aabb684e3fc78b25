"""Runs of tools/infer.py that go on, are killed, or share their files."""

import json

import pytest
from PIL import Image

from hmsa_mmseg.visualization import read_record, read_records


@pytest.fixture
def again(run, predicted):
    """Return a function that runs and tells which images were predicted."""

    def again(*saves, **kwargs):
        predicted.clear()
        run('--save', 'classes', *saves, **kwargs)
        return predicted

    return again


def test_goes_on(again, images, tmp_path, tree):
    """What is finished, whole and of the same settings is not done again."""
    out = tmp_path / 'out'
    assert again('--limit', '3') == ['0.png', '1.png', '0.png']
    assert again() == ['2.png', 'top.png']
    assert again() == []
    (out / 'classes/a/1.png').unlink()
    assert again() == ['1.png']
    (out / 'finished/top.json').write_text('{')
    assert again() == ['top.png']
    # Something more is saved; what there is stays good.
    assert len(again('color')) == 5
    assert again() == []
    # Other settings.
    before = tree(out)
    assert again('--flip', code=1) == []
    assert again('--scales', '0.5,1', code=1) == []
    assert tree(out) == before
    assert len(again('--flip', '--overwrite')) == 5
    assert again('--flip') == []
    assert len(again('--flip', '--overwrite')) == 5
    # With the color of before, which is of other settings now.
    assert len(again('color', '--flip')) == 5


def test_goes_on_with_a_report(run, images, tmp_path, predicted):
    def again(*args):
        predicted.clear()
        run('--save', 'report', *args)
        return predicted

    assert len(again()) == 5
    records = tmp_path / 'out/scale_maps'
    (records / 'a/1/overlay.jpg').unlink()
    assert again() == ['1.png']
    # The same name with another suffix.
    image = images / 'top.bmp'
    Image.open(images / 'top.png').save(image)
    (images / 'top.png').unlink()
    assert again() == ['top.bmp']
    assert read_record(records / 'top.json').image == 'top.bmp'
    assert again() == []
    # A page of two runs would be of none.
    again('--scales', '0.5,1', '--overwrite', '--limit', '2')
    found = read_records(tmp_path / 'out')
    assert [record.image for record in found] == ['a/0.png', 'a/1.png']
    assert {record.scales for record in found} == {(0.5, 1.0)}


def test_foreign_folders(run, tmp_path):
    mine = tmp_path / 'out/classes/1.png'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    assert 'was not written by this program' in run(code=1)
    assert mine.read_text() == 'mine'
    run('--overwrite', '--limit', '1')
    settings = tmp_path / 'out/infer.json'
    # The latter is that of version 0.1 of this package.
    for content in ([], dict(version=1, test_cfg=dict(memory_budget=1e9))):
        settings.write_text(json.dumps(content))
        said = run(code=1)
        assert 'infer.json is damaged, or of another version' in said
        assert '--overwrite' in said
        assert json.loads(settings.read_text()) == content
    run('--overwrite', '--limit', '1')
    assert '0 done, 1 had been' in run('--limit', '1')


def test_a_share_of_the_files(run, tmp_path):
    assert 'share 1/2: 2 done' in run('--save', 'classes', '--shard', '1/2')
    found = sorted((tmp_path / 'out/classes').rglob('*.png'))
    assert [path.name for path in found] == ['1.png', '2.png']
    assert '3 done, 2 had been finished' in run('--save', 'classes')
