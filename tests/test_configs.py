"""Every config parses, builds, and says what its name, row and zoo say."""

import json
import re
from pathlib import Path

import mmseg
import pytest
import torch
import yaml
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
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
HMSA = ROOT / 'configs' / 'hmsa'
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


def build_model(cfg, device='meta'):
    """Build a model without downloads; on `meta` without values either."""
    model = cfg.model.copy()
    model.pretrained = None
    model.backbone.pop('init_cfg', None)
    if model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    # The constructor of MiT reads values, which `meta` does not have.
    is_mit = model.backbone.type == 'MixVisionTransformer'
    with torch.device('cpu' if is_mit else device):
        return MODELS.build(model)


@each_config
def test_does_what_its_name_says(path):
    match = NAME.fullmatch(path.stem)
    assert match, 'not in the grammar of config names'
    cfg = Config.fromfile(path)
    crop_size = int(match['crop_h']), int(match['crop_w'])
    assert cfg.train_dataloader.batch_size == int(match['batch'])
    length = float(match['length'])
    is_by_epoch = match['unit'] == 'e'
    if is_by_epoch:
        assert cfg.train_cfg.max_epochs == length
    else:
        iters = cfg.train_cfg.max_iters
        assert iters // 100 / 10 == pytest.approx(length, abs=0.1)
        assert cfg.param_scheduler[-1].end == iters
    assert cfg.log_processor.by_epoch == is_by_epoch
    assert cfg.default_hooks.checkpoint.by_epoch == is_by_epoch
    assert cfg.param_scheduler[-1].by_epoch == is_by_epoch
    is_amp = cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert ('-amp-' in path.stem) == is_amp
    assert ('-rmi-' in path.stem) == ('RMILoss' in str(cfg.model))
    assert cfg.crop_size == crop_size
    assert cfg.model.data_preprocessor.size == crop_size
    for dataset in leaf_configs(cfg.train_dataloader.dataset):
        for step in dataset['pipeline']:
            if step.type in ('RandomCrop', 'CentroidRandomCrop'):
                assert step.crop_size == crop_size


@each_config
def test_runtime_optimizer_and_schedule(path, tmp_path):
    cfg = Config.fromfile(path)
    assert 'mmseg::' not in cfg.text  # needs nothing beside the package
    assert cfg.custom_imports.imports == ['hmsa_mmseg']
    assert cfg.custom_imports.allow_failed_imports is False
    assert cfg.default_scope == 'mmseg'
    assert cfg.default_hooks.checkpoint.type == 'SafeCheckpointHook'
    hook = HOOKS.build(cfg.default_hooks.checkpoint)
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert length % hook.interval == 0 or hook.save_last
    hooks = [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]
    assert all(HOOKS.get(hook.type) for hook in hooks)
    assert RUNNERS.get(cfg.get('runner_type', 'Runner'))
    assert LOOPS.get(cfg.train_cfg.type)

    settings = cfg.to_dict()
    # Laying it out, which is all that yapf does, takes seconds.
    Config(settings, format_python_code=False).dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == settings

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
def test_data_and_model(path):
    cfg = Config.fromfile(path)
    for split in ('train', 'val', 'test'):
        dataloader = cfg[f'{split}_dataloader']
        assert DATA_SAMPLERS.get(dataloader.sampler.type)
        assert DATASETS.get(dataloader.dataset.type)
        metainfos = []
        for dataset in leaf_configs(dataloader.dataset):
            built = DATASETS.build({**dataset, 'lazy_init': True})
            assert len(built.pipeline.transforms) == len(dataset['pipeline'])
            metainfos.append(built.metainfo)
        # Otherwise they cannot be concatenated.
        assert all(metainfo == metainfos[0] for metainfo in metainfos)
    # mmseg's inference API reads the variable, its test.py the data loader.
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline
    assert build_model(cfg).num_classes == len(metainfos[0]['classes']) > 1


def distinct_models():
    """One config of each model, those of variants being the same."""
    found = {}
    for path in CONFIGS:
        model = Config.fromfile(path).model.to_dict()
        model['data_preprocessor'] = None
        found.setdefault(json.dumps(model, sort_keys=True), path)
    return sorted(found.values())


