"""Labels of a teacher, joined with coarse ones of rare classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmseg.registry import TRANSFORMS

from .label_companion import LabelCompanion
from .load_seg_labels import UNKNOWN, LoadSegLabels


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

    def __repr__(self) -> str:
        """Return the options."""
        return (
            f'{type(self).__name__}(classes={self.classes}, '
            f'only_if_present={self.only_if_present}, '
            f'required={self.required})'
        )
