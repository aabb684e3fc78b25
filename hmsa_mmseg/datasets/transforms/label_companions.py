"""Labels that are changed by a second file: confidence, coarse labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..confidence import is_kept
from .load_seg_labels import IGNORE, UNKNOWN, LoadSegLabels, read_grey
from .options_repr import OptionsRepr


class LabelCompanion(OptionsRepr, BaseTransform):
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


@TRANSFORMS.register_module()
class UniteCoarseLabels(LabelCompanion):
    """Set given classes also where a coarse label has them.

    For each class, in ascending order: pixels which ``coarse_map_path`` gives
    this class get it, whatever they were. With ``only_if_present`` a class
    that is (no longer) in the label is left out. This is what the authors'
    ``--custom_coarse_dropout_classes`` does, despite its name
    (NVIDIA/semantic-segmentation, datasets/base_loader.py: ``read_images``).

    Values of the coarse file become classes through the sample's
    ``coarse_label_map`` and ``coarse_reduce_zero_label``; where it has none,
    through ``label_map`` and ``reduce_zero_label``, as the label did.

    Args:
        classes (Sequence[int]): Class numbers. Defaults to (14, 15, 16), the
            authors' truck, bus and train of Cityscapes.
        only_if_present (bool): Whether the label itself must have the class
            somewhere. Defaults to True, as the authors'.
        required (bool): Whether a sample without coarse label is an error.
            Defaults to False: it passes unchanged.
        backend_args (dict, optional): Arguments of the file back end.

    Raises:
        ValueError: When built, if ``classes`` are not different numbers from
            0 to 253. When called, if the coarse file is no label, see
            :class:`LoadSegLabels`, and as :class:`LabelCompanion`.
    """

    reads = 'coarse_map_path'

    def __init__(
        self,
        classes: Sequence[int] = (14, 15, 16),
        only_if_present: bool = True,
        required: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(required, backend_args)
        self.classes = tuple(sorted(classes))
        self.only_if_present = only_if_present
        different = {*self.classes} & {*range(UNKNOWN)}
        if not self.classes or len(different) != len(self.classes):
            raise ValueError(
                f'UniteCoarseLabels: classes={classes!r}; expected different '
                f'class numbers from 0 to {UNKNOWN - 1}'
            )
        self._loader = LoadSegLabels(UNKNOWN, backend_args=backend_args)

    def _read(self, path: str, results: dict) -> np.ndarray:
        coarse = dict(seg_map_path=path)
        for key in ('label_map', 'reduce_zero_label'):
            own = results.get(key)
            coarse[key] = results.get(f'coarse_{key}', own)
        return self._loader(coarse)['gt_seg_map']

    def _change(self, label: np.ndarray, other: np.ndarray) -> np.ndarray:
        changed = label.copy()
        for class_id in self.classes:
            if not self.only_if_present or (changed == class_id).any():
                changed[other == class_id] = class_id
        return changed
