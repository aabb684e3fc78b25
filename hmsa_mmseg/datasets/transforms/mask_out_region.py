"""Labels that count within a rectangle only."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from .load_seg_labels import IGNORE
from .options_repr import OptionsRepr


@TRANSFORMS.register_module()
class MaskOutRegion(OptionsRepr, BaseTransform):
    """Ignore the label outside of a rectangle.

    The rectangle is given for images of one size. A label of another size and
    the same aspect ratio gets it scaled: a pixel is kept if its centre,
    scaled to ``ref_size``, lies in the rectangle, so that an edge ``e`` of an
    axis of length ``n`` becomes ``ceil(e * n / ref - 0.5)``. A label of
    another aspect ratio is an error. Goes after the transform that loads the
    label and before any that crops; a sample without label passes unchanged.

    Args:
        box (tuple[int, int, int, int]): First row, end of the rows, first
            column, end of the columns that are kept. Defaults to
            (15, 840, 14, 2030): without the own car and the border of images
            of Cityscapes (NVIDIA/semantic-segmentation,
            datasets/base_loader.py: ``drop_mask``).
        ref_size (tuple[int, int]): (height, width) that ``box`` is meant for.
        only_with (str, optional): Mask only samples that have this, such as
            'prob_map_path', where one pipeline serves several data sets. None:
            all.

    Raises:
        ValueError: When built, if the box is empty or not within
            ``ref_size``. When called, if the label has another aspect ratio,
            or was flipped already.
    """

    def __init__(
        self,
        box: tuple[int, int, int, int] = (15, 840, 14, 2030),
        ref_size: tuple[int, int] = (1024, 2048),
        only_with: str | None = None,
    ) -> None:
        height, width = ref_size
        top, bottom, left, right = box
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(
                f'MaskOutRegion: box={box}; expected (first row, end of the '
                'rows, first column, end of the columns) of a rectangle '
                f'within ref_size={ref_size}'
            )
        self.box = tuple(box)
        self.ref_size = tuple(ref_size)
        self.only_with = only_with

    def transform(self, results: dict) -> dict:
        """Change ``gt_seg_map``, (H, W) uint8."""
        label = results.get('gt_seg_map')
        if label is None or (
            self.only_with and results.get(self.only_with) is None
        ):
            return results
        if results.get('flip'):
            raise ValueError(
                f'MaskOutRegion: the label {results.get("seg_map_path")} is '
                'flipped already; expected this transform right after '
                'LoadSegLabels'
            )
        rows, columns = self._kept(label.shape, results)
        masked = np.full_like(label, IGNORE)
        masked[rows, columns] = label[rows, columns]
        results['gt_seg_map'] = masked
        return results

    def _kept(
        self, size: tuple[int, int], results: dict
    ) -> tuple[slice, slice]:
        if size[0] * self.ref_size[1] != size[1] * self.ref_size[0]:
            raise ValueError(
                f'{results.get("seg_map_path")}: the label is '
                f'{size[0]}x{size[1]}; MaskOutRegion expected '
                f'{self.ref_size[0]}x{self.ref_size[1]} (ref_size, height x '
                'width) or another size of the same aspect ratio'
            )
        edges = [
            # ceil(edge * length / ref - 1 / 2), in integers.
            -((ref - 2 * edge * length) // (2 * ref))
            for pair, length, ref in zip(
                (self.box[:2], self.box[2:]), size, self.ref_size
            )
            for edge in pair
        ]
        return slice(*edges[:2]), slice(*edges[2:])
