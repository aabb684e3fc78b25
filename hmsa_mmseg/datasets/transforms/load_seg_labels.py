"""Labels read from image files, with every value checked."""

from __future__ import annotations

import logging

import cv2
import mmcv
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from hmsa_mmseg.utils.checks import is_integer

from .options_repr import OptionsRepr

IGNORE = 255
# Marks a value that is no class; by that, 254 cannot be a class.
UNKNOWN = 254


@TRANSFORMS.register_module()
class LoadSegLabels(OptionsRepr, LoadAnnotations):
    """Read a label image and refuse what cannot be a label.

    Takes the place of mmseg's ``LoadAnnotations``, and gives the same
    ``gt_seg_map`` for every sound file. That one lets 16-bit values wrap
    around to other classes, and accepts labels of another size than the
    image and values that are no class; here each is an error that names the
    file. All mappings are one table of 256 entries: first ``label_map``,
    then the dataset's ``reduce_zero_label`` and ``label_map``. A value
    without an entry is no class, 255 is ignored. A ``label_map`` that leads
    to 255 alone, such as ``{11: 255}``, leaves all other values as they are.

    The size is compared with ``ori_shape``, so the image may have been
    resized before; without an image there is nothing to compare. A sample
    without ``seg_map_path`` passes as it is, which lets one pipeline serve
    testing and inference.

    Of two classes, the first label with 255 and without class 1, before one
    with class 1, is named in a warning: masks of 0 and 255 mean that.

    Args:
        num_classes (int): Number of classes, 1 to 254.
        label_map (dict[int, int], optional): Maps values in the file to
            classes or 255. None: values are classes.
        unknown (str): What to do about other values: 'error' or 'ignore' (they
            become 255).
        backend_args (dict, optional): Arguments of the file back end.

    Raises:
        ValueError: When built, for a value that makes no sense. When called,
            if the file is no image, has several channels, is of floats, has
            values outside of 0 to 255, another size than the image, or (with
            ``unknown='error'``) values that are no class.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: dict[int, int] | None = None,
        unknown: str = 'error',
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(backend_args=backend_args)
        if not is_integer(num_classes, 1) or num_classes > UNKNOWN:
            raise ValueError(
                f'LoadSegLabels: num_classes={num_classes!r}; expected 1 to '
                f'{UNKNOWN}'
            )
        if unknown not in ('error', 'ignore'):
            raise ValueError(
                f"LoadSegLabels: unknown={unknown!r}; expected 'error' or "
                "'ignore'"
            )
        outside = [
            value
            for value in (label_map or {}).values()
            if not (0 <= value < num_classes or value == IGNORE)
        ]
        if outside:
            raise ValueError(
                f'LoadSegLabels: label_map leads to {outside}; expected 0 to '
                f'{num_classes - 1}, or {IGNORE} to ignore'
            )
        self.num_classes = num_classes
        self.label_map = label_map
        self.unknown = unknown
        self._may_be_mask = num_classes == 2

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, (H, W) uint8, to the results."""
        path = results.get('seg_map_path')
        if path is None:
            return results
        label = self._read(path)
        size = results.get('ori_shape')
        if size is not None and label.shape != tuple(size[:2]):
            raise ValueError(
                f'{path}: the label is {label.shape[0]}x{label.shape[1]}, its '
                f'image {size[0]}x{size[1]} (height x width); expected the '
                f'same size. Image: {results.get("img_path")}'
            )
        table = self._table(results)
        # Drops no axis of a label of one row, as the parent does.
        mapped = cv2.LUT(label, table)
        unknown = mapped == UNKNOWN
        if unknown.any():
            if self.unknown == 'error':
                raise ValueError(self._message(label, unknown, table, path))
            mapped[unknown] = IGNORE
        if self._may_be_mask:
            self._warn_of_mask(mapped, path)
        results['gt_seg_map'] = mapped
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _warn_of_mask(self, mapped: np.ndarray, path: str) -> None:
        """Warn, once, of masks of 0 and 255, in which 255 is no class."""
        if (mapped == 1).any():
            self._may_be_mask = False
        elif (mapped == IGNORE).any():
            self._may_be_mask = False
            print_log(
                f'{path} holds 255, which is ignored, and no class 1. If 255 '
                'is the foreground, give each LoadSegLabels '
                'label_map={0: 0, 255: 1}: else class 1 is never trained',
                logger='current',
                level=logging.WARNING,
            )

    def _read(self, path: str) -> np.ndarray:
        label = read_grey(path, self.backend_args)
        low, high = label.min(), label.max()
        if label.dtype.kind not in 'biu' or low < 0 or high > 255:
            raise ValueError(
                f'{path}: a {label.dtype} label with values from {low} to '
                f'{high}; expected integers from 0 to 255'
            )
        return label.astype(np.uint8, copy=False)

    def _table(self, results: dict) -> np.ndarray:
        table = list(range(256))
        if self.label_map is not None:
            # A map of nothing but pixels to ignore leaves the other values as
            # they are: taken whole, no pixel would have a class.
            is_void = {*self.label_map.values()} == {IGNORE}
            kept = {i: i for i in range(IGNORE)} if is_void else {}
            table = _compose(table, {**kept, **self.label_map})
        if results.get('reduce_zero_label'):
            shifted = {value: value - 1 for value in range(1, IGNORE)}
            table = _compose(table, {0: IGNORE, **shifted})
        if results.get('label_map') is not None:
            table = _compose(table, results['label_map'])
        return np.array(
            [
                value
                if value < self.num_classes or value == IGNORE
                else UNKNOWN
                for value in table
            ],
            dtype=np.uint8,
        )

    def _message(
        self,
        label: np.ndarray,
        unknown: np.ndarray,
        table: np.ndarray,
        path: str,
    ) -> str:
        values, counts = np.unique(label[unknown], return_counts=True)
        pixels = ', '.join(
            f'{value} ({count} px)' for value, count in zip(values, counts)
        )
        known = _ranges(np.flatnonzero(table != UNKNOWN))
        message = (
            f'{path}: values that are no class: {pixels}; expected {known}'
        )
        if known == '0 to 18, 255' and values.max() <= 33:
            message += (
                '. They look like the label ids of Cityscapes: set '
                "label_format='labelIds' in the data set"
            )
        void = {int(value): IGNORE for value in values}
        cure = {**(self.label_map or {}), **void}
        return (
            f'{message}. If there are more classes, the data set and '
            f'num_classes={self.num_classes} lack them; if these values mean '
            f'"no label", give LoadSegLabels label_map={cure}'
        )


