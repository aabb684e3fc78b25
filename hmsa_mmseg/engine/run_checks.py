"""What a run is checked for before it begins, and what it loads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import EMAHook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.losses import FocalLoss
from mmseg.models.segmentors import SegTTAModel
from torch import nn

from hmsa_mmseg.datasets import leaf_datasets
from hmsa_mmseg.datasets.class_and_pipeline_checks import (
    check_checkpoint_classes,
    check_dataset_classes,
    check_pipelines,
    class_names,
)
from hmsa_mmseg.utils.nonfinite import constant_infinities, nonfinite_names
from hmsa_mmseg.utils.ranks import check_same, from_all_processes
from hmsa_mmseg.utils.unwrapping import segmentor_of, unwrapped


def check_start(runner: Runner, check_classes: bool) -> None:
    """Refuse a run that would be wrong without a word, on all ranks.

    Args:
        runner (Runner): With the loops that will run built.
        check_classes (bool): Whether data sets and the decode head must have
            the same classes.

    Raises:
        ValueError: If they have not, processes list other images, a pipeline
            would lose the label, test-time augmentation does not go with the
            model, there is nothing to train, or the first iteration would
            fail.
    """
    from_all_processes(lambda: _check(runner, check_classes))
    if not runner.distributed:
        return
    for where, dataset in _datasets(runner):
        check_same(
            where,
            from_all_processes(lambda dataset=dataset: _images_of(dataset)),
            'the same images in the same order on every machine',
        )


def _check(runner: Runner, check_classes: bool) -> None:
    model = segmentor_of(runner.model)
    heads = getattr(model, 'decode_head', None)
    head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    for where, dataset in _datasets(runner):
        check_pipelines(dataset, where.startswith('train'), where)
        if check_classes:
            num_classes = getattr(head, 'num_classes', 1)
            check_dataset_classes(dataset, num_classes, where)
    is_stock_tta = isinstance(unwrapped(runner.model), SegTTAModel)
    if is_stock_tta and getattr(model, 'out_channels', 0) == 1:
        raise ValueError(
            'tta_model.type=SegTTAModel takes the sigmoid of what is a '
            'probability already where the head has out_channels=1; expected '
            "tta_model=dict(type='AccumulatingTTAModel')"
        )
    loop = runner._train_loop
    if not isinstance(loop, BaseLoop):
        return
    if loop.max_iters < 1:
        by_iter = isinstance(loop, IterBasedTrainLoop)
        name = 'max_iters' if by_iter else 'max_epochs'
        raise ValueError(
            f'train_cfg.{name}={getattr(loop, name)}: there is nothing to '
            'train; expected 1 or more'
        )
    _check_training(model)
    averaged = [h for h in runner.hooks if isinstance(h, EMAHook)]
    for start in (runner.model, *(h.ema_model.module for h in averaged)):
        segmentor_of(start).partial_weights = True


def _check_training(model: nn.Module) -> None:
    """Refuse what mmseg would fail at in the first iteration."""
    pads = model.data_preprocessor
    if isinstance(pads, SegDataPreProcessor) and (
        (pads.size is None) == (pads.size_divisor is None)
    ):
        raise ValueError(
            f'model.data_preprocessor: size={pads.size}, size_divisor='
            f'{pads.size_divisor}; expected one of them, such as the '
            'crop_size of the pipeline as size'
        )
    for name, module in model.named_modules():
        if not isinstance(module, FocalLoss):
            continue
        device = next(model.parameters()).device
        logits = torch.zeros(1, 2, 1, 1, device=device)
        try:
            FocalLoss()(logits, logits[:, 0].long())
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f'model.{name}: FocalLoss of mmseg cannot run on {device} '
                'with this mmcv; it needs a GPU and the full mmcv, compiled '
                'with CUDA. Expected those, or another loss, such as '
                'ClassWeightedCrossEntropyLoss or RMILoss'
            ) from error


def _images_of(dataset: object) -> str:
    """Tell how many images there are, and a hash of their names in order."""
    names = hashlib.sha256()
    for leaf in leaf_datasets(dataset):
        # Without folders, which may be local to a machine.
        if isinstance(leaf, BaseDataset):
            for index in range(len(leaf)):
                path = leaf.get_data_info(index).get('img_path') or ''
                names.update(os.fsencode(os.path.basename(path)) + b'/')
    return f'{len(dataset)} images ({names.hexdigest()[:8]})'


def check_loaded(
    runner: Runner, checkpoint: dict, check_classes: bool
) -> None:
    """Refuse a checkpoint that has diverged, or is of other classes.

    A training may start from weights of other classes, but not resume.

    Raises:
        ValueError: If weights hold NaN or infinity, or the classes are not
            those of the data sets.
    """
    path = runner._load_from or 'the checkpoint'
    # Masks of some backbones hold infinity on purpose.
    buffers = dict(unwrapped(runner.model).named_buffers())
    names = nonfinite_names(
        checkpoint.get('state_dict', {}), constant_infinities(buffers)
    )
    if names:
        raise ValueError(
            f'{path}: {names[0]} holds NaN or infinity, as do '
            f'{len(names) - 1} more of the weights; expected those of a '
            'training that has not diverged'
        )
    meta = checkpoint.get('meta', {})
    trained = (meta.get('dataset_meta') or {}).get('classes', ())
    is_training = isinstance(runner._train_loop, BaseLoop)
    if check_classes and (runner._resume or not is_training):
        for where, dataset in _datasets(runner):
            names = class_names(dataset)
            check_checkpoint_classes(trained, names, where, path)


def _datasets(runner: Runner) -> Iterator[tuple[str, object]]:
    """Data sets of the loops that will run, by their keys in the config."""
    for name in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{name}_loop')
        if isinstance(loop, BaseLoop):
            yield f'{name}_dataloader.dataset', loop.dataloader.dataset
