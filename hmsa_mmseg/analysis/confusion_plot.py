"""A confusion matrix as a picture.

Shape shorthand in this module:
    K: classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of more classes the numbers would be too small to read; colours remain.
MAX_WITH_NUMBERS = 30
# Inches for each class, with numbers and without, and for all the rest.
CELL, SMALL_CELL, REST = 0.45, 0.2, 3.5
DPI = 150
AXES = dict(
    rows='percent of the pixels of each true class (square-root colours)',
    columns='percent of the pixels of each predicted class '
    '(square-root colours)',
    none='pixels (logarithmic)',
)


def draw_confusion(
    values: np.ndarray,
    labels: list[str],
    by: str,
    title: str,
    color_theme: str,
) -> Figure:
    """Draw a matrix with a row for each true class.

    Args:
        values (ndarray): (K, K), as of
            :func:`.confusion_matrix.normalised`.
        labels (list[str]): K names.
        by (str): What ``values`` were normalised by.
        title (str): Above the picture.
        color_theme (str): A colour map of matplotlib.

    Returns:
        Figure: With numbers in the cells of up to 30 classes. Rows and
        columns without pixels are grey.
    """
    try:
        import matplotlib
        from matplotlib import pyplot
        from matplotlib.colors import LogNorm, PowerNorm
    except ImportError as error:
        raise ImportError(
            'a picture of the matrix needs: pip install matplotlib'
        ) from error
    if color_theme not in matplotlib.colormaps:
        raise ValueError(
            f'--color-theme {color_theme!r} is no colour map of matplotlib; '
            'expected for example viridis, cividis, magma'
        )
    colours = matplotlib.colormaps[color_theme].with_extremes(bad='0.85')
    num_classes = len(labels)
    has_numbers = num_classes <= MAX_WITH_NUMBERS
    side = num_classes * (CELL if has_numbers else SMALL_CELL) + REST
    figure, axes = pyplot.subplots(
        figsize=(side + 1, side), dpi=DPI, layout='constrained'
    )
    if by == 'none':
        shown = np.ma.masked_equal(values, 0)
        norm = LogNorm(1, max(2, values.max()))
    else:
        # A mistake of two per cent is to be seen beside a hundred.
        shown, norm = np.ma.masked_invalid(values), PowerNorm(0.5, 0, 100)
    image = axes.imshow(shown, cmap=colours, norm=norm)
    figure.colorbar(image, ax=axes, label=AXES[by], shrink=0.8)
    size = 9 if has_numbers else 7
    axes.set_xticks(range(num_classes), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(num_classes), labels, fontsize=size)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    width = 0.4 if has_numbers else 0.1
    axes.grid(which='minor', color='white', linewidth=width)
    axes.tick_params(which='minor', length=0)
    axes.set_xlabel('predicted class', fontsize=12)
    axes.xaxis.set_label_position('bottom')
    axes.set_ylabel('true class', fontsize=12)
    axes.set_title(title, fontsize=14, fontweight='bold', pad=12)
    if has_numbers:
        _write_numbers(axes, shown, colours, norm)
    return figure


def _write_numbers(axes: Axes, shown, colours, norm) -> None:
    """Write each value into its cell, dark on light and light on dark."""
    for row, column in np.ndindex(shown.shape):
        value = shown[row, column]
        if value is np.ma.masked or value == 0:
            continue
        red, green, blue, _ = colours(norm(value))
        # Rec. 709, as matplotlib's colours are sRGB.
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        axes.text(
            column,
            row,
            _short(value),
            ha='center',
            va='center',
            fontsize=7,
            color='black' if light > 0.45 else 'white',
        )


def _short(value: float) -> str:
    """Format percent or, of an integer type, pixels in some characters."""
    for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if value >= size:
            return f'{value / size:.3g}{unit}'
    if isinstance(value, np.integer):
        return str(value)
    if value < 0.05:
        return '<0.1'
    # Without a decimal 99.95 would read as if nothing were wrong.
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}'
