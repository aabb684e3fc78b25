"""Suite `mapillary`: memory of one image, scored at the size of its file.

Nothing is computed: what tensors hold is counted on `meta`, as in the suite
`memory`. One image of 4000 x 6000, seen by the network at the authors' long
edge of 2177.
"""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import copy
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.models import AccumulatingTTAModel

from .measure import live_gb, machine
from .networks import MAPILLARY, build, config_for
from .options import Options, progress

TITLE = 'Mapillary at the size of its files'
# Input and file, (H, W).
SIZES = dict(small=((96, 144), (200, 300)), full=((1451, 2177), (4000, 6000)))
FLIPS = (None, 'horizontal')


class _StockResults:
    """The same network, with results that mmseg makes of whole logits."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.copy(model)
        self.model.test_cfg = type(model.test_cfg)(
            {**model.test_cfg, 'classes_only': False}
        )

    def predict(
        self, inputs: torch.Tensor, samples: list[SegDataSample]
    ) -> list[SegDataSample]:
        logits = self.model.encode_decode(inputs)
        return EncoderDecoder.postprocess_result(self.model, logits, samples)


def _sample(size: tuple, ori_shape: tuple, flip: str | None) -> SegDataSample:
    return SegDataSample(
        metainfo=dict(
            ori_shape=ori_shape,
            img_path='image.jpg',
            img_shape=size,
            flip=flip is not None,
            flip_direction=flip,
        )
    )


def _stock_flips(
    stock: _StockResults, image: torch.Tensor, samples: list[SegDataSample]
) -> Any:
    """SegTTAModel: results of all views, then their mean probability."""
    views = [
        stock.predict(image[None], [sample.clone()])[0] for sample in samples
    ]
    merged = SegTTAModel.__new__(SegTTAModel)
    nn.Module.__init__(merged)
    merged.module = stock.model
    return merged.merge_preds([views])


class _Stacked(nn.Module):
    """Stands for a preprocessor: there are no values to prepare."""

    def forward(self, data: dict, training: bool) -> dict:
        return dict(data, inputs=torch.stack(data['inputs']))


def _our_flips(
    model: nn.Module, image: torch.Tensor, samples: list[SegDataSample]
) -> Any:
    model = copy.copy(model)
    model._modules = {**model._modules, 'data_preprocessor': _Stacked()}
    views = dict(
        inputs=[[image]] * len(samples),
        data_samples=[[sample.clone()] for sample in samples],
    )
    return AccumulatingTTAModel(model, confidence=True).test_step(views)


def run(options: Options) -> dict[str, Any]:
    """Count.

    Args:
        options (Options): Rounds play no part.

    Returns:
        dict: What is written as JSON.
    """
    size, ori_shape = SIZES[options.size]
    model = build(config_for(options.size, MAPILLARY), 'meta')
    stock = _StockResults(model)
    with_confidence = copy.copy(model)
    with_confidence.test_cfg = type(model.test_cfg)(
        {**model.test_cfg, 'confidence': True}
    )
    image = torch.empty(3, *size, device='meta')
    samples = [_sample(size, ori_shape, flip) for flip in FLIPS]

    def one() -> list[SegDataSample]:
        return [samples[0].clone()]

    functions = {
        'network to logits': lambda: stock.model.encode_decode(image[None]),
        "mmseg's results": lambda: stock.predict(image[None], one()),
        'classes, confidence': lambda: with_confidence.predict(
            image[None], one()
        ),
        "flips, mmseg's SegTTAModel": lambda: _stock_flips(
            stock, image, samples
        ),
        'flips, AccumulatingTTAModel, confidence': lambda: _our_flips(
            model, image, samples
        ),
    }
    peaks = {}
    with torch.no_grad():
        for name, function in functions.items():
            progress(f'mapillary: {name}')
            peaks[name] = live_gb(function)
    return dict(
        machine=machine(),
        size=list(size),
        file_size=list(ori_shape),
        scales=list(model.test_cfg.scales),
        logits_of_file=4e-9 * model.out_channels * ori_shape[0] * ori_shape[1],
        peak=peaks,
    )


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    size, file_size = (
        ' x '.join(map(str, results[key])) for key in ('size', 'file_size')
    )
    lines = [
        f'One image of {file_size}, seen at {size} and at scales '
        f'{", ".join(f"{s:g}" for s in results["scales"])}, scored at the '
        'size of its file, where the logits of all classes alone are '
        f'{results["logits_of_file"]:.2f} GB. The most that tensors hold at '
        'once above weights and input, in float32, counted without values on '
        'the meta device; one network in all rows.',
        '',
        '| | GB |',
        '| :-- | --: |',
    ]
    lines += [
        f'| {name} | {peak:.2f} |' for name, peak in results['peak'].items()
    ]
    return '\n'.join(lines)
