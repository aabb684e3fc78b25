"""The files that are written for an image.

Shape shorthand in this module:
    K: classes, h, w: original size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmseg.structures import SegDataSample
from PIL import Image

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.visualization import (
    make_record,
    write_pictures,
    write_record,
)
from hmsa_mmseg.visualization.colours import as_palette
from hmsa_mmseg.visualization.pictures import draw_overlay, draw_pictures
from hmsa_mmseg.visualization.records import JPEG_QUALITY, stem_of

from .layout import RECORDS, file_of

#: What ``--save`` takes, and the pictures of ``draw_pictures`` that it means;
#: ``<s>`` stands for each scale.
SAVES = {
    'classes': (),
    'color': (),
    'overlay': ('overlay',),
    'confidence': ('confidence',),
    'attention': ('attn_<s>',),
    'weights': ('weight_<s>',),
    'scales': ('scale_<s>',),
    'winning': ('winning_scale',),
    # All that there is, and counts, for hmsa report.
    'report': (),
}
DEFAULT_SAVES = ('overlay', 'classes')
#: Those that need ``test_cfg.scale_maps``; 'report' shows them if it can.
OF_SCALES = ('attention', 'weights', 'scales', 'winning')
#: Those that show what logits say beyond classes: the confidence.
OF_LOGITS = ('confidence', 'report')
_MAX_PALETTE = 256


class Products:
    """What is written for each image, and how.

    Args:
        saves (Sequence[str]): Some of :data:`SAVES`.
        classes (Sequence[str]): K names.
        palette (Sequence, optional): K colours, RGB; by default mmseg's for
            a data set that has none.
        scales (Sequence[float]): Of the model, lowest first; none of a stock
            model.
        label_ids (ndarray, optional): (K,), what stands for each class in
            the files of ``classes``. Defaults to None, the class's number.
    """

    def __init__(
        self,
        saves: Sequence[str],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None,
        scales: Sequence[float] = (),
        label_ids: np.ndarray | None = None,
    ) -> None:
        self.saves = tuple(name for name in SAVES if name in saves)
        self.classes = classes
        self.palette = as_palette(palette, len(classes))
        self.label_ids = label_ids
        self._keys = [
            key
            for name in self.saves
            for pattern in SAVES[name]
            for key in _keys(pattern, scales)
        ]

    def without(self, name: str) -> Products:
        """The same without one of :data:`SAVES`."""
        other = object.__new__(Products)
        vars(other).update(vars(self))
        other.saves = tuple(save for save in self.saves if save != name)
        other._keys = [key for key in self._keys if key not in SAVES[name]]
        return other

    def files(self, name: str) -> list[str]:
        """List the files of an image of this name, relative to ``--out``."""
        plain = [save for save in ('classes', 'color') if save in self.saves]
        files = [file_of(key, name) for key in (*plain, *self._keys)]
        if 'report' in self.saves:
            files.append(_record_of(name))
        return files

    def write(
        self, out: Path, name: str, image: np.ndarray, result: SegDataSample
    ) -> list[str]:
        """Write the files of an image, each whole or not at all.

        Args:
            out (Path): Folder of the results.
            name (str): Of the image.
            image (ndarray): RGB, uint8 (h, w, 3).
            result (SegDataSample): Of the image, on the CPU.

        Returns:
            list[str]: The files, relative to ``out``.

        Raises:
            OSError: If one cannot be written.
        """
        classes = classes_of(result)
        if 'classes' in self.saves:
            numbers = classes
            if self.label_ids is not None:
                numbers = self.label_ids[classes]
            write_classes(out / file_of('classes', name), numbers)
        if 'color' in self.saves:
            self._write_color(out / file_of('color', name), classes)
        if not self._keys and 'report' not in self.saves:
            return self.files(name)
        needed = self._needed(result)
        pictures = draw_pictures(image, needed, self.classes, self.palette)
        for key in self._keys:
            write_picture(out / file_of(key, name), pictures[key])
        files = self.files(name)
        if 'report' in self.saves:
            files += self._write_record(out, name, needed, pictures)
        return files

    def overlay(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Draw classes (h, w) over an image, RGB uint8 (h, w, 3)."""
        return draw_overlay(image, classes, self.classes, self.palette)

    def _write_record(
        self,
        out: Path,
        name: str,
        result: SegDataSample,
        pictures: dict[str, np.ndarray],
    ) -> list[str]:
        image = name + Path(result.get('img_path') or '').suffix
        # Of a file with another suffix, which is no longer there.
        (out / _record_of(name)).unlink(missing_ok=True)
        paths = write_pictures(out, image, pictures)
        write_record(
            out, make_record(image, result, self.classes, self.palette, paths)
        )
        return [*paths.values()]

    def _needed(self, result: SegDataSample) -> SegDataSample:
        """Leave out what would be drawn for nothing."""
        if 'report' in self.saves:
            return result
        fields = dict(pred_sem_seg=result.pred_sem_seg)
        for name, field in (
            ('attention', 'scale_attn'),
            ('weights', 'scale_weights'),
            ('winning', 'scale_weights'),
            ('scales', 'scale_sem_seg'),
        ):
            if name in self.saves:
                fields[field] = result.get(field)
        if 'confidence' in self.saves:
            fields['confidence'] = result.confidence
        return SegDataSample(metainfo=result.metainfo, **fields)

    def _write_color(self, path: Path, classes: np.ndarray) -> None:
        if len(self.palette) > _MAX_PALETTE:
            write_picture(path, self.palette[classes])
            return
        picture = Image.fromarray(classes.astype(np.uint8))
        picture.putpalette(self.palette.tobytes())
        _save(picture, path)


def write_classes(path: Path, classes: np.ndarray) -> None:
    """Write integers (h, w) as grey PNG of 8 bits or, if needed, 16.

    Args:
        path (Path): Of the file.
        classes (ndarray): 0 to 65535.
    """
    dtype = np.uint8 if classes.max(initial=0) < 256 else np.uint16
    _save(Image.fromarray(classes.astype(dtype)), path)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write RGB, uint8 (h, w, 3), by the suffix of the path."""
    _save(Image.fromarray(picture), path)


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_file(path) as file:
        if path.suffix == '.jpg':
            picture.save(file, format='JPEG', quality=JPEG_QUALITY)
        else:
            picture.save(file, format='PNG')


def classes_of(result: SegDataSample) -> np.ndarray:
    """Classes of a result, int64 (h, w)."""
    # mmseg gives those of a head with a single channel as floats.
    return result.pred_sem_seg.data[0].numpy().astype(np.int64)


def _record_of(name: str) -> str:
    """Path of the record of an image, relative to ``--out``."""
    return f'{RECORDS}/{stem_of(f"{name}.png")}.json'


def _keys(pattern: str, scales: Sequence[float]) -> list[str]:
    if '<s>' not in pattern:
        return [pattern]
    # The highest scale's attention is not used, and not computed.
    if pattern.startswith('attn'):
        scales = scales[:-1]
    return [pattern.replace('<s>', f'{scale:g}') for scale in scales]
