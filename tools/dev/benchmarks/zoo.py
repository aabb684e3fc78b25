"""Suite `zoo`: models of mmseg's zoo and of this package, under its rules.

Of every model: parameters, and FLOPs, time and memory of a training step and
of the test of one image, at one scale, at the zoo's six scales with flips and
hierarchically. mIoU is evaluated where ``--data-root`` and the weights are on
disk, and quoted from the installed zoo where they are not; nothing is
downloaded.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.models import SegTTAModel
from mmseg.utils import register_all_modules
from torch import nn
from torch.overrides import TorchFunctionMode

from hmsa_mmseg.utils import safe_load
from hmsa_mmseg.zoo import config_root, find_config

from .cases import SMALL_SIZE, Case, Options, count
from .networks import CONFIGS, build
from .page import size_text
from .steps import TrainingStep, meta_step
from .tta import one_view, views

IS_APART = True
TITLE = 'Against the model zoo'
NOTE = """\
- **mIoU**: Cityscapes val, percent. *published*: from the metafile of the
  installed mmseg. *evaluated*: these weights, with mmseg's `IoUMetric`.
  *quoted*: said by the authors of the method, with other data, and **not
  comparable**: both models were pre-trained on Mapillary Vistas, and the
  second was also trained on coarse images of Cityscapes with automatic labels,
  by a teacher that was trained on val too.
- **Test**: from the uint8 image to classes, batch 1. mmseg tests the whole
  image unless the config says `slide`, at one scale, or averages six scales
  (0.5 to 1.75) and their flips. A hierarchical model blends the scales of its
  config by itself; at one scale it runs at scale 1 alone. Counted at
  1024x2048, timed at 256x512 on a CPU and at 1024x2048 on a GPU.
- **Training**: forward and backward of one batch per GPU at the config's
  crop, counted with plain cross-entropy; timed, with the config's losses and
  optimizer, at 128x256 on a CPU and at the crop on a GPU.
