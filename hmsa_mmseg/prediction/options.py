"""Options of ``infer`` and ``label``, and what they do to a config."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import Registry, init_default_scope
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS, MODELS

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS
from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.loading import find_test_set

from .errors import PredictionError
from .products import OF_SCALES


def add_prediction(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that change predictions, see :func:`apply_options`."""
    group = parser.add_argument_group('prediction')
    group.add_argument(
        '--scales',
        type=_scales,
        help='relative image sizes, such as 0.5,1,2. Default: those of the '
        'config, model.test_cfg.scales',
    )
    group.add_argument(
        '--flip',
        action='store_true',
        help='average logits with those of the mirror image',
    )
    group.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        help='what backbone and heads compute in. Default: as in the config',
    )
    group.add_argument(
        '--slide',
        nargs=2,
        type=_size,
        metavar=('CROP', 'STRIDE'),
        help='predict in windows, each 512 or 512,1024 (height,width)',
    )
    group.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    return group


def add_running(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that change how a run goes, but not its results."""
    group = parser.add_argument_group('running')
    group.add_argument('--device', help='such as cpu or cuda. Default: a GPU')
    group.add_argument(
        '--shard',
        metavar='I/N',
        help='the share of this process, 0/3 to 2/3 for three. Default: as '
        'torchrun or slurm says',
    )
    group.add_argument(
        '--threads',
        type=count,
        default=2,
        help='that load images ahead. Default: 2',
    )
    group.add_argument(
        '--writers',
        type=positive,
        default=2,
        help='threads that write results. Default: 2',
    )
    group.add_argument(
        '--limit', type=positive, help='take the first inputs only'
    )
    group.add_argument(
        '--overwrite',
        action='store_true',
        help='do everything again, also in a folder with other results',
    )
    return group


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(','))


def _size(text: str) -> tuple[int, int]:
    parts = [positive(part) for part in text.split(',')]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(
            f'expected height,width or one number for both, got {text!r}'
        )
    return parts[0], parts[-1]


def positive(text: str) -> int:
    """Read an integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected 1 or more, got {text!r}')
    return value


def count(text: str) -> int:
    """Read an integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'expected 0 or more, got {text!r}')
    return value


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the options that change predictions into a config, in place.

    Raises:
        PredictionError: If the model has no such option.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    test_cfg = dict(cfg.model.get('test_cfg') or {})
    saves = [f'--save {save}' for save in args.save if save in OF_SCALES]
    needing = [*saves]
    if args.scales is not None:
        needing.append('--scales')
        test_cfg['scales'] = args.scales
    if args.dtype is not None:
        needing.append('--dtype')
        test_cfg['dtype'] = None if args.dtype == 'float32' else args.dtype
    is_multi_scale = issubclass(
        _class_of(cfg.model, MODELS), MultiScaleAttentionSegmentor
    )
    if needing and not is_multi_scale:
        raise PredictionError(
            f'{", ".join(needing)}: a model of type '
            f'{cfg.model.get("type")} has no scales to blend; expected '
            'MultiScaleAttentionSegmentor. MultiScaleAverageHead runs a '
            'checkpoint of a stock model at several scales, see '
            'configs/fusion'
        )
    if args.flip and saves:
        raise PredictionError(
            '--flip averages the logits of an image and its mirror image, '
            'and keeps nothing of single scales, which '
            f'{", ".join(saves)} would show; expected one of them'
        )
    # A report shows what there is.
    shows_scales = saves or ('report' in args.save and not args.flip)
    if is_multi_scale and shows_scales:
        test_cfg['scale_maps'] = True
    if args.slide is not None:
        crop_size, stride = args.slide
        test_cfg.update(mode='slide', crop_size=crop_size, stride=stride)
    cfg.model.test_cfg = test_cfg


def read_label_ids(
    cfg: Config, num_classes: int, option: str = '--label-ids'
) -> np.ndarray:
    """Find the numbers that the test set's own label files have for classes.

    Returns:
        ndarray: int64 (K,). Cityscapes: the label ids of its benchmark
        (cityscapesScripts, helpers/labels.py); data sets with
        ``reduce_zero_label``, such as ADE20K: one more than the class.

    Raises:
        PredictionError: If they are not known.
    """
    if is_cityscapes(cfg) and num_classes == len(EVALUATED_IDS):
        return np.array(EVALUATED_IDS)
    dataset = find_test_set(cfg)
    known = inspect.signature(_class_of(dataset, DATASETS).__init__)
    parameter = known.parameters.get('reduce_zero_label')
    default = parameter is not None and parameter.default
    if dataset.get('reduce_zero_label', default) is True:
        return np.arange(num_classes) + 1
    raise PredictionError(
        f'{option}: test_dataloader.dataset is {dataset.get("type")}, the '
        f'model has {num_classes} classes; expected a Cityscapes data set '
        'with its 19 classes, or one with reduce_zero_label=True. Of others '
        'the number of the class is what is known'
    )


def is_cityscapes(cfg: Config) -> bool:
    """Whether the test set of a config is one of Cityscapes."""
    return issubclass(
        _class_of(find_test_set(cfg), DATASETS), CityscapesDataset
    )


def _class_of(cfg: Mapping, registry: Registry) -> type:
    """Find the class that a ``type`` means; of none that is known object."""
    known = cfg.get('type')
    known = registry.get(known) if isinstance(known, str) else known
    return known if inspect.isclass(known) else object
