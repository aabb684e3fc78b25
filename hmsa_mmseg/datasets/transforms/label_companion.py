"""What the transforms share that change a label by a second file."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from mmcv.transforms import BaseTransform


class LabelCompanion(BaseTransform):
    """Changes the label of a sample by another file of the same size.

    Goes after the transform that loads the label and before any that resizes,
    crops or flips. A sample without such a file passes unchanged, so that one
    pipeline serves several data sets, and so does one without label, as in
    inference.

    Args:
        required (bool): Whether a sample without the file is an error.
            Defaults to False.
        backend_args (dict, optional): Arguments of the file back end.

    Raises:
        ValueError: When called, if a required file is not named, if the label
            is not loaded yet or was flipped already, or if the file has
            another size than the label.
    """

    #: Key of the file's path in a sample. The index of class centroids
    #: depends on these files too where such a transform loads labels.
    reads: str

    def __init__(
        self, required: bool = False, backend_args: dict | None = None
    ) -> None:
        self.required = required
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Change ``gt_seg_map``, (H, W) uint8."""
        label_path = results.get('seg_map_path')
        path = results.get(self.reads)
        if label_path is None or (path is None and not self.required):
            return results
        name = type(self).__name__
        if path is None:
            raise ValueError(
                f'{name}: the sample of {label_path} has no {self.reads}, '
                'which required=True asks for; expected a data set that '
                'lists one, such as AutoLabelDataset'
            )
        label = results.get('gt_seg_map')
        if label is None or results.get('flip'):
            raise ValueError(
                f'{name}: the label {label_path} is '
                f'{"not loaded yet" if label is None else "flipped already"}; '
                'expected this transform right after LoadSegLabels'
            )
        other = self._read(path, results)
        if other.shape != label.shape:
            raise ValueError(
                f'{path}: {other.shape[0]}x{other.shape[1]}, but its label '
                f'{label_path} is {label.shape[0]}x{label.shape[1]} (height x '
                f'width); expected the same size, and {name} before any '
                'transform that resizes or crops'
            )
        results['gt_seg_map'] = self._change(label, other)
        return results

    @abstractmethod
    def _read(self, path: str, results: dict) -> np.ndarray:
        """Return what the file holds, (H, W)."""

    @abstractmethod
    def _change(self, label: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return a changed copy of the label."""
