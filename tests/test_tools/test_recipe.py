"""The authors' best recipe in mmseg's train.py: all of its parts at once."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image

RECIPE = (
    Path(__file__).parents[2] / 'configs/hmsa/hmsa_hr48-mapillary-pre_ocr_'
    '16xb1-rmi-amp-175e_cityscapes-autolabel-1024x2048.py'
)
TINY = Path(__file__).with_name('tiny_cityscapes.py')
CAR, BICYCLE = 26, 33


@pytest.fixture
def root(data_root, tmp_path):
    """Return the root of fine images, and one that a teacher has labelled."""
    root = tmp_path / 'cityscapes'
    shutil.copytree(data_root, root)
    image = next((root / 'leftImg8bit/train').rglob('*.png'))
    label = np.full((64, 128), CAR, np.uint8)
    label[:, 64:] = BICYCLE
    sure = np.full((64, 128), 200, np.uint8)
    stem = 'augsburg_000000_000000'
    for folder, name, pixels in (
        (
            'leftImg8bit',
            f'{stem}_leftImg8bit.png',
            np.array(Image.open(image)),
        ),
        ('refinement_final', f'{stem}_leftImg8bit.png', label),
        ('refinement_final', f'{stem}_leftImg8bit_prob.png', sure),
        ('gtCoarse', f'{stem}_gtCoarse_labelIds.png', label),
    ):
        path = root / folder / 'train_extra/augsburg' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def config(root, tmp_path):
    cfg = Config.fromfile(RECIPE)
    # A small model, but for what the recipe says about it.
    tiny = Config.fromfile(TINY).model
    cfg.model.data_preprocessor.size = tiny.data_preprocessor.size
    cfg.model.backbone = tiny.backbone
    head = cfg.model.decode_head
    head.attn_channels = tiny.decode_head.attn_channels
    for own, small in zip(head.seg_head, tiny.decode_head.seg_head):
        for key in ('loss_decode', 'dropout_ratio', 'num_classes'):
            small.pop(key)
        own.update(small, input_transform=None)
    loader = cfg.train_dataloader
    parts = loader.dataset.dataset.datasets
    others = (cfg.val_dataloader.dataset, *cfg.custom_hooks[-1].saw)
    for dataset in (*parts, *others):
        dataset.data_root = str(root)
    for dataset in parts:
        dataset.pipeline[-5].scale = (128, 64)
        dataset.pipeline[-4].crop_size = (64, 128)
    # One sample of an epoch for each class, in two batches.
    parts[0] = dict(type='RepeatDataset', times=5, dataset=parts[0])
    loader.update(batch_size=10, num_workers=0, persistent_workers=False)
    loader.sampler.update(pct=1.0, tile_size=64, cache_dir=str(tmp_path))
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.optim_wrapper.type = 'OptimWrapper'  # without a GPU
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    # mmengine keeps one for each name in a process, and where it writes to.
    cfg.visualizer.name = 'autolabel_recipe'

    # As of Mapillary: other classes.
    start = copy.deepcopy(cfg.model)
    start.decode_head.pop('reinit_classifier')
    start.decode_head.num_classes = 65
    start = MODELS.build(start).state_dict()
    cfg.load_from = str(tmp_path / 'mapillary.pth')
    torch.save(dict(state_dict=start), cfg.load_from)

    path = tmp_path / 'recipe.py'
    settings = cfg.to_dict()
    path.write_text('\n'.join(f'{k} = {v!r}' for k, v in settings.items()))
    return path


def test_two_epochs(run_stock, config, tmp_path, monkeypatch, val_images):
    # Laying out a config takes yapf seconds, each time it is written.
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
    )
    work_dir = tmp_path / 'work'
    run_stock('train.py', config, '--work-dir', work_dir)
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    train = [line for line in lines if 'loss' in line]
    assert len(train) == 2 * 2
    for line in train:
        losses = {key for key in line if '.loss' in key}
        assert losses == {
            'decode.loss_rmi',
            'aux.loss_bce',
            'scale_0.5.loss_bce',
            'scale_1.loss_bce',
        }
        total = sum(line[key] for key in losses)
        assert line['loss'] == pytest.approx(total, rel=1e-4)
    # The learning rate falls once an epoch.
    rates = [0.01] * 2 + [0.01 * (1 - 1 / 175) ** 2] * 2
    assert [line['lr'] for line in train] == pytest.approx(rates)
    # The teacher of the published labels has seen all that is scored.
    val = [line for line in lines if 'mIoU' in line]
    assert [line['teacher_saw_images'] for line in val] == [3, 3]
    (log,) = work_dir.glob('*/*.log')
    log = log.read_text()
    assert '3 of 3 images of the val data were in the training set' in log
    # Only the teacher's labels have bicycles.
    absent = [line for line in log.splitlines() if 'no label has' in line]
    assert "'motorcycle'" in absent[0]
    assert "'bicycle'" not in absent[0]
    # The best is kept.
    (path,) = work_dir.glob('best_mIoU_epoch_*.pth')
    weights = torch.load(path, weights_only=True)
    best = weights['message_hub']['runtime_info']['best_score']
    assert best == pytest.approx(max(line['mIoU'] for line in val))
    classifiers = [
        value
        for key, value in weights['state_dict'].items()
        if key.endswith('conv_seg.weight')
    ]
    assert [len(value) for value in classifiers] == [19, 19]
    # Nothing of the recipe is lost.
    dumped = Config.fromfile(work_dir / 'recipe.py')
    assert dumped.runner_type == 'SafeResumeRunner'
    hooks = {hook.type for hook in dumped.custom_hooks}
    assert {'InvalidLossHook', 'IterSeedHook'} < hooks
    # It infers on an image without label.
    model = init_model(str(config), str(path), device='cpu')
    found = inference_model(model, str(val_images[0]))
    assert found.seg_logits.data.shape == (19, 64, 128)
