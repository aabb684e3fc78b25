"""What is said about the configs: against the zoo, its numbers, the tables."""

import re
from pathlib import Path

import mmseg
import pytest
import torch
import yaml
from mmengine.config import Config
from mmseg.registry import MODELS

ROOT = Path(__file__).parents[1]
HMSA = ROOT / 'configs' / 'hmsa'
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
# In a config's name: GPUs, images on each, crop.
NUMBERS = re.compile(r'_(\d+)xb(\d+)-.*-(\d+x\d+)$')

each_zoo_pair = pytest.mark.parametrize(
    ('name', 'zoo_name'), ZOO.items(), ids=ZOO
)


def load_zoo(name):
    return Config.fromfile(ZOO_CONFIGS / f'{name}.py')


def shapes(cfg):
    """Return what a model's checkpoint holds, without making the values."""
    model = cfg.model.copy()
    model.pretrained = None
    model.backbone.pop('init_cfg', None)
    # The constructor of MiT reads values, which `meta` does not have.
    is_mit = model.backbone.type == 'MixVisionTransformer'
    with torch.device('cpu' if is_mit else 'meta'):
        state_dict = MODELS.build(model).state_dict()
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
    expected = {
        'custom_imports.allow_failed_imports': (False, None),
        'custom_imports.imports.0': ('hmsa_mmseg', None),
        'dataset_type': dataset,
        'train_dataloader.dataset.type': dataset,
        'val_dataloader.dataset.type': dataset,
        'test_dataloader.dataset.type': dataset,
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


def metafiles():
    return sorted((ROOT / 'configs').rglob('metafile.y*ml'))


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


def test_model_index_names_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = [path.relative_to(ROOT).as_posix() for path in metafiles()]
    assert found
    assert sorted(index['Import']) == found


@pytest.mark.parametrize('path', metafiles(), ids=lambda p: p.parent.name)
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
        gpus, batch, crop = NUMBERS.search(name).groups()
        total = int(gpus) * int(batch)
        assert model['Metadata']['Batch Size'] == total

        row, cfg = rows[name], Config.fromfile(config)
        assert row['Crop Size'] == crop
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
