"""Suite `tta`: several scales and flips, against mmseg's own testing.

mmseg runs its OCRNet once for each scale and flip, and averages probabilities
(``SegTTAModel``). The hierarchical model sees all scales in one view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor

from hmsa_mmseg.models.segmentors import AccumulatingTTAModel

from .cases import SMALL_SIZE, Case, Options, must_be_equal
from .networks import SCALES, build, build_stock, config_for
from .page import Limit, size_text

TITLE = 'Multi-scale and flip testing'
NOTE = """\
One image, from uint8 to classes, with the same weights: mmseg runs OCRNet on
six views and averages probabilities; the hierarchical model sees scales 0.5,
1 and 2 in one view and blends them, or in two views, flipped and not.
Difference: share of other classes, of the mean of probabilities over views in
both test models. Counted at 1024x2048, timed at the size that is named."""
STOCK = 'mmseg TTA, 3 scales x flip'
OURS, FLIPPED = 'hierarchical, 3 scales', 'hierarchical, 3 scales x flip'
LIMITS = [
    # Two views instead of one cost twice as much.
    Limit('time of one view', '', OURS, 'ratio', 0.40),
    Limit('memory of one view', '', OURS, 'live_gb', 0.25, STOCK),
    Limit('memory of two views', '', FLIPPED, 'live_gb', 0.25, STOCK),
]
TOLERANCE = 1e-4


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared."""
    size = options.timed_size
    return {
        f'{size_text(size)} timed': lambda: Case(
            ways(options, size, options.device),
            counted=ways(options, options.true_size, 'meta'),
            check=partial(check, options),
        )
    }


def views(
    size: tuple[int, int],
    scales: Sequence[float],
    flips: Sequence[bool],
    device: str,
) -> dict[str, list]:
    """One image as a test pipeline with augmentation hands it over.

    ``inputs`` and ``data_samples``, for each scale and flip a list of one.
    """
    inputs, samples = [], []
    for scale in scales:
        scaled = tuple(int(side * scale) for side in size)
        for flip in flips:
            image = _image(scaled, device)
            inputs.append([image.flip(-1) if flip else image])
            meta = dict(
                img_path='',
                ori_shape=size,
                img_shape=scaled,
                pad_shape=scaled,
                flip=flip,
                flip_direction='horizontal' if flip else None,
            )
            samples.append([SegDataSample(metainfo=meta)])
    return dict(inputs=inputs, data_samples=samples)


@cache  # to make one takes longer than a GPU takes for its classes
def _image(size: tuple[int, int], device: str) -> Tensor:
    """A random image, (3, H, W), uint8."""
    if device == 'meta':
        return torch.empty(3, *size, dtype=torch.uint8, device='meta')
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, *size), generator=generator)
    return image.to(torch.uint8).to(device)


def one_view(size: tuple[int, int], device: str) -> dict[str, list]:
    """The image alone: mmseg's mode for one view takes no list of views."""
    data = views(size, (1.0,), (False,), device)
    return {key: value[0] for key, value in data.items()}


def ways(
    options: Options, size: tuple[int, int], device: str
) -> dict[str, Callable[[], Any]]:
    """The ways that are compared, each to the classes of one image."""
    cfg = config_for(options.size)
    model = build(cfg, device)
    model.test_cfg['classes_only'] = True
    stock = SegTTAModel(build_stock(cfg, device)).eval().to(device)
    ours = AccumulatingTTAModel(build(cfg, device)).eval().to(device)
    one = one_view(size, device)
    both = (False, True)
    functions = {
        STOCK: lambda: stock.test_step(views(size, SCALES, both, device)),
        OURS: lambda: model.test_step(dict(one)),
        FLIPPED: lambda: ours.test_step(views(size, (1.0,), both, device)),
    }
    return {way: torch.no_grad()(run) for way, run in functions.items()}


@torch.no_grad()
def check(options: Options) -> dict[str, float]:
    """Compare both ways to test, on one model; stops if they differ.

    Of the same hierarchical model and views the mean of probabilities must
    be mmseg's; the share of pixels of another class is what is compared.
    """
    size, device = SMALL_SIZE, options.device
    model = build(config_for(options.size), device)
    make = partial(views, size, (1.0,), (False, True), device)
    (expected,) = SegTTAModel(model).eval().test_step(make())
    ours = AccumulatingTTAModel(model, average='softmax').eval()
    (found,) = ours.test_step(make())
    expected, found = (
        sample.pred_sem_seg.data.squeeze() for sample in (expected, found)
    )
    differ = (expected != found).float().mean().item()
    must_be_equal('tta', {'wrong classes': differ}, TOLERANCE)
    return {FLIPPED: differ}
