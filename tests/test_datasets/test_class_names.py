"""Names and colours of classes, as a user writes them down."""

import pytest

from hmsa_mmseg.datasets.class_names import read_classes


def test_classes_are_read(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('road 128 64 128\n\ntraffic light 250 170 30\n')
    assert read_classes(str(path)) == (
        ('road', 'traffic light'),
        [[128, 64, 128], [250, 170, 30]],
    )
    path.write_text('lane 1\nlane 2\n')
    assert read_classes(str(path)) == (('lane 1', 'lane 2'), None)
    assert read_classes(' a, b ') == (('a', 'b'), None)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('road\n', 'two or more'),
        ('road\nroad\n', 'different'),
        ('road 1 2 3\ntree\n', '1 of 2 classes have a colour'),
        ('road 1 2 300\ntree 1 2 3\n', '0 to 255'),
    ],
)
def test_classes_that_make_no_sense(text, message, tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(str(path))
