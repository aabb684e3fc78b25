"""The files that are written for an image, and their names in ``--out``.

Shape shorthand in this module:
    K: classes, h, w: original size of the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmseg.structures import SegDataSample
from PIL import Image

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.visualization import (
    FOLDER,
    make_record,
    write_pictures,
    write_record,
)
from hmsa_mmseg.visualization.pictures import draw_overlay, draw_pictures
from hmsa_mmseg.visualization.records import FLAT, JPEG_QUALITY, stem_of

#: Folder of what is known of finished images, see :mod:`.journal`.
FINISHED = 'finished'
#: Folder of records of images, for hmsa report.
RECORDS = FOLDER
#: File of the settings of the run, see :mod:`.journal`.
SETTINGS = 'infer.json'
#: What ``--save`` takes: the folder of its files, with ``<s>`` for each
#: scale, and the field of a result that it shows beside the classes.
SAVES = {
    'classes': ('classes', None),
    'color': ('color', None),
    'overlay': ('overlay', None),
    'confidence': ('confidence', 'confidence'),
    'attention': ('attn_<s>', 'scale_attn'),
    'weights': ('weight_<s>', 'scale_weights'),
    'scales': ('scale_<s>', 'scale_sem_seg'),
    'winning': ('winning_scale', 'scale_weights'),
    # All that there is, and counts, for hmsa report.
    'report': (RECORDS, None),
}
DEFAULT_SAVES = ('overlay', 'classes')
#: Those that need ``test_cfg.scale_maps``; 'report' shows them if it can.
OF_SCALES = ('attention', 'weights', 'scales', 'winning')
#: Those that show what logits say beyond classes: the confidence.
OF_LOGITS = ('confidence', 'report')
_MAX_PALETTE = 256


def is_result_folder(name: str) -> bool:
    """Whether a folder of this name, in ``--out``, holds results."""
    folders = [folder for folder, _ in SAVES.values()] + [FINISHED]
    pattern = '|'.join(folders).replace('<s>', r'\d[\d.e+-]*')
    return re.fullmatch(pattern, name) is not None


def file_of(key: str, name: str) -> str:
    """Path of a picture of an image, relative to ``--out``.

    Classes are whole numbers, which JPEG would change; other pictures are of
    the formats that records of images have them in.
    """
    is_flat = key.startswith(('classes', 'color', *FLAT))
    return f'{key}/{name}.{"png" if is_flat else "jpg"}'


@dataclass
class Products:
    """What is written for each image, and how.

    Attributes:
        saves (Sequence[str]): Some of :data:`SAVES`.
        classes (Sequence[str]): K names.
        palette (ndarray): K colours, RGB uint8 (K, 3).
        scales (Sequence[float]): Of the model, lowest first; none of a stock
            model.
        label_ids (ndarray | None): (K,), what stands for each class in the
            files of ``classes``; None: the class's number.
    """

    saves: Sequence[str]
    classes: Sequence[str]
    palette: np.ndarray
    scales: Sequence[float]
    label_ids: np.ndarray | None = None

    def keys(self) -> list[str]:
        """Folders of the files of an image, but for those of records."""
        keys = []
        for save, (folder, _) in SAVES.items():
            if save not in self.saves or save == 'report':
                continue
            if '<s>' not in folder:
                keys.append(folder)
                continue
            scales = self.scales
            if save == 'attention':
                # That of the highest is not used, and not computed.
                scales = scales[:-1]
            keys += [folder.replace('<s>', f'{scale:g}') for scale in scales]
        return keys

    def files(self, name: str) -> list[str]:
        """List the files of an image of this name, relative to ``--out``."""
        files = [file_of(key, name) for key in self.keys()]
        if 'report' in self.saves:
            files.append(_record_of(name))
        return files

    def write(
        self, out: Path, name: str, image: np.ndarray, result: SegDataSample
    ) -> list[str]:
        """Write the files of an image, each whole or not at all.

        The image is RGB, uint8 (h, w, 3), its result on the CPU; names of
        files are returned, relative to ``out``.
        """
        keys, files = self.keys(), self.files(name)
        classes = classes_of(result)
        shown, pictures = self._shown(result), {}
        if 'report' in self.saves or {*keys} - {'classes', 'color'}:
            pictures = draw_pictures(image, shown, self.classes, self.palette)
        for key in keys:
            path = out / file_of(key, name)
            if key == 'classes':
                ids = self.label_ids
                write_classes(path, classes if ids is None else ids[classes])
            elif key == 'color':
                self._write_color(path, classes)
            else:
                write_picture(path, pictures[key])
        if 'report' in self.saves:
            # Of a file with another suffix, which is no longer there.
            (out / _record_of(name)).unlink(missing_ok=True)
            source = name + Path(result.get('img_path') or '').suffix
            paths = write_pictures(out, source, pictures)
            record = make_record(
                source, shown, self.classes, self.palette, paths
            )
            write_record(out, record)
            files += paths.values()
        return files

    def overlay(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Draw classes (h, w) over an image, RGB uint8 (h, w, 3)."""
        return draw_overlay(image, classes, self.classes, self.palette)

    def _shown(self, result: SegDataSample) -> SegDataSample:
        """Leave out what would be drawn for nothing."""
        if 'report' in self.saves:
            return result
        fields = [SAVES[save][1] for save in self.saves]
        shown = {field: result.get(field) for field in fields if field}
        return SegDataSample(
            metainfo=result.metainfo, pred_sem_seg=result.pred_sem_seg, **shown
        )

    def _write_color(self, path: Path, classes: np.ndarray) -> None:
        if len(self.palette) > _MAX_PALETTE:
            write_picture(path, self.palette[classes])
            return
        picture = Image.fromarray(classes.astype(np.uint8))
        picture.putpalette(self.palette.tobytes())
        _save(picture, path)


def write_classes(path: Path, classes: np.ndarray) -> None:
    """Write integers (h, w), 0 to 65535, as grey PNG of 8 or 16 bits."""
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
