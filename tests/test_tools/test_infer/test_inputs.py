"""Inputs of tools/infer.py and the names of their results."""

import pytest
from PIL import Image

from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.inputs import find_items


def test_names(images, tmp_path):
    folder = tmp_path / 'images'
    assert [i.name for i in find_items([str(folder)], 'out')] == [
        *('a/1', 'b/1', 'top')
    ]
    listed = tmp_path / 'lists/some.txt'
    listed.parent.mkdir()
    listed.write_text(f'../images/a/1.png\n\n{folder}/b/1.jpg\n')
    assert [i.name for i in find_items([str(listed)], 'out')] == ['a/1', 'b/1']
    # A file that is given twice is one.
    twice = [str(folder), str(images[2]), str(images[2])]
    assert len(find_items(twice, 'out')) == 3
    # Results of an earlier run beside the images.
    (folder / 'overlay').mkdir()
    Image.open(images[0]).save(folder / 'overlay/1.png')
    assert len(find_items([str(folder)], folder)) == 3
    assert len(find_items([str(folder)], 'out')) == 4
    upper = folder / 'UPPER.JPG'
    Image.open(images[0]).save(upper)
    assert find_items([str(upper)], 'out')[0].name == 'UPPER'


@pytest.mark.parametrize(
    ('names', 'named'),
    [
        (['images/a', 'images/b'], 'named 1'),
        (['images/no.png'], 'no file'),
        (['images/text.md'], 'no image or video'),
        (['empty'], 'no image or video'),
        (['empty.txt'], 'empty'),
        (['clash'], 'in one folder, clip'),
    ],
)
def test_inputs_that_make_no_sense(images, tmp_path, names, named):
    (tmp_path / 'images/text.md').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'clash/clip').mkdir(parents=True)
    (tmp_path / 'clash/clip.mp4').touch()
    (tmp_path / 'clash/clip/1.png').touch()
    with pytest.raises(InferError, match=named):
        find_items([str(tmp_path / name) for name in names], 'out')
