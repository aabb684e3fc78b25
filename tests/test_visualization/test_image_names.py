"""Names of images are unique, whatever wraps their data set."""

from types import SimpleNamespace

import pytest

from hmsa_mmseg.visualization.image_names import ImageNames


@pytest.mark.parametrize(
    ('roots', 'path', 'name'),
    [
        (['/data/val'], '/data/val/city/a.png', 'city/a.png'),
        (['/data/val'], '/data/val/../val/b.png', 'b.png'),
        ([''], '/data/val/b.png', 'data/val/b.png'),
        (['s3://bucket/val'], 's3://bucket/val/a/b.png', 'a/b.png'),
        (['s3://bucket/val'], 's3://other/b.png', 's3/other/b.png'),
        (['s3://b/val', 's3://b/train'], 's3://b/val/a.png', 's3/b/val/a.png'),
        (['/data/1', '/data/2/val'], '/data/2/val/a.png', '2/val/a.png'),
    ],
)
def test_names(roots, path, name):
    parts = [
        SimpleNamespace(data_prefix=dict(img_path=root)) for root in roots
    ]
    # However they are wrapped.
    parts[-1] = SimpleNamespace(dataset=parts[-1])
    wrapped = SimpleNamespace(dataset=SimpleNamespace(datasets=parts))
    assert ImageNames(wrapped)(path) == name