- **GB**: counted in float32; weights, and state of the optimizer, apart.
  Times of float16 and bfloat16 are under autocast."""
LIMITS = []
#: What is compared if nothing is asked for.
DEFAULT = (
    'ocrnet_hr48_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024',
    'ocrnet_hr18_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024',
    'fcn_hr48_4xb2-160k_cityscapes-512x1024',
    'deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024',
    'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
    'pspnet_r101-d8_4xb2-80k_cityscapes-512x1024',
    'upernet_r101_4xb2-80k_cityscapes-512x1024',
    'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
    'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024',
    'segformer_mit-b5_8xb1-160k_cityscapes-1024x1024',
    'pidnet-s_2xb6-120k_1024x1024-cityscapes',
    'pidnet-l_2xb6-120k_1024x1024-cityscapes',
)
SINGLE, FLIPPED, BLENDED = 'one scale', '6 scales x flip', 'hierarchical'
#: Of ``tta_pipeline`` in mmseg's configs for Cityscapes.
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
#: GFLOP of the authors' program for one image of 1024x2048 at three scales,
#: and what their README says of it, in percent on Cityscapes val.
AUTHORS_GFLOP = 16063.3
QUOTED = {
    'with Mapillary Vistas': (84.7, 'README of the authors, train_cityscapes'),
    'with labels of a teacher too': (
        86.92,
        'README of the authors, eval_cityscapes; 496 of the 500 images',
    ),
}


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """Two cases for each model: test and training."""
    register_all_modules(init_default_scope=True)
    found: dict[str, Callable[[], Case]] = {}
    for name in options.models or DEFAULT:
        path = find_model(name)
        title = re.match(r'(.+?)(_\d+xb\d+|$)', path.stem)[1]
        title = path.stem if title in found else title
        found[title] = partial(test_case, path, options)
        found[f'{title}, training'] = partial(train_case, path, options)
    facts = {
        way: dict(miou=miou, source=f'quoted, {source}', gflop=AUTHORS_GFLOP)
        for way, (miou, source) in QUOTED.items()
    }
    found['authors, HRNet-W48 OCR'] = lambda: Case(facts=facts)
    return found


def find_model(name_or_path: str) -> Path:
    """Find a config: a file, or a name in this repository or in the zoo."""
    if not Path(name_or_path).is_file():
        stem = Path(name_or_path).name.removesuffix('.py')
        for path in CONFIGS.rglob(f'{stem}.py'):
            if '_base_' not in path.parts:
                return path
    return find_config(name_or_path).resolve()


def crop_and_batch(cfg: Config) -> tuple[tuple[int, int], int]:
    """Crop (H, W) and images on one GPU, as a config trains."""
    size = cfg.get('crop_size') or cfg.model.data_preprocessor.get('size')
    batch = cfg.get('train_dataloader', {}).get('batch_size')
    if not size or not batch:
        raise ValueError(
            'expected crop_size, or model.data_preprocessor.size, and '
            f'train_dataloader.batch_size; got {size} and {batch}'
        )
    return (int(size[0]), int(size[1])), int(batch)


def _autocasts(options: Options) -> dict[str, torch.autocast]:
    return {
        '' if dtype == 'float32' else f', {dtype}': torch.autocast(
            *(options.device, getattr(torch, dtype)),
            enabled=dtype != 'float32',
        )
        for dtype in options.dtypes
    }


def test_case(path: Path, options: Options) -> Case:
    """The test of one image, in each way that a model has."""
    cfg = Config.fromfile(path)
    test_cfg = cfg.model.get('test_cfg') or {}
    is_ours, slides = 'scales' in test_cfg, test_cfg.get('mode') == 'slide'
    modes = (SINGLE, BLENDED if is_ours else FLIPPED)
    counted, timed = options.true_size, options.timed_size
    scores = _scores(path.stem, cfg, modes, options)
    on_meta, model = build(cfg, 'meta'), build(cfg, options.device)
    weights = sum(param.numel() for param in model.parameters()) / 1e6
    facts, ways = {}, {}
    for mode in modes:
        facts[mode] = dict(scores.get(mode, {}), mparam=weights)
        # On a GPU no time is lost with what is the same on every machine.
        if options.device == 'cpu':
            holds = _HoldsOnMeta() if slides else nullcontext()
            with torch.no_grad(), holds:
                facts[mode].update(count(test(on_meta, mode, counted, 'meta')))
            share = timed[0] * timed[1] / (counted[0] * counted[1])
            tflop = facts[mode]['gflop'] / 1e3 * share
            if tflop > options.max_tflop:
                facts[mode]['error'] = f'not timed: {tflop:.1f} TFLOP'
                continue
        run = torch.no_grad()(test(model, mode, timed, options.device))
        for suffix, autocast in _autocasts(options).items():
            ways[mode + suffix] = autocast(run)
    return Case(ways, facts=facts)


def test(
    model: nn.Module, mode: str, size: tuple[int, int], device: str
) -> Callable[[], Any]:
    """Return a test of one image (H, W), from uint8 to classes."""
    if mode == FLIPPED:
        tester = SegTTAModel(model).eval()
        data = views(size, RATIOS, (False, True), device)
        return lambda: tester.test_step(data)
    one = one_view(size, device)
    if mode == BLENDED or 'scales' not in (model.test_cfg or {}):
        return lambda: model.test_step(dict(one))

    scales = model.test_cfg.scales

    def at_one_scale() -> Any:
        model.test_cfg.scales = (1.0,)
        try:
            return model.test_step(dict(one))
        finally:
            model.test_cfg.scales = scales

    return at_one_scale


def train_case(path: Path, options: Options) -> Case:
    """A training step of a config, as `own`."""
    cfg = Config.fromfile(path)
    crop, batch = crop_and_batch(cfg)
    size = crop
    if options.is_small or options.device == 'cpu':
        size = SMALL_SIZE if options.is_small else (128, 256)
    step = meta_step('own', cfg, batch, crop, options)
    way = f'{batch} x {size_text(crop)}'
    ways = {}
    for suffix, dtype in zip(_autocasts(options), options.dtypes):
        autocast = None if dtype == 'float32' else getattr(torch, dtype)
        ways[way + suffix] = TrainingStep(
            'own', cfg, batch, size, options, autocast
        )
    return Case(ways, counted={way: step})


class _HoldsOnMeta(TorchFunctionMode):
    """Takes every condition on values as met: on ``meta`` there are none.

    mmseg's sliding inference asserts that each pixel was seen.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Iterable[type],
        args: tuple = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run a function of torch, but do not ask for a truth value."""
        if func is torch.Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))


def published(name: str) -> dict[str, Any]:
    """What the metafile of its family says about a config of the zoo."""
    for path in config_root().glob(f'*/{name}.py'):
        content = yaml.safe_load(path.with_name('metafile.yaml').read_text())
        for model in content['Models']:
            if model['Name'] == name:
                return model
    return {}


def _scores(
    name: str, cfg: Config, modes: Iterable[str], options: Options
) -> dict[str, dict[str, Any]]:
    """Scores and where they are from, by mode; evaluated ones go first."""
    scores = {}
    found = published(name).get('Results') or {}
    # One result or a list of them. Names tell of the data set; in mmseg 1.2.2
    # twelve rows of OCRNet have a heading of its README as `Dataset`.
    found = found[0] if isinstance(found, list) else found
    metrics = found.get('Metrics', {}) if 'cityscapes' in name else {}
    for mode, key in ((SINGLE, 'mIoU'), (FLIPPED, 'mIoU(ms+flip)')):
        if metrics.get(key) is not None:
            scores[mode] = dict(miou=metrics[key], source='published')
    files = find_weights(name, options)
    if options.data_root is not None and files:
        for mode in modes:
            miou = evaluate(cfg, files[0], options.data_root, mode)
            scores[mode] = dict(
                miou=miou, source=f'evaluated, {files[0].name}'
            )
    return scores


def find_weights(name: str, options: Options) -> list[Path]:
    """Find a model's checkpoint on disk; nothing is downloaded.

    ``<name>*.pth`` in the folder of checkpoints, or the file name of the zoo
    there or in the cache of ``torch.hub``, where mmengine downloads to.
    """
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    folder = options.weights or cache
    found = sorted(folder.glob(f'{name}*.pth'))
    in_zoo = str(published(name).get('Weights', '')).rpartition('/')[2]
    if in_zoo:
        found += [place / in_zoo for place in (folder, cache)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def evaluate(cfg: Config, weights: Path, data_root: Path, mode: str) -> float:
    """Evaluate a model on the test set of its config, as mmseg's test.py."""
    cfg = copy.deepcopy(cfg)
    cfg.model.pretrained = None
    cfg.model.backbone.pop('init_cfg', None)
    cfg.test_dataloader.dataset.data_root = str(data_root)
    if mode == SINGLE and 'scales' in (cfg.model.get('test_cfg') or {}):
        cfg.model.test_cfg.scales = (1.0,)
    if mode == FLIPPED:
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(type='SegTTAModel', module=cfg.model)
    with tempfile.TemporaryDirectory() as logs:
        runner = Runner(
            cfg.model,
            logs,
            test_dataloader=cfg.test_dataloader,
            test_cfg=cfg.test_cfg,
            test_evaluator=cfg.test_evaluator,
            default_scope='mmseg',
            experiment_name=Path(logs).name,
        )
        # With a mode that flips, the segmentor is inside.
        model = getattr(runner.model, 'module', runner.model)
        # Strictly: a head with random weights must not get a score.
        model.load_state_dict(safe_load(weights)['state_dict'])
        return float(runner.test()['mIoU'])


