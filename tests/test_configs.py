"""Every config parses, builds, and says what its name and its row say."""

import ast
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import DATASETS, HOOKS, MODELS

ROOT = Path(__file__).parents[1]
ALL_FILES = sorted((ROOT / 'configs').rglob('*.py'))
CONFIGS = [path for path in ALL_FILES if '_base_' not in path.parts]
HMSA = ROOT / 'configs' / 'hmsa'
AUTHORS = HMSA / 'hmsa_hr48_ocr_8xb1-65k_cityscapes-1024x2048.py'
# One of each kind, small enough to run here.
RUNNABLE = [
    'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024',
    'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
    'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024',
]
# mmseg's grammar: algorithm_components_gpus x batch-schedule_data-crop.
NAME = re.compile(
    r'[a-z0-9-]+(?:_[a-z0-9-]+)+'
    r'_(?P<gpus>\d+)xb(?P<batch>\d+)(?:-[a-z0-9.]+)*-(?P<kilo_iters>[\d.]+)k'
    r'_[a-z0-9]+(?:-[a-z0-9]+)*-(?P<crop_h>\d+)x(?P<crop_w>\d+)'
)

each_config = pytest.mark.parametrize(
    'path', CONFIGS, ids=lambda path: path.stem
)
each_hmsa_config = pytest.mark.parametrize(
    'path', sorted(HMSA.glob('*.py')), ids=lambda path: path.stem
)


def build_model(cfg, device='meta'):
    """Build a model without downloads; on `meta` without values either."""
    model = cfg.model.copy()
    model.pretrained = None
    model.backbone.pop('init_cfg', None)
    if model.backbone.type == 'MixVisionTransformer':
        device = 'cpu'  # its constructor reads values
    with torch.device(device):
        return MODELS.build(model)


def bases(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            found = ast.literal_eval(node.value)
            found = [found] if isinstance(found, str) else found
            return [(path.parent / base).resolve() for base in found]
    return []


def depth(path):
    return 1 + max((depth(base) for base in bases(path)), default=0)


def test_configs_are_found():
    assert AUTHORS in CONFIGS
    assert all(HMSA / f'{name}.py' in CONFIGS for name in RUNNABLE)


@pytest.mark.parametrize('path', ALL_FILES, ids=lambda path: path.stem)
def test_needs_no_other_package(path):
    assert 'mmseg::' not in path.read_text()


@each_config
def test_bases(path):
    is_primitive = all('_base_' in base.parts for base in bases(path))
    is_variant = [base.parent for base in bases(path)] == [path.parent]
    assert is_primitive or is_variant
    assert depth(path) <= 3


@each_config
def test_does_what_its_name_says(path):
    match = NAME.fullmatch(path.stem)
    assert match, 'not in the grammar of config names'
    cfg = Config.fromfile(path)
    height, width = int(match['crop_h']), int(match['crop_w'])
    assert cfg.train_dataloader.batch_size == int(match['batch'])
    assert cfg.train_cfg.max_iters // 100 / 10 == pytest.approx(
        float(match['kilo_iters']), abs=0.1
    )
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    assert cfg.crop_size == (height, width)
    assert cfg.model.data_preprocessor.size == (height, width)
    crops = [
        step.crop_size
        for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'RandomCrop'
    ]
    assert crops in ([(height, width)], [])


