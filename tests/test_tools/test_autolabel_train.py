"""The preset for auto-labels in mmseg's train.py."""

import re
import shutil
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS

PRESET = (
    Path(__file__).parents[2]
    / 'configs/_base_/datasets/cityscapes_autolabel_1024x2048.py'
)
TINY = Path(__file__).with_name('tiny_recipe.py')
BICYCLE = 33


def write_autolabels(root):
    """Take the validation images for images with auto-labels."""
    ids = np.full(256, BICYCLE, np.uint8)  # where there is no label
    ids[:19] = EVALUATED_IDS
    images = root / 'leftImg8bit/train_extra'
    shutil.copytree(root / 'leftImg8bit/val', images)
    for image in images.rglob('*.png'):
        stem = image.name.replace('_leftImg8bit.png', '')
        fine = root / f'gtFine/val/aachen/{stem}_gtFine_labelTrainIds.png'
        label = ids[np.array(Image.open(fine))]
        prob = np.full_like(label, 200)
        for folder, name, pixels in (
            ('refinement_final', f'{stem}_leftImg8bit.png', label),
            ('refinement_final', f'{stem}_leftImg8bit_prob.png', prob),
            ('gtCoarse', f'{stem}_gtCoarse_labelIds.png', label),
        ):
            path = root / folder / 'train_extra/aachen' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def test_fine_and_auto_labelled_images(run_tool, data_root, tmp_path):
    root = tmp_path / 'cityscapes'
    shutil.copytree(data_root, root)
    write_autolabels(root)
    cfg = Config.fromfile(TINY)
    loader = Config.fromfile(PRESET).train_dataloader
    parts = loader.dataset.dataset.datasets
    for part in parts:
        part.data_root = str(root)
        part.pipeline[-5].scale = (128, 64)
        part.pipeline[-4].crop_size = (64, 128)
    # At least one sample of an epoch for each class.
    parts[0] = dict(type='RepeatDataset', times=5, dataset=parts[0])
    loader.sampler.update(pct=1.0, tile_size=64, cache_dir=str(tmp_path))
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader = loader
    cfg.val_dataloader.dataset.data_root = str(root)
    cfg.train_cfg.update(max_epochs=1, val_interval=2)
    config = tmp_path / 'config.py'
    config.write_text(
        '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())
    )
    work_dir = tmp_path / 'out'
    out = run_tool('train.py', config, '--work-dir', work_dir, cwd=tmp_path)
    # 20 samples in batches of 4, as of the fine part alone.
    assert '[1][5/5]' in out
    assert (work_dir / 'epoch_1.pth').is_file()
    # Bicycles are found, which only the auto-labelled images have.
    (absent,) = re.findall(
        r'no label has a pixel of these classes: (.*?)]', out
    )
    assert 'motorcycle' in absent
    assert 'bicycle' not in absent
