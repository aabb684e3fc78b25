"""mmseg's smaller tools and its Python interfaces, as they are."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

HMSA = Path(__file__).parents[2] / 'configs' / 'hmsa'
PRIMITIVE = HMSA / 'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024.py'


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


def test_print_config_of_a_shipped_config(run_tool, tmp_path):
    # Through the package: it imports mmseg.apis before it reads a config.
    output = run_tool(
        *('misc/print_config.py', PRIMITIVE),
        cwd=tmp_path,
        options=['model.test_cfg.scales=(0.25,0.5,1.0,2.0)'],
        preload=True,
    )
    assert "type='MultiScaleAttentionSegmentor'" in output
    printed = Config.fromfile(tmp_path / 'example.py')
    assert printed.model.test_cfg.scales == (0.25, 0.5, 1.0, 2.0)
    printed.model.test_cfg.scales = (0.5, 1.0, 2.0)
    assert printed.to_dict() == Config.fromfile(PRIMITIVE).to_dict()


def test_publish_model(run_tool, trained, tmp_path):
    run_tool(
        *('misc/publish_model.py', trained.checkpoint, 'published.pth'),
        cwd=tmp_path,
    )
    digest = hashlib.sha256(trained.checkpoint.read_bytes()).hexdigest()
    (file,) = tmp_path.iterdir()
    assert file.name == f'published-{digest[:8]}.pth'
    published = torch.load(file, weights_only=True)
    whole = torch.load(trained.checkpoint, weights_only=True)
    assert 'optimizer' in whole
    assert 'optimizer' not in published
    assert published['state_dict'].keys() == whole['state_dict'].keys()
    for key, value in published['state_dict'].items():
        assert torch.equal(value, whole['state_dict'][key])


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
