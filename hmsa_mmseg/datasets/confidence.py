"""Confidence in eight bits, as the authors store it.

The largest probability times 255, cut off (NVIDIA/semantic-segmentation,
utils/misc.py: ``(prob_image * 255).astype(np.uint8)``), compared with a
threshold after division by 255 (datasets/base_loader.py). A threshold of 0.5
therefore keeps pixels from 128 / 255 = 0.502 on, one of 0.9 from 230 / 255 =
0.902 on.
"""

from __future__ import annotations

import numpy as np

#: From which on labels are kept: the authors' released recipe
#: (NVIDIA/semantic-segmentation, scripts/train_cityscapes_sota.yml:
#: ``custom_coarse_prob``).
DEFAULT_THRESHOLD = 0.5
#: The confidence that each of the 256 values stands for.
LEVELS = np.arange(256) / 255.0


def encode_confidence(confidence: np.ndarray) -> np.ndarray:
    """Store float32 confidence of any shape as uint8.

    Raises:
        ValueError: If a value is outside of [0, 1] or no number.
    """
    scaled = confidence * np.float32(255)
    if not ((scaled >= 0) & (scaled <= 255)).all():
        raise ValueError(
            f'confidence from {confidence.min()} to {confidence.max()}; '
            'expected numbers from 0 to 1'
        )
    return scaled.astype(np.uint8)


def check_threshold(threshold: float) -> float:
    """Refuse what is no threshold of confidence, 0 to 1."""
    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ValueError(f'threshold={threshold!r}; expected 0 to 1')
    return float(threshold)


def is_kept(threshold: float) -> np.ndarray:
    """Which of the 256 values a threshold keeps, bool (256,)."""
    return check_threshold(threshold) <= LEVELS