@pytest.mark.parametrize('path', distinct_models(), ids=lambda path: path.stem)
def test_no_parameter_of_a_config_goes_unused(path, make_batch):
    """DDP would need `find_unused_parameters`, which costs time."""
    cfg = Config.fromfile(path)
    assert not cfg.get('find_unused_parameters')
    model = revert_sync_batchnorm(build_model(cfg, 'cpu')).train()
    inputs, samples = make_batch(num_classes=model.num_classes)
    total, _ = model.parse_losses(model.loss(inputs, samples))
    total.backward()
    unused = {
        name
        for name, param in model.named_parameters()
        if param.requires_grad and param.grad is None
    }
    assert unused == set()


@pytest.mark.parametrize(
    'path', sorted(HMSA.glob('*.py')), ids=lambda path: path.stem
)
def test_scales_and_flips(path):
    cfg = Config.fromfile(path)
    model = cfg.model
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

    # mmseg's reads the logits of views, which `classes_only` leaves out.
    has_logits = not model.test_cfg.get('classes_only')
    assert cfg.tta_model.type == (
        'SegTTAModel' if has_logits else 'AccumulatingTTAModel'
    )
    (tta,) = [step for step in cfg.tta_pipeline if step.type == 'TestTimeAug']
    ways = [[step.type for step in choice] for choice in tta.transforms]
    assert [way for way in ways if len(way) > 1] == [['RandomFlip'] * 2]
    assert Compose(cfg.tta_pipeline).transforms


# --------------------------------------- against mmseg's zoo and the tables


ZOO_CONFIGS = Path(mmseg.__path__[0]) / '.mim' / 'configs'
# Ours -> the model of the zoo that it wraps.
ZOO = {
    'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024': 'ocrnet/'
    'ocrnet_hr48_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024': 'ocrnet/'
    'ocrnet_hr18_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024': 'ocrnet/'
    'ocrnet_hr18s_4xb2-40k_cityscapes-512x1024',
    'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024': 'deeplabv3plus/'
    'deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024',
    'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024': 'segformer/'
    'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
}
each_zoo_pair = pytest.mark.parametrize(
    ('name', 'zoo_name'), ZOO.items(), ids=ZOO
)


def load_zoo(name):
    return Config.fromfile(ZOO_CONFIGS / f'{name}.py')


def shapes(cfg):
    """Return what a model's checkpoint holds."""
    state_dict = build_model(cfg).state_dict()
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def flatten(value, path=''):
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    flat = {}
    for key, item in pairs:
        flat.update(flatten(item, f'{path}.{key}' if path else f'{key}'))
    return flat


@each_zoo_pair
def test_recipe_differs_from_the_zoo_in_the_method_alone(name, zoo_name):
    ours = Config.fromfile(HMSA / f'{name}.py').to_dict()
    zoo = load_zoo(zoo_name).to_dict()
    head = ours['model'].pop('decode_head')
    assert head.pop('seg_head') == zoo['model'].pop('decode_head')
    assert head == dict(type='HierarchicalMSAttentionHead', attn_channels=256)
    for cfg in (ours, zoo):
        cfg.pop('tta_pipeline')

    ours, zoo = flatten(ours), flatten(zoo)
    differ = {
        key: (ours.get(key), zoo.get(key))
        for key in {*ours, *zoo}
        if ours.get(key) != zoo.get(key)
    }
    dataset = ('HMSACityscapesDataset', 'CityscapesDataset')
    metric = ('CompactIoUMetric', 'IoUMetric')
    expected = {
        'custom_imports.allow_failed_imports': (False, None),
        'custom_imports.imports.0': ('hmsa_mmseg', None),
        'dataset_type': dataset,
        'train_dataloader.dataset.type': dataset,
        'val_dataloader.dataset.type': dataset,
        'test_dataloader.dataset.type': dataset,
        'val_evaluator.type': metric,
        'test_evaluator.type': metric,
        'default_hooks.checkpoint.type': (
            'SafeCheckpointHook',
            'CheckpointHook',
        ),
        'default_hooks.visualization.type': (
            'ScaleMapsVisualizationHook',
            'SegVisualizationHook',
        ),
        'visualizer.type': ('ScaleMapsVisualizer', 'SegLocalVisualizer'),
        'model.type': ('MultiScaleAttentionSegmentor', zoo['model.type']),
        'model.train_cfg.scales.0': (0.5, None),
        'model.train_cfg.scales.1': (1.0, None),
        'model.train_cfg.stats_scale': (1.0, None),
        'model.test_cfg.scales.0': (0.5, None),
        'model.test_cfg.scales.1': (1.0, None),
        'model.test_cfg.scales.2': (2.0, None),
    }
    if 'ocr' in name:
        expected['model.backbone.type'] = ('SingleResizeHRNet', 'HRNet')
        expected['model.num_stages'] = (None, 2)
    # What the zoo's files keep for themselves: variables read by nothing but
    # the lines below them.
    for key, value in zoo.items():
        if key.startswith(('optimizer.', 'img_ratios.')):
            expected[key] = (None, value)
    assert differ == expected


