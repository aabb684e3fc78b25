"""Pictures as text within a page."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def data_uri(image: Image.Image, format: str = 'PNG', **options: Any) -> str:
    """Encode a picture for the ``src`` of an ``img``.

    Args:
        image (Image.Image): The picture.
        format (str): As Pillow calls it: ``'PNG'``, ``'WEBP'``, ...
        **options: Of Pillow's writer, such as ``quality``.

    Returns:
        str: ``data:image/...;base64,...``.
    """
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/{format.lower()};base64,{text}'
