"""What the heads that combine several scales have in common.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptMultiConfig, SampleList
from torch import Tensor, nn

from ..scale_fusion import in_float32
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..utils.checkpointing import FrozenStatistics
from ..utils.execution import is_tracing
from .combining import (
    at_input_size,
    combine_outputs,
    losses_of_heads,
    losses_of_scales,
)
from .scale_maps import ScaleMaps, scale_indicators
from .seg_heads import WrappedSegHeads

ScaleFeats = tuple[float, Sequence[Tensor]]


class DecodedScales(NamedTuple):
    """What the heads say at each scale, lowest first.

    Attributes:
        scales (Sequence[float]): Relative image sizes.
        logits (Sequence[Tensor]): Shape (N, K, h, w) each.
        attended (Sequence[Tensor | None]): What
            :meth:`BaseMultiScaleHead.attend` gives.
    """

    scales: Sequence[float]
    logits: Sequence[Tensor]
    attended: Sequence[Tensor | None]


class BaseMultiScaleHead(WrappedSegHeads, metaclass=ABCMeta):
    """A decode head of mmseg, or a cascade of them, seen at several scales.

    Subclasses say how the scales are combined: :meth:`attend` reads each
    scale, :meth:`combination` makes one map of all. The segmentor hands them
    ``(scale, feats)`` pairs and knows nothing else about it.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier (:func:`find_classifier`), or of a cascade
            of them, each reading its predecessor's output, as OCRNet's.
        loss_scale (dict | list[dict], optional): Loss on the main logits of
            every single scale, brought to the input's size; the authors give
            it a weight of 0.05 (``SUPERVISED_MSCALE_WT`` in their recipes),
            Chen et al. (https://arxiv.org/abs/1511.03339) one of 1. Defaults
            to None.
        num_classes (int, optional): Overrides ``num_classes`` of every seg
            head. Defaults to None.
        reinit_classifier (bool): Whether a checkpoint with another number of
            classes may be loaded, its classifiers left out; otherwise it is
            an error. Defaults to False.
        fast (bool): Whether to compute the same in less time and memory
            where there is a way to (:mod:`hmsa_mmseg.models.tiled`).
            Defaults to True.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        TypeError: If ``seg_head`` is neither a dict nor a list of dicts, or
            a seg head has no classifier (:func:`find_classifier`).
        ValueError: If the seg heads of a cascade do not fit together.
    """

    #: The least number of scales this head can be trained with.
    min_train_scales = 1
    #: Whether :meth:`attend` gives the attention of a scale against higher
    #: ones, in [0, 1], (N, 1, h, w).
    attends_to_neighbours = False
    #: ``model.train_cfg.stats_scale``, which the segmentor hands on.
    stats_scale: float | None = None

    def __init__(
        self,
        seg_head: ConfigType | list[ConfigType],
        loss_scale: ConfigType | list[ConfigType] | None = None,
        num_classes: int | None = None,
        reinit_classifier: bool = False,
        fast: bool = True,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(
            seg_head, num_classes, reinit_classifier, fast, init_cfg
        )
        losses = [loss_scale] if isinstance(loss_scale, dict) else loss_scale
        self.loss_scale = nn.ModuleList(map(MODELS.build, losses or ()))

    @property
    def attention_modules(self) -> list[nn.Module]:
        """What this head learns beside its seg heads; may be nothing."""
        return [
            child
            for name, child in self.named_children()
            if name != 'seg_head'
            and next(child.parameters(), None) is not None
        ]

    def check_num_scales(self, scales: Sequence[float], key: str) -> None:
        """Raise a ValueError if the head is made for other scales; here never.

        ``key`` is the config key that the scales, lowest first, come from.
        """

    def reads_classifier_feats(self, is_top: bool) -> bool:
        """Whether :meth:`attend` reads anything at a scale; here not."""
        return False

    def attend(
        self, classifier_feats: Tensor | None, is_top: bool
    ) -> Tensor | None:
        """Keep of a scale what the combination needs beside its maps.

        Attention, or what it is to be made of, from what the last classifier
        reads, (N, C, h, w).
        """
        return None

    @abstractmethod
    def combination(
        self,
        scales: Sequence[float],
        attended: Sequence[Tensor | None],
        input_size: Sequence[int],
        as_rows: bool,
    ) -> Callable[[Sequence[Tensor]], Tensor | LogitRows]:
        """Say how maps of several scales, lowest first, become one.

        What is returned makes one map (N, K, H, W), or with ``as_rows`` what
        its rows are to be made of, of those of all scales, (N, K, h, w) each.
        It is linear in the maps.

        Args:
            scales (Sequence[float]): Relative image sizes.
            attended (Sequence[Tensor | None]): Of each, see :meth:`attend`.
            input_size (Sequence[int]): H and W.
            as_rows (bool): Whether rows may be made later.
        """

    def predict(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Combine the scales into logits at the size of the input.

        Args:
            inputs (Iterable[tuple]): ``(scale, feats)``, highest scale
                first; the features are computed when they are asked for.
            input_size (Sequence[int]): Size (H, W) of the input image.

        Returns:
            Tensor: Logits, shape (N, K, H, W), float32.

        Raises:
            ValueError: If there is no scale at all, or the head cannot
                combine these.
        """
        return self.predict_rows(self.decode(inputs), input_size).whole()

    def predict_rows(
        self, decoded: DecodedScales, input_size: Sequence[int]
    ) -> LogitRows:
        """Combine the scales into logits whose rows may yet have to be made.

        Of what :meth:`decode` gives; the logits are those of :meth:`predict`.
        """
        as_rows = self.fast and not (is_tracing() or torch.is_grad_enabled())
        scales, logits, attended = decoded
        combine = self.combination(scales, attended, input_size, as_rows)
        found = combine(logits)
        return found if isinstance(found, LogitRows) else WholeLogits(found)

    def predict_scale_maps(
        self, decoded: DecodedScales, input_size: Sequence[int]
    ) -> ScaleMaps:
        """Combine the scales, and keep what each of them says.

        For looking at a model: it takes the memory of S + 1 predictions.

        Of what :meth:`decode` gives; the logits are those of :meth:`predict`.
        """
        scales, logits, attended = decoded
        combine = self.combination(scales, attended, input_size, False)

        def up(maps: Sequence[Tensor]) -> list[Tensor]:
            return [
                at_input_size(scale, x, input_size, self.align_corners)
                for scale, x in zip(scales, maps)
            ]

        seg_logits = combine(logits)
        attns = up(attended[:-1]) if self.attends_to_neighbours else []
        return ScaleMaps(
            seg_logits,
            combine(scale_indicators([in_float32(x) for x in logits])),
            torch.cat([seg_logits[:, :0], *attns], dim=1),
            torch.stack(up(logits), dim=1),
        )

    def decode(self, inputs: Iterable[ScaleFeats]) -> DecodedScales:
        """Run the heads for a prediction; arguments as :meth:`predict`."""
        found = []
        for scale, feats in inputs:
            is_top = not found
            outputs = self.forward_seg_heads(
                feats,
                with_classifier_feats=self.reads_classifier_feats(is_top),
            )
            # Memory that the attention, or the next scale, may need.
            del feats
            seg_logits, classifier_feats = outputs[1:]
            del outputs
            attended = self.attend(classifier_feats, is_top)
            del classifier_feats
            found.append((scale, seg_logits, attended))
        if not found:
            raise ValueError('a prediction needs at least one scale, got none')
        scales, logits, attended = zip(*found[::-1])
        self.check_num_scales(scales, 'model.test_cfg.scales')
        return DecodedScales(scales, logits, attended)

    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute the losses of the combined scales and of each.

        Each seg head computes its own, on its combined outputs.

        Args:
            inputs (Iterable[tuple]): ``(scale, feats)``, lowest scale first,
                the order in which batch normalisation sees them in the
                authors' code.
            input_size (Sequence[int]): Size (H, W) of the input image.
            batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: Losses and accuracies, their keys prefixed:
            ``decode.*`` for the last seg head, ``aux.*`` for the one before
            it in a cascade (``aux_0.*``, ``aux_1.*``, ... if there are
            several), ``scale_<s>.*`` for the logits of each scale if there is
            a ``loss_scale``.
        """
        inputs = list(inputs)
        scales, seg_outputs, attended = [], [], []
        for i, (scale, feats) in enumerate(inputs):
            is_top = i == len(inputs) - 1
            counts = self.stats_scale in (None, scale)
            with nullcontext() if counts else FrozenStatistics(self.seg_head):
                outputs = self.forward_seg_heads(
                    feats,
                    with_classifier_feats=self.reads_classifier_feats(is_top),
                )
            scales.append(scale)
            seg_outputs.append(outputs)
            attended.append(self.attend(outputs.classifier_feats, is_top))
        self.check_num_scales(scales, 'model.train_cfg.scales')
        combine = self.combination(scales, attended, input_size, self.fast)
        losses = losses_of_heads(
            self.seg_heads,
            combine_outputs(seg_outputs, combine),
            batch_data_samples,
            self.fast,
        )
        scale_losses = losses_of_scales(
            self.loss_scale,
            [(s, out.seg_logits) for s, out in zip(scales, seg_outputs)],
            input_size,
            batch_data_samples,
            self.align_corners,
            self.ignore_index,
            self.fast,
        )
        return {**losses, **scale_losses}
