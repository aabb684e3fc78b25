"""Labels of a teacher, ignored where it was not sure."""

from __future__ import annotations

import numpy as np
from mmseg.registry import TRANSFORMS

from ..confidence import is_kept
from .label_companion import LabelCompanion
from .load_seg_labels import IGNORE, read_grey


@TRANSFORMS.register_module()
class ApplyConfidence(LabelCompanion):
    """Ignore a label where its confidence is below a threshold.

    The confidence lies beside the label in ``prob_map_path``, in eight bits,
    see :mod:`hmsa_mmseg.datasets.confidence`: 0.5 keeps values from 128 on,
    0.9 from 230 on. The comparison is the authors'
    (NVIDIA/semantic-segmentation, datasets/base_loader.py).

    Args:
        threshold (float): 0 to 1; what is equal to it is kept. Defaults to
            0.5, as in the authors' code; their paper says 0.9.
        required (bool): Whether a sample without confidence is an error.
            Defaults to False: it passes unchanged.
        backend_args (dict, optional): Arguments of the file back end.

    Raises:
        ValueError: When built, if the threshold is not 0 to 1. When called,
            if the file is no grey image of eight bits, and as
            :class:`LabelCompanion`.
    """

    reads = 'prob_map_path'

    def __init__(
        self,
        threshold: float = 0.5,
        required: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(required, backend_args)
        self.threshold = threshold
        # Of the values kept; 255 stands for 1, so there always is one.
        self._lowest = int(is_kept(threshold).argmax())

    def _read(self, path: str, results: dict) -> np.ndarray:
        confidence = read_grey(path, self.backend_args, 'confidence map')
        if confidence.dtype != np.uint8:
            raise ValueError(
                f'{path}: a {confidence.dtype} confidence map of the label '
                f'{results["seg_map_path"]}; expected 8-bit grey values, 255 '
                'times the probability'
            )
        return confidence

    def _change(self, label: np.ndarray, other: np.ndarray) -> np.ndarray:
        changed = label.copy()
        changed[other < self._lowest] = IGNORE
        return changed

    def __repr__(self) -> str:
        """Return the options."""
        return (
            f'{type(self).__name__}(threshold={self.threshold}, '
            f'required={self.required})'
        )
