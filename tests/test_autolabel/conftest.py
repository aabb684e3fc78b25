"""Data sets of images that are only listed."""

import pytest


@pytest.fixture
def make_set(tmp_path):
    """Return a function that writes images, which are only listed here.

    The k-th has k + 1 bytes more than 100.
    """

    def make(name, images, **kwargs):
        for k, image in enumerate(images):
            path = tmp_path / name / 'images' / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(101 + k))
        return dict(
            type='HMSAFolderDataset',
            data_root=str(tmp_path / name),
            classes=('road', 'tree'),
            pipeline=[dict(type='LoadImageFromFile')],
            **kwargs,
        )

    return make
