"""mmseg's MMSegInferencer with models of this package, as it is."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer
from PIL import Image

from hmsa_mmseg.visualization import draw_pictures


@pytest.fixture(scope='module')
def inferencer(config_file, trained):
    return MMSegInferencer(
        str(config_file), str(trained.checkpoint), device='cpu'
    )


@pytest.fixture
def expected(inferencer, val_images):
    """Classes of each image, from plain calls of the model."""
    maps = []
    for image in val_images:
        pixels = torch.from_numpy(np.array(Image.open(image)))
        pixels = pixels.permute(2, 0, 1)[None].flip(1)  # BGR, as read
        data = inferencer.model.data_preprocessor(dict(inputs=pixels))
        with torch.no_grad():
            logits = inferencer.model.encode_decode(data['inputs'])
        maps.append(logits[0].argmax(0).numpy())
    return maps


def test_one_file_or_array(inferencer, val_images, expected, same_maps):
    """Of a single input the results are no lists."""
    file = str(val_images[0])
    array = np.array(Image.open(file))[..., ::-1].copy()
    for single in (file, array):
        result = inferencer(single, return_vis=True)
        assert same_maps([result['predictions']], expected[:1]) > 0.999
        assert result['visualization'].shape == (64, 128, 3)


def test_lists_and_folders(inferencer, val_images, expected, same_maps):
    files = [str(image) for image in val_images]
    arrays = [np.array(Image.open(file))[..., ::-1].copy() for file in files]
    for inputs in (files, arrays):
        found = inferencer(inputs, batch_size=2)['predictions']
        assert same_maps(found, expected) > 0.999
    # A folder is not sorted, and the results do not tell of which file
    # they are: return_datasamples does.
    results = inferencer(str(val_images[0].parent), return_datasamples=True)
    by_file = {r.img_path: r.pred_sem_seg.data[0].numpy() for r in results}
    assert by_file.keys() == {*files}
    assert same_maps([by_file[file] for file in files], expected) > 0.999


def test_out_dir(inferencer, val_images, expected, same_maps, tmp_path):
    """Classes are named by the order of all calls, drawings by the file."""
    start = inferencer.num_pred_imgs
    out = inferencer(
        [str(image) for image in val_images], out_dir=str(tmp_path)
    )
    names = [f'{start + i:08d}_pred.png' for i in range(len(val_images))]
    assert sorted(p.name for p in (tmp_path / 'pred').iterdir()) == names
    found = [np.array(Image.open(tmp_path / 'pred' / name)) for name in names]
    assert same_maps(found, out['predictions']) == 1
    assert same_maps(found, expected) > 0.999
    drawn = sorted(path.name for path in (tmp_path / 'vis').iterdir())
    assert drawn == [image.name for image in val_images]


def test_weights_alone(trained, val_images, expected, same_maps):
    """The checkpoint carries the config, and that what to import."""
    alone = MMSegInferencer(None, str(trained.checkpoint), device='cpu')
    found = alone([str(image) for image in val_images])['predictions']
    assert same_maps(found, expected) > 0.999


def test_attention(config_file, trained, val_images):
    """With a config that asks for it, results hold what pictures show."""
    cfg = Config.fromfile(config_file)
    cfg.model.test_cfg.update(scales=(0.5, 1.0), scale_maps=True)
    inferencer = MMSegInferencer(cfg, str(trained.checkpoint), device='cpu')
    file = str(val_images[0])
    result = inferencer(file, return_datasamples=True)
    meta = inferencer.model.dataset_meta
    pictures = draw_pictures(
        np.array(Image.open(file)), result, meta['classes'], meta['palette']
    )
    assert {'overlay', 'attn_0.5', 'weight_1', 'winning_scale'} <= {*pictures}


def test_sizes_in_one_batch(inferencer, val_images):
    """Refused by mmseg's preprocessor without a `test_cfg`; see the docs."""
    small = np.zeros((64, 100, 3), np.uint8)
    large = np.zeros((64, 128, 3), np.uint8)
    with pytest.raises(AssertionError, match='same'):
        inferencer([small, large], batch_size=2)
    found = inferencer([small, large])['predictions']
    assert [classes.shape for classes in found] == [(64, 100), (64, 128)]
