"""A model made ready for inference: the same function in less time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmseg.models.segmentors import EncoderDecoder
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hmsa_mmseg.compat import torch_has, torch_needed

from .decode_heads.base_multi_scale_head import BaseMultiScaleHead
from .folding import fold_batch_norm
from .utils.cuda_graph import GraphCache

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def prepare_for_inference(
    model: EncoderDecoder,
    fold_bn: bool = True,
    channels_last: bool = True,
    compile: bool | Mapping = False,
    cuda_graph: bool = False,
) -> EncoderDecoder:
    """Change a trained model, in place, so that it predicts in less time.

    Predictions stay the same up to rounding. To go on training, or to load
    another checkpoint, prepare a copy: ``copy.deepcopy(model)``.

    Args:
        model (EncoderDecoder): In evaluation mode, its weights loaded, on
            the device where it will run.
        fold_bn (bool): Whether batch normalisation becomes part of the
            convolutions before it; the log says of how many layers, and
            which norm layers are left. Defaults to True.
        channels_last (bool): Whether convolutions keep channels together in
            memory, which most kernels prefer. Defaults to True.
        compile (bool | dict): Whether ``torch.compile`` compiles the
            backbone, at first use and once for each scale and size of
            images, which takes a minute or more; with fixed sizes only. A
            dict holds its arguments. Defaults to False.
        cuda_graph (bool): Whether backbone and heads run as a CUDA graph,
            captured when a size of images comes for the second time; the
            graphs of four sizes are kept. Weights stay where they are from
            then on. It has never run on a GPU. Defaults to False.

    Returns:
        EncoderDecoder: The same model.

    Raises:
        TypeError: If it is no encoder-decoder of mmseg.
        ValueError: If it is in training mode, torch cannot compile it, or
            ``cuda_graph`` is asked for with a model of mmseg's own.
    """
    if not isinstance(model, EncoderDecoder):
        raise TypeError(
            'prepare_for_inference: expected an EncoderDecoder of mmseg, '
            f'such as MultiScaleAttentionSegmentor; got {type(model).__name__}'
        )
    if model.training:
        raise ValueError(
            'prepare_for_inference: expected a model in evaluation mode, '
            'model.eval(); got one in training mode'
        )
    options = compile_options(compile, 'prepare_for_inference')
    if cuda_graph and not hasattr(model, 'inference_graphs'):
        raise ValueError(
            'prepare_for_inference: cuda_graph=True is for '
            f'MultiScaleAttentionSegmentor; got {type(model).__name__}'
        )
    if fold_bn:
        pairs = fold_batch_norm(model, lambda: _run_plainly(model))
        left = Counter(
            type(module).__name__
            for module in model.modules()
            if isinstance(module, _NORMS)
        )
        kinds = ', '.join(f'{left[kind]} {kind}' for kind in sorted(left))
        print_log(
            f'prepare_for_inference: {len(pairs)} norm layers folded into '
            f'convolutions, left as they are: {kinds or "none"}',
            logger='current',
        )
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if options is not None:
        model.backbone.compile(**options)
    if cuda_graph:
        model.inference_graphs = GraphCache(
            'prepare_for_inference: cuda_graph', keep_latest=True
        )
    return model


def compile_options(compile: bool | Mapping, where: str) -> dict | None:
    """Arguments of ``torch.compile`` of an option, None to do without.

    Raises:
        ValueError: If it is no such option, or torch cannot compile a part of
            a model; ``where`` begins the message.
    """
    if not isinstance(compile, (bool, Mapping)):
        raise ValueError(
            f'{where}: compile must be True, False or a dict of arguments of '
            f'torch.compile, got {compile!r}'
        )
    if compile is False:
        return None
    if not torch_has('compile_module'):
        raise ValueError(
            f'{where}: compile={compile!r} {torch_needed("compile_module")}'
        )
    return {'dynamic': False, **({} if compile is True else compile)}


def input_channels(model: EncoderDecoder) -> int:
    """Channels of a model's images: as many as their mean has, else 3."""
    mean = getattr(model.data_preprocessor, 'mean', None)
    return 3 if mean is None else len(mean)


def _run_plainly(model: EncoderDecoder) -> None:
    """Run all layers that inference runs, each called as a module."""
    param = next(model.backbone.parameters())
    image = param.new_zeros(1, input_channels(model), 64, 64)
    if not isinstance(model.decode_head, BaseMultiScaleHead):
        model.encode_decode(image, [dict(img_shape=(64, 64))])
        return
    head, fast = model.decode_head, model.decode_head.fast
    head.fast = False
    try:
        scales = model.inference_settings.scales[::-1]
        head.predict(model.extract_scales(image, scales), image.shape[2:])
    finally:
        head.fast = fast
