"""Names of files and folders in the folder of predictions."""

from __future__ import annotations

import re

from hmsa_mmseg.visualization import FOLDER
from hmsa_mmseg.visualization.records import FLAT

#: Folder of what is known of finished images, see :mod:`.journal`.
FINISHED = 'finished'
#: Folder of records of images, for hmsa report.
RECORDS = FOLDER
#: File of the settings of the run, see :mod:`.journal`.
SETTINGS = 'infer.json'
_FOLDERS = (
    *('classes', 'color', 'overlay', 'confidence', 'winning_scale'),
    *(RECORDS, FINISHED),
)


def is_result_folder(name: str) -> bool:
    """Whether a folder of this name, in ``--out``, holds results."""
    of_scale = re.fullmatch(r'(attn|weight|scale)_\d[\d.e+-]*', name)
    return name in _FOLDERS or of_scale is not None


def file_of(key: str, name: str) -> str:
    """Path of a picture of an image, relative to ``--out``.

    Classes are whole numbers, which JPEG would change; other pictures are of
    the formats that records of images have them in.
    """
    is_flat = key.startswith(('classes', 'color', *FLAT))
    return f'{key}/{name}.{"png" if is_flat else "jpg"}'
