"""mmseg's smaller tools and its Python interfaces, as they are."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model
from PIL import Image

from hmsa_mmseg.visualization import draw_pictures


@pytest.fixture
def model(config_file, trained):
    return init_model(str(config_file), str(trained.checkpoint), 'cpu')


@pytest.fixture
def expected(model, val_images):
    """Return the predicted maps, image by image."""
    return [
        inference_model(model, str(image)).pred_sem_seg.data[0].numpy()
        for image in val_images
    ]


def test_benchmark(run_tool, config_file, trained, tmp_path):
    cfg = Config.fromfile(config_file)
    cfg.model.test_cfg.scales = (0.5, 1.0)
    # The tool measures 200 images, no fewer.
    loader = cfg.test_dataloader
    loader.dataset = dict(
        type='RepeatDataset', times=67, dataset=loader.dataset
    )
    cfg.dump(tmp_path / 'repeated.py')
    run_tool(
        *('analysis_tools/benchmark.py', 'repeated.py', trained.checkpoint),
        *('--work-dir', 'work'),
        cwd=tmp_path,
    )
    (file,) = tmp_path.glob('work/fps_*.json')
    result = json.loads(file.read_text())
    assert result['average_fps'] > 0
    assert result['average_fps'] == result['overall_fps_1']


def test_inference_model_takes_files_arrays_and_batches(
    model, val_images, expected, same_maps
):
    names = [str(image) for image in val_images]
    batch = inference_model(model, names)
    arrays = [np.array(Image.open(name))[..., ::-1] for name in names]
    for results in (batch, inference_model(model, arrays)):
        maps = [result.pred_sem_seg.data[0].numpy() for result in results]
        assert same_maps(maps, expected) > 0.999
    for result in batch:
        assert result.seg_logits.data.shape == (19, 64, 128)
    assert model.dataset_meta['classes'][0] == 'road'


@pytest.mark.fault(
    'images of several sizes in one batch of MMSegInferencer',
    'refused by mmseg; one by one they are predicted',
)
def test_inferencer(
    config_file, trained, val_images, expected, same_maps, tmp_path
):
    inferencer = MMSegInferencer(
        str(config_file), str(trained.checkpoint), device='cpu'
    )
    files = [str(image) for image in val_images]
    arrays = [np.array(Image.open(file))[..., ::-1].copy() for file in files]
    # Of a single input the results are no lists.
    result = inferencer(arrays[0], return_vis=True)
    assert same_maps([result['predictions']], expected[:1]) > 0.999
    assert result['visualization'].shape == (64, 128, 3)
    found = inferencer(arrays, batch_size=2)['predictions']
    assert same_maps(found, expected) > 0.999
    # A folder is not sorted, and the results do not tell of which file
    # they are: return_datasamples does.
    results = inferencer(str(val_images[0].parent), return_datasamples=True)
    by_file = {r.img_path: r.pred_sem_seg.data[0].numpy() for r in results}
    assert same_maps([by_file[file] for file in files], expected) > 0.999
    # The checkpoint carries the config, and that what to import.
    alone = MMSegInferencer(None, str(trained.checkpoint), device='cpu')
    assert same_maps(alone(files)['predictions'], expected) > 0.999
    # Sizes in one batch are refused by mmseg's preprocessor without a
    # `test_cfg`; see the docs.
    sizes = [np.zeros((64, width, 3), np.uint8) for width in (100, 128)]
    with pytest.raises(AssertionError, match='same'):
        inferencer(sizes, batch_size=2)
    found = inferencer(sizes)['predictions']
    assert [classes.shape for classes in found] == [(64, 100), (64, 128)]
    # Classes are named by the order of all calls, drawings by the file.
    start = inferencer.num_pred_imgs
    inferencer(files, out_dir=str(tmp_path))
    names = [f'{start + i:08d}_pred.png' for i in range(len(files))]
    assert sorted(p.name for p in (tmp_path / 'pred').iterdir()) == names
    found = [np.array(Image.open(tmp_path / 'pred' / name)) for name in names]
    assert same_maps(found, expected) > 0.999
    drawn = sorted(path.name for path in (tmp_path / 'vis').iterdir())
    assert drawn == [image.name for image in val_images]


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
