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
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    MODELS,
    RUNNERS,
)

from hmsa_mmseg.autolabel.config_datasets import leaf_configs
from hmsa_mmseg.zoo.training import finetune_scales

ROOT = Path(__file__).parents[1]
ALL_FILES = sorted((ROOT / 'configs').rglob('*.py'))
CONFIGS = [path for path in ALL_FILES if '_base_' not in path.parts]
HMSA = ROOT / 'configs' / 'hmsa'
# One of each kind, small enough to run here.
RUNNABLE = [
    'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024',
    'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
    'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024',
]
# mmseg's grammar: algorithm_components_gpus x batch-schedule_data-crop.
NAME = re.compile(
    r'[a-z0-9-]+(?:_[a-z0-9-]+)+'
    r'_(?P<gpus>\d+)xb(?P<batch>\d+)(?:-[a-z0-9.]+)*'
    r'-(?P<length>[\d.]+)(?P<unit>[ke])'  # thousand iterations or epochs
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
    if model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    if model.backbone.type == 'MixVisionTransformer':
        device = 'cpu'  # its constructor reads values
    with torch.device(device):
        return MODELS.build(model)


def samples_of(dataloader):
    """Return the configs of the datasets that hold the pipelines."""
    return [*leaf_configs(dataloader.dataset)]


def train_length(cfg):
    return cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs


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
    assert all(HMSA / f'{name}.py' in CONFIGS for name in RUNNABLE)


@pytest.mark.parametrize('path', ALL_FILES, ids=lambda path: path.stem)
def test_needs_no_other_package(path):
    assert 'mmseg::' not in path.read_text()


@each_config
def test_bases(path):
    is_primitive = all('_base_' in base.parts for base in bases(path))
    # Of one config, in this folder or another.
    is_variant = len(bases(path)) == 1 and bases(path)[0] in CONFIGS
    assert is_primitive or is_variant
    assert depth(path) <= 3


@each_config
def test_does_what_its_name_says(path):
    match = NAME.fullmatch(path.stem)
    assert match, 'not in the grammar of config names'
    cfg = Config.fromfile(path)
    height, width = int(match['crop_h']), int(match['crop_w'])
    assert cfg.train_dataloader.batch_size == int(match['batch'])
    if match['unit'] == 'k':
        assert cfg.train_cfg.max_iters // 100 / 10 == pytest.approx(
            float(match['length']), abs=0.1
        )
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    else:
        assert cfg.train_cfg.max_epochs == int(match['length'])
    is_by_epoch = match['unit'] == 'e'
    assert cfg.log_processor.by_epoch == is_by_epoch
    assert cfg.default_hooks.checkpoint.by_epoch == is_by_epoch
    assert cfg.param_scheduler[-1].by_epoch == is_by_epoch
    assert ('-amp-' in path.stem) == (
        cfg.optim_wrapper.type == 'AmpOptimWrapper'
    )
    assert ('-rmi-' in path.stem) == ('RMILoss' in str(cfg.model))
    assert cfg.crop_size == (height, width)
    assert cfg.model.data_preprocessor.size == (height, width)
    for dataset in samples_of(cfg.train_dataloader):
        crops = [
            step.crop_size
            for step in dataset['pipeline']
            if step.type in ('RandomCrop', 'CentroidRandomCrop')
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
    assert train_length(cfg) % hook.interval == 0 or hook.save_last
    hooks = [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]
    assert all(HOOKS.get(hook.type) for hook in hooks)
    assert RUNNERS.get(cfg.get('runner_type', 'Runner'))
    assert LOOPS.get(cfg.train_cfg.type)


@each_hmsa_config
def test_tta_flips_only(path):
    cfg = Config.fromfile(path)
    # mmseg's reads the logits of views, which `classes_only` leaves out.
    has_logits = not cfg.model.test_cfg.get('classes_only')
    assert cfg.tta_model.type == (
        'SegTTAModel' if has_logits else 'AccumulatingTTAModel'
    )
    (tta,) = [step for step in cfg.tta_pipeline if step.type == 'TestTimeAug']
    ways = [[step.type for step in choice] for choice in tta.transforms]
    assert [way for way in ways if len(way) > 1] == [['RandomFlip'] * 2]
    assert len(Compose(cfg.tta_pipeline).transforms) == len(cfg.tta_pipeline)


@each_config
def test_data_and_pipelines_build(path):
    cfg = Config.fromfile(path)
    for split in ('train', 'val', 'test'):
        dataloader = cfg[f'{split}_dataloader']
        assert DATA_SAMPLERS.get(dataloader.sampler.type)
        assert DATASETS.get(dataloader.dataset.type)
        metainfos = []
        for dataset in samples_of(dataloader):
            built = DATASETS.build({**dataset, 'lazy_init': True})
            assert len(built.pipeline.transforms) == len(dataset['pipeline'])
            assert len(built.metainfo['classes']) > 1
            metainfos.append(built.metainfo)
        # Otherwise they cannot be concatenated.
        assert all(metainfo == metainfos[0] for metainfo in metainfos)
    # mmseg's inference API reads the variable, its test.py the data loader.
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline


@each_config
def test_optimizer_and_schedule_build(path):
    cfg = Config.fromfile(path)
    if not torch.cuda.is_available():
        # As the schedules say; mmengine builds no AmpOptimWrapper here.
        cfg.optim_wrapper.type = 'OptimWrapper'
    wrapper = build_optim_wrapper(torch.nn.Conv2d(1, 1, 1), cfg.optim_wrapper)
    for scheduler in cfg.param_scheduler:
        PARAM_SCHEDULERS.build(
            scheduler, default_args=dict(optimizer=wrapper.optimizer)
        )
    assert 0 < wrapper.get_lr()['lr'][0] <= cfg.optim_wrapper.optimizer.lr


@each_config
def test_dumps_and_reloads(path, tmp_path):
    settings = Config.fromfile(path).to_dict()
    # Laying it out, which is all that yapf does, takes seconds.
    cfg = Config(settings, format_python_code=False)
    cfg.dump(tmp_path / 'dumped.py')
    reloaded = Config.fromfile(tmp_path / 'dumped.py')
    assert reloaded.to_dict() == settings


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
    # But for attention alone, which is trained at those of the test.
    alone = model.train_cfg.get('attention_only', False)
    assert ('attn-only' in path.stem) == alone
    tested = (0.5, 1.0, 2.0)
    assert model.test_cfg.scales == tested
    expected = finetune_scales(tested) if alone else (0.5, 1.0)
    assert model.train_cfg.scales == expected
    # The authors' recipes, with RMI, have their statistics, too.
    stats_scale = None if alone or 'rmi' in path.stem else 1.0
    assert model.train_cfg.stats_scale == stats_scale
