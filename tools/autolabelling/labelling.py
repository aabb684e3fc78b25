"""From a loaded image to its result, also where memory does not last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample

from hmsa_mmseg.prediction.errors import in_one_line
from hmsa_mmseg.prediction.pipeline import Loaded
from hmsa_mmseg.prediction.predicting import Predictor

from .errors import BadImageError

# Of a window, as in mmseg's own configs (769 and 513, 512 and 341).
_STRIDE = 2 / 3
# What torch says where the memory of a CPU does not last (c10,
# core/impl/alloc_cpu.cpp), and older versions where that of a GPU does not.
_SAID = ("can't allocate memory", 'not enough memory', 'out of memory')


class Labeller:
    """Predicts one image at a time.

    Args:
        predictor (Predictor): The model.
        device (str): Where it runs.
        cfg (Config): ``crop_size`` is the largest window.
        oom (str): What to do where memory does not last: ``fail``, ``slide``
            or ``cpu``. Scales are never changed: labels would be others.
    """

    def __init__(
        self, predictor: Predictor, device: str, cfg: Config, oom: str
    ) -> None:
        self.predictor = predictor
        self.device = device
        self.oom = oom
        self.crop_size = _pair(cfg.get('crop_size'))

    def __call__(self, image: Loaded) -> tuple[SegDataSample, str]:
        """Predict an image.

        Args:
            image (Loaded): From its loader.

        Returns:
            tuple[SegDataSample, str]: Its result, and how it was made: one of
            :data:`hmsa_mmseg.autolabel.pairs.MODES`.

        Raises:
            BadImageError: If it cannot be predicted.
        """
        is_slide = self.predictor.model.test_cfg.mode == 'slide'
        result, said = self._try(image)
        if result is not None:
            return result, 'slide' if is_slide else 'whole'
        mode = None
        if self.oom == 'slide' and not is_slide:
            mode, context = 'slide', self._windows(image)
        elif self.oom == 'cpu':
            mode, context = 'cpu', self._on_cpu()
        if mode is not None:
            with context:
                result, again = self._try(image)
            if result is not None:
                return result, mode
            said += f'; with --oom {self.oom}: {again}'
        height, width = image.inputs.shape[-2:]
        scales = ', '.join(f'{s:g}' for s in self.predictor.scales) or '1'
        raise BadImageError(
            'out-of-memory',
            f'{image.data_sample.img_path}: memory does not last for '
            f'{height}x{width} at scales {scales}: {said}',
        )

    def _try(self, image: Loaded) -> tuple[SegDataSample | None, str]:
        """Predict; without memory give what was said about it."""
        try:
            return self.predictor([image])[0], ''
        # Out of memory, an image too small for the network: of any type.
        except Exception as error:
            # Not the error itself, which holds on to the memory of the call.
            said, is_oom = in_one_line(error), is_out_of_memory(error)
        if not is_oom:
            height, width = image.inputs.shape[-2:]
            raise BadImageError(
                'prediction',
                f'{image.data_sample.img_path}: cannot be predicted at '
                f'{height}x{width}: {said}',
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None, said

    @contextmanager
    def _windows(self, image: Loaded) -> Iterator[None]:
        """Let the model see windows of at most half the height and width."""
        model = self.predictor.model
        cfg = model.test_cfg
        halves = [-(-side // 2) for side in image.inputs.shape[-2:]]
        crop = tuple(map(min, zip(halves, self.crop_size or halves)))
        stride = tuple(max(1, int(side * _STRIDE)) for side in crop)
        changed = dict(mode='slide', crop_size=crop, stride=stride)
        model.test_cfg = type(cfg)({**cfg, **changed})
        try:
            yield
        finally:
            model.test_cfg = cfg

    @contextmanager
    def _on_cpu(self) -> Iterator[None]:
        self.predictor.model.cpu()
        try:
            yield
        finally:
            self.predictor.model.to(self.device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or CPU, did not last."""
    # Its name before torch 2.5.
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(s in text for s in _SAID)


def _pair(value: Any) -> Sequence[int] | None:
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return (
        value if is_pair and all(isinstance(v, int) for v in value) else None
    )
