"""Names of images are unique, whatever wraps their data set."""

from types import SimpleNamespace

import pytest

from hmsa_mmseg.visualization import ImageNames


def test_images_of_several_data_sets_do_not_collide():
    first, second = (
        SimpleNamespace(data_prefix=dict(img_path=f'/data/{name}/val'))
        for name in ('one', 'two')
    )
    wrapped = SimpleNamespace(
        dataset=SimpleNamespace(
            datasets=[first, SimpleNamespace(dataset=second)]
        )
    )
    names = ImageNames.of_dataset(wrapped)
    assert names('/data/one/val/a.png') == 'one/val/a.png'
    assert names('/data/two/val/a.png') == 'two/val/a.png'


@pytest.mark.parametrize(
    ('roots', 'path', 'name'),
    [
        (['/data/val'], '/data/val/city/a.png', 'city/a.png'),
        (['/data/val'], '/data/val/../val/b.png', 'b.png'),
        ([''], '/data/val/b.png', 'data/val/b.png'),
        (['/data/values'], '/data/val/b.png', 'data/val/b.png'),
        (['s3://bucket/val'], '/data/val/b.png', 'data/val/b.png'),
        (['s3://bucket/val'], 's3://bucket/val/a/b.png', 'a/b.png'),
        (['s3://bucket/val'], 's3://other/b.png', 's3/other/b.png'),
        (['s3://b/val', 's3://b/train'], 's3://b/val/a.png', 's3/b/val/a.png'),
    ],
)
def test_names(roots, path, name):
    assert ImageNames(roots)(path) == name