@each_config
def test_runtime(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports.imports == ['hmsa_mmseg']
    assert cfg.custom_imports.allow_failed_imports is False
    assert cfg.default_scope == 'mmseg'
    assert cfg.default_hooks.checkpoint.type == 'SafeCheckpointHook'
    hook = HOOKS.build(cfg.default_hooks.checkpoint)
    assert cfg.train_cfg.max_iters % hook.interval == 0 or hook.save_last
    assert all(HOOKS.get(hook.type) for hook in cfg.default_hooks.values())


@each_hmsa_config
def test_tta_flips_only(path):
    cfg = Config.fromfile(path)
    assert cfg.tta_model.type == 'SegTTAModel'
    (tta,) = [step for step in cfg.tta_pipeline if step.type == 'TestTimeAug']
    ways = [[step.type for step in choice] for choice in tta.transforms]
    assert [way for way in ways if len(way) > 1] == [['RandomFlip'] * 2]
    assert len(Compose(cfg.tta_pipeline).transforms) == len(cfg.tta_pipeline)


@each_config
def test_data_and_pipelines_build(path):
    cfg = Config.fromfile(path)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.lazy_init = True
        built = DATASETS.build(dataset)
        assert len(built.pipeline.transforms) == len(dataset.pipeline)
        assert len(built.metainfo['classes']) > 1
    # mmseg's inference API reads the variable, its test.py the data loader.
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline


@each_config
def test_optimizer_and_schedule_build(path):
    cfg = Config.fromfile(path)
    wrapper = build_optim_wrapper(torch.nn.Conv2d(1, 1, 1), cfg.optim_wrapper)
    for scheduler in cfg.param_scheduler:
        PARAM_SCHEDULERS.build(
            scheduler, default_args=dict(optimizer=wrapper.optimizer)
        )
    assert 0 < wrapper.get_lr()['lr'][0] <= cfg.optim_wrapper.optimizer.lr


@each_config
def test_dumps_and_reloads(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    reloaded = Config.fromfile(tmp_path / 'dumped.py')
    assert reloaded.to_dict() == cfg.to_dict()


@each_config
def test_model_builds_with_the_classes_of_its_data(path):
    cfg = Config.fromfile(path)
    model = build_model(cfg)
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'lazy_init': True})
    assert model.num_classes == len(dataset.metainfo['classes'])


@pytest.mark.parametrize('name', RUNNABLE)
def test_trains_and_predicts(name, make_batch):
    cfg = Config.fromfile(HMSA / f'{name}.py')
    model = revert_sync_batchnorm(build_model(cfg, device='cpu'))
    inputs, samples = make_batch(size=(64, 64), num_classes=19)
    losses = model.loss(inputs, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    # SegFormer has neither an auxiliary head nor a cascade.
    heads = ['decode'] if 'segformer' in name else ['decode', 'aux']
    assert set(losses) == {
        f'{head}.{key}' for head in heads for key in ('loss_ce', 'acc_seg')
    }
    assert torch.isfinite(total)
    attn = model.decode_head.scale_attn
    assert all(p.grad.abs().sum() > 0 for p in attn.parameters())

    model.eval()
    with torch.no_grad():
        results = model.predict(inputs, samples)
    logits = results[0].seg_logits.data
    assert logits.shape == (19, 64, 64)
    assert torch.equal(
        results[0].pred_sem_seg.data, logits.argmax(dim=0, keepdim=True)
    )


@each_hmsa_config
def test_scales_are_the_papers(path):
    model = Config.fromfile(path).model
    assert model.type == 'MultiScaleAttentionSegmentor'
    assert model.train_cfg.scales == (0.5, 1.0)
    assert model.test_cfg.scales == (0.5, 1.0, 2.0)


def test_authors_network():
    cfg = Config.fromfile(AUTHORS)
    model = build_model(cfg)
    # The authors' HRNet_Mscale has 72,143,430 parameters, among them the
    # biases of two convolutions (512 + 720) that the norm after them voids.
    own = sum(p.numel() for p in model.parameters())
    assert own == 72_143_430 - 512 - 720

    losses = [head.loss_decode for head in model.decode_head.seg_heads]
    losses += list(model.decode_head.loss_scale)
    assert [loss.loss_weight for loss in losses] == [0.4, 1.0, 0.05]
    assert all(loss.avg_non_ignore for loss in losses)
    assert [head.dropout_ratio for head in model.decode_head.seg_heads] == [
        -1,
        0.05,
    ]
    # 175 epochs of 2975 images in batches of 8, the last one filled up.
    assert cfg.train_cfg.max_iters == 175 * -(-2975 // 8)


def test_authors_network_with_65_classes():
    cfg = Config.fromfile(AUTHORS)
    cfg.merge_from_dict({'model.decode_head.num_classes': 65})
    model = build_model(cfg)
    widths = [
        head.conv_seg.out_channels for head in model.decode_head.seg_heads
    ]
    assert widths == [65, 65]
    assert model.num_classes == 65