def read_grey(
    path: str, backend_args: dict | None = None, kind: str = 'label'
) -> np.ndarray:
    """Read an image of one channel as it is stored, of a kind for errors.

    Returns:
        np.ndarray: (H, W), of the type of the file: uint8, bool, an integer
        type of more bits, or a float. Of a palette image, the indices.

    Raises:
        ValueError: If it is no image, or has several channels.
    """
    content = fileio.get(path, backend_args=backend_args)
    try:
        # Pillow gives the indices of a palette image, not its colours.
        image = mmcv.imfrombytes(content, flag='unchanged', backend='pillow')
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f'{path}: not a readable {kind} image: {error}'
        ) from error
    if image.ndim != 2:
        raise ValueError(
            f'{path}: a {kind} with {image.shape[2]} channels; expected '
            'one (a grey or palette image); of colours, hmsa masks makes '
            'class numbers'
        )
    return image


def _compose(table: list[int], label_map: dict[int, int]) -> list[int]:
    """Send the values of a table through a map; 255 stays where unmapped."""
    return [
        label_map.get(value, value if value == IGNORE else UNKNOWN)
        for value in table
    ]


def _ranges(values: np.ndarray) -> str:
    """Write sorted integers as ranges, such as '0 to 18, 255'."""
    parts = []
    for run in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1):
        parts.append(f'{run[0]} to {run[-1]}' if len(run) > 1 else f'{run[0]}')
    return ', '.join(parts)
