"""The authors' recipe in the stock train.py: all of its parts at once."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model

TINY = Path(__file__).with_name('tiny_recipe.py')


@pytest.fixture(scope='module')
def config_file(data_root, tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe') / 'recipe.py'
    path.write_text(
        f'_base_ = {str(TINY)!r}\n'
        f'root = {str(data_root)!r}\n'
        'train_dataloader = dict(\n'
        f'    sampler=dict(cache_dir={str(path.parent)!r}),\n'
        '    dataset=dict(dataset=dict(data_root=root)))\n'
        'val_dataloader = dict(dataset=dict(data_root=root))\n'
        'test_dataloader = val_dataloader\n'
    )
    return path


@pytest.fixture(scope='module')
def work_dir(run_tool, config_file, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    run_tool('train.py', config_file, '--work-dir', work_dir, cwd=work_dir)
    return work_dir


@pytest.fixture(scope='module')
def scalars(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return (
        [line for line in lines if 'loss' in line],
        [line for line in lines if 'mIoU' in line],
    )


def test_losses(scalars):
    train, _ = scalars
    assert len(train) == 2 * 4
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


def test_learning_rate_falls_once_an_epoch(scalars):
    train, _ = scalars
    rates = [5e-3] * 4 + [5e-3 * (1 - 1 / 175) ** 2] * 4
    assert [line['lr'] for line in train] == pytest.approx(rates)


def test_validates_and_keeps_the_best(scalars, work_dir):
    _, val = scalars
    assert len(val) == 2
    best = max(line['mIoU'] for line in val)
    (path,) = work_dir.glob('best_mIoU_epoch_*.pth')
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    hub = checkpoint['message_hub']['runtime_info']
    assert hub['best_score'] == pytest.approx(best)
    assert (work_dir / 'epoch_2.pth').is_file()


def test_nothing_of_the_recipe_is_lost(work_dir):
    dumped = Config.fromfile(work_dir / 'recipe.py')
    assert dumped.runner_type == 'SafeResumeRunner'
    hooks = [hook.type for hook in dumped.custom_hooks]
    assert hooks == ['InvalidLossHook', 'IterSeedHook']
    assert dumped.train_dataloader.sampler.type == 'ClassUniformSampler'


def test_infers_on_an_image_without_label(work_dir, config_file, val_images):
    model = init_model(
        str(config_file), str(work_dir / 'epoch_2.pth'), device='cpu'
    )
    found = inference_model(model, str(val_images[0]))
    assert found.pred_sem_seg.data.shape == (1, 64, 128)
    assert found.seg_logits.data.shape == (19, 64, 128)
