"""Pictures of one result: what the model says, and why.

Shape shorthand in this module:
    H, W: original size of the image, K: classes, T: height of a legend.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmseg.structures import SegDataSample

from .class_labels import draw_class_labels
from .colours import (
    BLACK,
    IGNORED,
    WRONG,
    as_palette,
    heat,
    paint,
    scale_palette,
)
from .legends import with_colour_bar, with_legend
from .sample_maps import SampleMaps, read_sample

#: How much is left of the brightness of the image under marked errors.
DIMMED = 0.5


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Copy an image as it was loaded, BGR or grey, to RGB, uint8 (H, W, 3).

    Of more channels the first three are shown. Values far from those of 8
    bits, as in 16 bits or from 0 to 1, are stretched to them.
    """
    image = np.atleast_3d(image)
    channels = [2, 1, 0] if image.shape[2] > 2 else [0, 0, 0]
    rgb = image[..., channels]
    if rgb.dtype != np.uint8:
        rgb = np.nan_to_num(rgb.astype(np.float32))
        low, high = rgb.min(), rgb.max()
        if high > low and not 1 < high < 512:
            rgb = (rgb - low) * (255 / (high - low))
        rgb = rgb.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def draw_pictures(
    image: np.ndarray,
    data_sample: SegDataSample,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
    alpha: float = 0.5,
) -> dict[str, np.ndarray]:
    """Draw all that a result holds.

    Args:
        image (ndarray): RGB, uint8 (H, W, 3).
        data_sample (SegDataSample): Result of the image. What it does not
            hold is not drawn: labels, or, of a stock model, maps of scales.
        classes (Sequence[str]): K names; ('0', '1') of a binary head.
        palette (Sequence, optional): K colours, RGB, 0 to 255; by default
            mmseg's for a data set that has none.
        ignore_index (int): Of the labels.
        alpha (float): Part of the class colours in the overlay, 0 to 1.

    Returns:
        dict[str, ndarray]: RGB, uint8 (H, W, 3); with a legend (H + T, W, 3):

        - ``input``, ``overlay`` (classes over the image), ``prediction``,
          ``ground_truth`` (what is ignored is black);
        - ``error``: wrong pixels over the darkened image; legend;
        - ``confidence``: probability of the class given; colour bar 0 to 1;
        - ``scale_<s>``: classes that scale s alone gives;
        - ``attn_<s>``, ``weight_<s>``: attention of scale s, and its part in
          the result; colour bar 0 to 1;
        - ``winning_scale``: the scale with the largest part, black where
          several have it; legend.

    Raises:
        ValueError: If sizes, classes or colours do not fit each other; the
            message names the image.
    """
    colours = as_palette(palette, len(classes))
    maps = read_sample(data_sample, len(classes), ignore_index)
    if image.dtype != np.uint8 or image.shape != (*maps.size, 3):
        raise ValueError(
            f'{data_sample.get("img_path") or "an image"}: expected uint8 RGB '
            f'of {maps.size} (height, width), as the prediction is; got '
            f'{image.dtype} of shape {image.shape}'
        )
    # OpenCV cannot read an image whose channels were turned in place.
    image = np.ascontiguousarray(image)
    pictures = {
        'input': image,
        'overlay': draw_overlay(
            image, maps.prediction, classes, colours, alpha
        ),
        'prediction': paint(maps.prediction, colours),
    }
    if maps.ground_truth is not None:
        pictures['ground_truth'] = paint(maps.ground_truth, colours)
        error = cv2.convertScaleAbs(image, alpha=DIMMED)
        error[maps.prediction != maps.ground_truth] = WRONG
        error[maps.ground_truth == ignore_index] = IGNORED
        pictures['error'] = with_legend(
            error, [('wrong', WRONG), ('ignored', IGNORED)]
        )
    if maps.confidence is not None:
        pictures['confidence'] = with_colour_bar(heat(maps.confidence))
    pictures.update(_draw_scales(maps, colours))
    return pictures


def draw_overlay(
    image: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    alpha: float = 0.5,
    with_labels: bool = True,
) -> np.ndarray:
    """Lay the colours of classes (H, W), uint8 (K, 3), over an image.

    What is no class leaves the image, RGB, uint8 (H, W, 3), as it is.
    """
    colours = paint(prediction, palette)
    overlay = cv2.addWeighted(image, 1 - alpha, colours, alpha, 0)
    none = (prediction < 0) | (prediction >= len(palette))
    overlay[none] = image[none]
    if with_labels:
        draw_class_labels(overlay, prediction, classes, palette)
    return overlay


def _draw_scales(
    maps: SampleMaps, colours: np.ndarray
) -> dict[str, np.ndarray]:
    """Pictures of single scales; none if the maps are not there."""
    pictures = {}
    names = [f'{scale:g}' for scale in maps.scales]
    for prefix, stack in (
        ('scale', maps.scale_classes),
        ('attn', maps.scale_attn),
        ('weight', maps.scale_weights),
    ):
        # The highest scale has no attention.
        for name, one in zip(names, () if stack is None else stack):
            pictures[f'{prefix}_{name}'] = (
                paint(one, colours)
                if prefix == 'scale'
                else with_colour_bar(heat(one))
            )
    if maps.scale_weights is not None:
        scale_colours = scale_palette(len(names))
        winner = maps.winning_scale
        entries = [(f'scale {n}', c) for n, c in zip(names, scale_colours)]
        if (winner < 0).any():
            entries.append(('several', BLACK))
        pictures['winning_scale'] = with_legend(
            paint(winner, scale_colours), entries
        )
    return pictures
