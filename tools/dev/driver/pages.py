"""Pictures, sheets of them, and ranges of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
from PIL import Image, ImageDraw


def palette_of(metainfo: dict) -> np.ndarray:
    """Colours of all values, uint8 (256, 3); black for those of no class."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(metainfo['palette'])] = metainfo['palette']
    return palette


def heat(values: np.ndarray) -> np.ndarray:
    """Colour an array in [0, 1], (H, W), dark to bright."""
    colours = matplotlib.colormaps['viridis'](values)[..., :3]
    return (255 * colours).round().astype(np.uint8)


def range_text(values: Sequence[float], pattern: str = '{:.1f}') -> str:
    """Write a mean with the range, such as ``61.0 (60.0 to 62.0)``."""
    if not values:
        return '-'
    low, high, middle = map(
        pattern.format, (min(values), max(values), fmean(values))
    )
    return middle if len(values) < 2 else f'{middle} ({low} to {high})'


def write_sheet(
    path: Path, samples: Sequence[dict[str, np.ndarray]], titles: Sequence[str]
) -> None:
    """Write one picture: a column for each title, a row for each sample."""
    margin, header = 4, 16
    height, width, _ = samples[0][titles[0]].shape
    right = (width + margin) * len(titles) - margin
    bottom = header + (height + margin) * len(samples) - margin
    sheet = Image.new('RGB', (right, bottom), 'white')
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = column * (width + margin)
        draw.text((left + 2, 2), title, fill='black')
        for row, pictures in enumerate(samples):
            top = header + row * (height + margin)
            sheet.paste(Image.fromarray(pictures[title]), (left, top))
    sheet.quantize(256).save(path)  # a third of the file