def draw(results: Mapping[str, Any], path: Path) -> bool:
    """Draw mIoU against operations and against time, if there are any."""
    # Only here: nothing else needs matplotlib. No display is asked for.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models: dict[str, list] = {}
    for row in results['rows']:
        if not row['case'].endswith('training'):
            models.setdefault(row['case'], []).append(row)
    if not models:
        return False
    on_gpu = results['machine']['gpu']
    clock = ('ms', 'ms') if on_gpu else ('cpu_ms', 'ms of processor time')
    figure = Figure(figsize=(12, 5), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, (('gflop', 'GFLOP'), clock)):
        axes.set_xscale('log')
        axes.set_xlabel(f'{title} of one image (log)')
        axes.grid(alpha=0.3)
        for i, (label, rows) in enumerate(models.items()):
            style = dict(
                color=colormaps['tab20'](i % 20), marker='os^*D'[i % 5]
            )
            rows = [row for row in rows if row.get(key)]
            known = [row for row in rows if row.get('miou')]
            axes.plot(
                [row[key] for row in known],
                [row['miou'] for row in known],
                linestyle=':',
                label=label,
                **style,
            )
            unknown = [row[key] for row in rows if not row.get('miou')]
            # At the lower edge.
            axes.plot(
                unknown,
                [0.02] * len(unknown),
                linestyle='',
                fillstyle='none',
                transform=axes.get_xaxis_transform(),
                **style,
            )
    panels[0].set_ylabel('mIoU (%); hollow, at the edge: not known')
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc='outside right center', fontsize=8)
    figure.savefig(path, dpi=100)
    return True
