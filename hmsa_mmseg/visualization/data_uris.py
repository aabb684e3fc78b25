"""Pictures as text within a page."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def data_uri(image: Image.Image, format: str = 'PNG', **options: Any) -> str:
    """Encode a picture for an ``img``, with options of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/{format.lower()};base64,{text}'
