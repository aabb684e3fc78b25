"""Names of images are unique, whatever wraps their data set."""

import os
from types import SimpleNamespace

import pytest

from hmsa_mmseg.datasets import leaf_datasets
from hmsa_mmseg.visualization import ImageNames


def data_set(path):
    return SimpleNamespace(data_prefix=dict(img_path=path))


def test_path_below_the_images():
    names = ImageNames(['/data/leftImg8bit/val'])
    path = '/data/leftImg8bit/val/frankfurt/a_leftImg8bit.png'
    assert names(path) == 'frankfurt/a_leftImg8bit.png'
    assert names('/data/leftImg8bit/val/../val/b.png') == 'b.png'


def test_images_of_several_data_sets_do_not_collide():
    first, second = data_set('/data/one/val'), data_set('/data/two/val')
    wrapped = SimpleNamespace(
        dataset=SimpleNamespace(
            datasets=[first, SimpleNamespace(dataset=second)]
        )
    )
    assert list(leaf_datasets(wrapped)) == [first, second]
    names = ImageNames.of_dataset(wrapped)
    assert names('/data/one/val/a.png') == 'one/val/a.png'
    assert names('/data/two/val/a.png') == 'two/val/a.png'


@pytest.mark.parametrize('root', ['', '/data/values', 's3://bucket/val'])
def test_images_elsewhere_keep_their_path(root):
    names = ImageNames([root])
    assert names('/data/val/a/b.png') == 'data/val/a/b.png'
    assert not os.path.isabs(names('/data/val/a/b.png'))


def test_urls():
    names = ImageNames(['s3://bucket/val'])
    assert names('s3://bucket/val/a/b.png') == 'a/b.png'
    assert names('s3://other/b.png') == 's3/other/b.png'
    both = ImageNames(['s3://bucket/val', 's3://bucket/train'])
    assert both('s3://bucket/val/a.png') == 's3/bucket/val/a.png'