@each_zoo_pair
def test_holds_every_weight_of_the_zoo_model(name, zoo_name):
    ours = shapes(Config.fromfile(HMSA / f'{name}.py'))
    theirs = shapes(load_zoo(zoo_name))
    renamed = {
        re.sub(r'^decode_head\.', 'decode_head.seg_head.', key): shape
        for key, shape in theirs.items()
    }
    rest = {
        key: shape
        for key, shape in ours.items()
        if not key.startswith('decode_head.scale_attn.')
    }
    assert rest == renamed


def readme_rows(folder):
    """Return the result table's rows that name a config, by its stem."""
    lines = (folder / 'README.md').read_text().splitlines()
    header, rows = [], {}
    for line, previous in zip(lines, ['', *lines]):
        if not line.startswith('|'):
            continue
        cells = [cell.strip() for cell in line.strip('| ').split('|')]
        if not previous.startswith('|'):
            header = cells
        if header[-2:] != ['config', 'download']:
            continue  # another table
        assert len(cells) == len(header), cells
        row = dict(zip(header, cells))
        match = re.fullmatch(r'\[config\]\(\./(.*)\.py\)', row['config'])
        if match:
            assert match[1] not in rows, f'two rows for {match[1]}'
            rows[match[1]] = row
    return rows


METAFILES = sorted((ROOT / 'configs').rglob('metafile.y*ml'))


def test_model_index_names_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = [path.relative_to(ROOT).as_posix() for path in METAFILES]
    assert sorted(index['Import']) == found != []


@pytest.mark.parametrize('path', METAFILES, ids=lambda p: p.parent.name)
def test_metafile_files_and_readme_agree(path):
    content = yaml.safe_load(path.read_text())
    collections = {item['Name']: item for item in content['Collections']}
    for collection in collections.values():
        assert (ROOT / collection['README']).is_file()
    models = {model['Name']: model for model in content['Models']}
    assert len(models) == len(content['Models'])
    stems = {config.stem for config in path.parent.glob('*.py')}
    rows = readme_rows(path.parent)
    assert set(models) == set(rows) == stems

    for name, model in models.items():
        config = path.parent / f'{name}.py'
        assert ROOT / model['Config'] == config
        assert model['In Collection'] in collections
        match = NAME.fullmatch(name)
        total = int(match['gpus']) * int(match['batch'])
        assert model['Metadata']['Batch Size'] == total

        row, cfg = rows[name], Config.fromfile(config)
        assert row['Crop Size'] == f'{match["crop_h"]}x{match["crop_w"]}'
        length = cfg.train_cfg.get('max_iters')
        if length is None:
            length = f'{cfg.train_cfg.max_epochs} epochs'
        assert row['Lr schd'] == str(length)
        scales = [float(scale) for scale in row['Eval scales'].split(',')]
        assert tuple(scales) == tuple(cfg.model.test_cfg.scales)
        metrics = model.get('Results', {}).get('Metrics', {})
        for metric in ('mIoU', 'mIoU(ms+flip)'):
            assert row[metric] == str(metrics.get(metric, '-'))


@each_zoo_pair
def test_readme_quotes_the_zoo_rightly(name, zoo_name):
    folder, stem = zoo_name.split('/')
    path = ZOO_CONFIGS / folder / 'metafile.yaml'
    metafile = yaml.safe_load(path.read_text())
    (model,) = [m for m in metafile['Models'] if m['Name'] == stem]
    metrics = model['Results']['Metrics']
    lines = (HMSA / 'README.md').read_text().splitlines()
    ((above, _),) = [
        pair for pair in zip(lines, lines[1:]) if f'(./{name}.py)' in pair[1]
    ]
    cells = [cell.strip() for cell in above.split('|')]
    assert '(zoo)' in cells[1]
    assert f'{metrics["mIoU"]:.2f}' in cells
    assert f'{metrics["mIoU(ms+flip)"]:.2f}' in cells
    assert str(model['Metadata'].get('Memory (GB)', '-')) == cells[5]
