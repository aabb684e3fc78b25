"""How many operations and parameters a segmentor's inference takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.model import revert_sync_batchnorm
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.compat import flop_counter, torch_has

from ..models.preparation import input_channels
from ..models.segmentors.slide import slide_windows


class Complexity(NamedTuple):
    """What one image costs.

    Attributes:
        flops (int): Of matrix products and convolutions, two for each
            multiplication with its addition; all else is not counted.
        params (int): Numbers in all parameters, auxiliary heads left out.
        size (tuple[int]): (H, W) of the image.
        padded_size (tuple[int]): As the preprocessor hands it to the model.
        windows (int): How many the image is cut into; 1 if it is seen whole.
        device (str): ``meta`` if nothing had to be computed, or ``cpu``.
    """

    flops: int
    params: int
    size: tuple[int, int]
    padded_size: tuple[int, int]
    windows: int
    device: str

    @property
    def macs(self) -> int:
        """Multiply-adds: half the operations."""
        return self.flops // 2


def complexity(model: nn.Module, size: tuple[int, int]) -> Complexity:
    """Count what a segmentor does with one image in ``test.py``.

    All that its test settings ask for counts: scales, fast paths, windows.
    The model is left as it is. A RuntimeError is raised if it does not run at
    that size, (H, W), saying why.
    """
    model = copy.deepcopy(model).cpu().eval()
    # They are for training.
    if hasattr(model, 'auxiliary_head'):
        model.auxiliary_head = None
    model = revert_sync_batchnorm(model).requires_grad_(False)
    test_cfg = getattr(model, 'test_cfg', None) or {}
    sample = SegDataSample(
        metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size)
    )
    image = torch.zeros(input_channels(model), *size, dtype=torch.uint8)
    data = model.data_preprocessor(
        dict(inputs=[image], data_samples=[sample]), False
    )
    inputs, samples = data['inputs'], data['data_samples']
    padded_size = tuple(inputs.shape[2:])
    number = 1
    if test_cfg.get('mode') == 'slide':
        sides = zip(padded_size, test_cfg['crop_size'], test_cfg['stride'])
        rows, columns = (slide_windows(*side) for side in sides)
        number = len(rows) * len(columns)
        # All windows are of one size: mmseg moves the last ones back.
        window = inputs[:, :, rows[0], columns[0]]
        metas = [{**samples[0].metainfo, 'img_shape': window.shape[2:]}]

        def run(model: nn.Module, device: str) -> Any:
            return model.encode_decode(window.to(device), metas)
    else:

        def run(model: nn.Module, device: str) -> Any:
            return model.predict(inputs.to(device), copy.deepcopy(samples))

    flops, device = _count(model, run)
    return Complexity(
        flops=flops * number,
        params=sum(param.numel() for param in model.parameters()),
        size=tuple(size),
        padded_size=padded_size,
        windows=number,
        device=device,
    )


def _count(
    model: nn.Module, run: Callable[[nn.Module, str], Any]
) -> tuple[int, str]:
    """Count without computing, or, if a model reads values, on the CPU."""
    flop_counter()  # Before all else: says which torch has one.
    with torch.no_grad(), _dispatch_attention():
        try:
            on_meta = copy.deepcopy(model).to('meta')
            return count_flops(lambda: run(on_meta, 'meta')), 'meta'
        # What reads values has errors of several types there.
        except Exception:
            pass
        try:
            return count_flops(lambda: run(model, 'cpu')), 'cpu'
        except Exception as error:
            raise RuntimeError(
                f'{type(model).__name__} does not run: '
                f'{type(error).__name__}: {error}'
            ) from error


@contextmanager
def _dispatch_attention() -> Iterator[None]:
    """Let attention run as matrix products, which are counted.

    torch's fused operators on the CPU are none that its counter knows.
    """
    with ExitStack() as stack:
        if torch_has('choice_of_attention'):
            mha = torch.backends.mha
            before = mha.get_fastpath_enabled()
            stack.callback(mha.set_fastpath_enabled, before)
            mha.set_fastpath_enabled(False)
            attention = torch.nn.attention
            math = attention.SDPBackend.MATH
            stack.enter_context(attention.sdpa_kernel(math))
        yield


def count_flops(function: Callable[[], Any]) -> int:
    """Count the floating-point operations of a call.

    They are counted where PyTorch dispatches them: what is computed by
    functions instead of layers counts as well, which hooks on layers miss,
    and so does a backward that is run inside. Counted are those that
    :class:`Complexity` says.
    """
    mapping = {torch.ops.aten.convolution_backward: _backward_flops}
    with flop_counter(display=False, custom_mapping=mapping) as counter:
        function()
    return counter.get_total_flops()


def _backward_flops(
    grad_out: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    """Count a convolution's backward: each gradient costs what forward does.

    torch's own count leaves out the groups in the weight's gradient, which
    makes that of a depthwise convolution of 64 channels 64 times too large.
    """
    _bias, _stride, _padding, _dilation, transposed, *_, output_mask = args
    size = x if transposed else grad_out
    forward = 2 * x[0] * math.prod(weight) * math.prod(size[2:])
    return forward * sum(output_mask[:2])
