"""What scales score by themselves, averaged, and blended, in one pass.

Backbone and neck run once per image and scale; every score is made of what
they gave.

Shape shorthand in this module:
    K: classes, S: scales of a blend, H, W: size of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmsa_mmseg.models import MultiScaleAttentionSegmentor
from hmsa_mmseg.models.scale_fusion import check_scales, resize_image
from hmsa_mmseg.models.segmentors.results import at_original_size
from hmsa_mmseg.utils.confusion import divide, joint_counts, scores

Scales = tuple[float, ...]


class Row(NamedTuple):
    """One way to make a prediction of what the scales say.

    Attributes:
        kind (str): ``blend``, by the decode head; ``logits`` or ``probs``,
            the mean of the scales' logits or probabilities.
        scales (tuple[float]): Relative image sizes, lowest first.
        flip (bool): Whether the mean with the flipped image is taken: of
            logits for ``logits``, else of probabilities, as mmseg's
            ``--tta``.
    """

    kind: str
    scales: Scales
    flip: bool = False

    def __str__(self) -> str:
        """Give the row as it stands in tables."""
        scales = '/'.join(f'{scale:g}' for scale in self.scales)
        return f'{self.kind} {scales}' + ' flip' * self.flip


class ScaleScores(NamedTuple):
    """The scores of a data set.

    Attributes:
        rows (dict[Row, dict]): For each row ``mIoU`` and more, in percent,
            see :func:`hmsa_mmseg.utils.confusion.scores`.
        weights (dict[tuple, ndarray]): For the scales of each ``blend`` row
            the mean weight of each scale in the pixels of each true class,
            float64 (S, K), 0 to 1; nan for a class without pixels.
    """

    rows: dict[Row, dict[str, Any]]
    weights: dict[Scales, np.ndarray]


class _View:
    """An image as the network sees it; features are computed once."""

    def __init__(
        self, model: MultiScaleAttentionSegmentor, inputs: Tensor
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.feats: dict[float, Sequence[Tensor]] = {}
        self.alone: dict[float, Tensor] = {}

    def _falling(self, scales: Scales) -> list[tuple[float, Any]]:
        for scale in scales:
            if scale not in self.feats:
                self.feats[scale] = self.model.extract_feat(
                    resize_image(self.inputs, scale, self.model.align_corners)
                )
        return [(scale, self.feats[scale]) for scale in scales[::-1]]

    def logits_alone(self, scale: float) -> Tensor:
        """Logits of one scale, which several rows read, (1, K, H, W)."""
        if scale not in self.alone:
            self.alone[scale] = self.logits((scale,))
        return self.alone[scale]

    def logits(self, scales: Scales) -> Tensor:
        """Blend scales, (1, K, H, W)."""
        return self.model.decode_head.predict(
            self._falling(scales), self.inputs.shape[2:]
        )

    def weights(self, scales: Scales) -> Tensor:
        """Weights of scales in their blend, (1, S, H, W)."""
        head = self.model.decode_head
        return head.predict_scale_maps(
            head.decode(self._falling(scales)), self.inputs.shape[2:]
        ).scale_weights


@torch.no_grad()
def score_scales(
    model: MultiScaleAttentionSegmentor,
    batches: Iterable[Mapping],
    rows: Sequence[Row],
    report: Callable[[], Any] = lambda: None,
) -> ScaleScores:
    """Score many ways to make a prediction, at the size of the images.

    Args:
        model (MultiScaleAttentionSegmentor): In evaluation mode.
        batches (Iterable[Mapping]): Of a data loader, with labels.
        rows (Sequence[Row]): What to score.
        report (Callable, optional): Called after each image.

    Raises:
        ValueError: If a row makes no sense, or the model has a single
            output.
    """
    for row in rows:
        check_scales(row.scales, f'the scales of {row}')
        if row.kind not in ('blend', 'logits', 'probs'):
            raise ValueError(
                f"row {row}: expected 'blend', 'logits' or 'probs'"
            )
    num_classes = model.out_channels
    if num_classes < 2:
        raise ValueError(
            f'model.decode_head.out_channels={num_classes}; expected a logit '
            'for each class'
        )
    blends = [r.scales for r in rows if r.kind == 'blend' and not r.flip]
    counts = {row: np.zeros((num_classes, num_classes), int) for row in rows}
    sums = {scales: np.zeros((len(scales), num_classes)) for scales in blends}
    pixels = np.zeros(num_classes)
    for batch in batches:
        data = model.data_preprocessor(batch, False)
        for i, sample in enumerate(data['data_samples']):
            label = sample.gt_sem_seg.data.flatten()
            valid = label != model.decode_head.ignore_index
            label = label[valid].long()
            view = _View(model, data['inputs'][i : i + 1])
            flipped = _View(model, view.inputs.flip(3))

            def restore(maps: Tensor, meta: Mapping = sample.metainfo):
                return at_original_size(maps, meta, model.align_corners)

            for row in rows:
                probs = restore(_predict(row, view, flipped))
                classes = probs.argmax(1).flatten()[valid]
                counts[row] += joint_counts(
                    (label.cpu().numpy(), classes.cpu().numpy()),
                    (num_classes, num_classes),
                )
            for scales in blends:
                weights = restore(view.weights(scales))[0].flatten(1)
                for s, weight in enumerate(weights[:, valid].double()):
                    sums[scales][s] += np.bincount(
                        label.cpu(), weight.cpu(), num_classes
                    )
            pixels += np.bincount(label.cpu(), minlength=num_classes)
            report()
    shares = {scales: divide(sums[scales], pixels) for scales in blends}
    return ScaleScores({row: scores(counts[row]) for row in rows}, shares)


def _predict(row: Row, view: _View, flipped: _View) -> Tensor:
    """Logits, probabilities or means of them, (1, K, H, W)."""
    found = _predict_view(row, view)
    if not row.flip:
        return found
    other = _predict_view(row, flipped).flip(3)
    if row.kind == 'blend':
        found, other = found.softmax(1), other.softmax(1)
    return found + other


def _predict_view(row: Row, view: _View) -> Tensor:
    if row.kind == 'blend':
        return view.logits(row.scales)
    alone = [view.logits_alone(scale) for scale in row.scales]
    if row.kind == 'probs':
        alone = [logits.softmax(1) for logits in alone]
    return torch.stack(alone).mean(0)
