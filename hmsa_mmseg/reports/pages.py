"""Pages that hold all they need: templates, numbers, pictures, progress."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from hmsa_mmseg.visualization.colours import heat

from . import charts

TEMPLATES = Path(__file__).parent / 'templates'
#: Of lossy WebP; Pillow's own default.
QUALITY = 80
#: Of WebP, 0 (fast) to 6 (small). Takes a third to a half of the time of
#: Pillow's default, 4, for files that are at most 6 % larger.
METHOD = 2


def build_page(template: str, **values: Any) -> str:
    """Fill in a template, into a page that refers to nothing outside.

    What cannot be written as UTF-8, in names of files that are not, is
    replaced by U+FFFD. An ImportError is raised if jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            'the report needs jinja2: pip install "hmsa_mmseg[demo]"'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number,
        percent=lambda value, digits=1: number(value, digits, 100),
        signed=lambda value, factor=1: number(value, 1, factor, '+'),
        count='{:,}'.format,
        # For scripts.
        raw=lambda value: f'{value:.4f}' if is_known(value) else '',
        css=css,
        url=lambda text: quote(os.fsencode(text)),
        plot_x=charts.x_of,
        plot_y=charts.y_of,
    )
    environment.tests['known'] = is_known
    html = environment.get_template(template).render(**values)
    return re.sub('[\ud800-\udfff]', '\N{REPLACEMENT CHARACTER}', html)


def is_known(value: float | None) -> bool:
    """Whether a number is there."""
    return value is not None and not math.isnan(value)


def number(
    value: float | None, digits: int = 1, factor: float = 1, sign: str = ''
) -> str:
    """Write a number for people, with a real minus sign, or a dash for none.

    With ``sign='+'`` positive ones have a sign too.
    """
    if not is_known(value):
        return '\N{EN DASH}'
    text = f'{round(factor * value, digits) + 0.0:{sign}.{digits}f}'
    return text.replace('-', '\N{MINUS SIGN}')


def css(colour: Sequence[int]) -> str:
    """Write a colour, RGB, 0 to 255, as CSS does."""
    return f'#{bytes(int(channel) for channel in colour).hex()}'


def heat_gradient() -> str:
    """Colours of :func:`.colours.heat` from 0 to 1, for a gradient of CSS."""
    return ', '.join(map(css, heat(np.linspace(0, 1, 9)[None])[0]))


def data_uri(image: Image.Image, format: str = 'PNG', **options: Any) -> str:
    """Encode a picture for an ``img``, with options of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/{format.lower()};base64,{text}'


def shrunk_uri(image: Image.Image, width: int, flat: bool) -> str:
    """Encode a picture, not wider than a number of pixels, for an ``img``.

    A flat one has few colours, each with a meaning: a mean of two of them
    would be a third.
    """
    if image.width > width:
        size = (width, max(1, round(image.height * width / image.width)))
        how = Image.Resampling.NEAREST if flat else Image.Resampling.BOX
        image = image.resize(size, how)
    if flat:
        return data_uri(image, 'WEBP', lossless=True, method=METHOD)
    return data_uri(image, 'WEBP', quality=QUALITY, method=METHOD)


@contextmanager
def progress(
    title: str, total: int, shows: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show in the terminal how far something is.

    Yields a function that is to be given how many more are done.
    """
    console = Console(stderr=True)
    # Refreshed by hand: no thread, as processes may be forked meanwhile.
    with Progress(
        console=console, auto_refresh=False, disable=not shows
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.update(task, advance=more, refresh=True)
