"""What the heads that combine several scales have in common.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.utils import (
    ConfigType,
    OptMultiConfig,
    SampleList,
)
from torch import Tensor, nn

from ..tiled.logit_rows import LogitRows, WholeLogits
from ..tiled.ocr import tiled_heads
from ..utils import FrozenStatistics
from .combining import combine_outputs, losses_of_heads, losses_of_scales
from .scale_maps import ScaleMaps
from .seg_heads import (
    SegHeadOutputs,
    call_seg_heads,
    end_before_classifier,
    find_classifier,
)
from .state_dict_checks import (
    check_attn_channels,
    check_num_classes,
    map_stock_keys,
)

ScaleFeats = tuple[float, Sequence[Tensor]]

# The seg heads of a cascade are one model: these must agree.
_SHARED_ATTRS = (
    'num_classes',
    'out_channels',
    'align_corners',
    'ignore_index',
)


class BaseMultiScaleHead(BaseModule, metaclass=ABCMeta):
    """A decode head of mmseg, or a cascade of them, seen at several scales.

    Subclasses say how the scales are combined. The segmentor hands them
    ``(scale, feats)`` pairs and knows nothing else about it. The last seg
    head ends before its classifier (:func:`end_before_classifier`): by itself
    it gives no logits.

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
        super().__init__(init_cfg)
        cfgs = [seg_head] if isinstance(seg_head, dict) else seg_head
        is_list = isinstance(cfgs, (list, tuple)) and len(cfgs) > 0
        if not is_list or not all(isinstance(cfg, dict) for cfg in cfgs):
            raise TypeError(
                'decode_head.seg_head must be the config (dict) of a decode '
                f'head or a non-empty list of them, got {seg_head!r}'
            )
        if num_classes is not None:
            cfgs = [{**cfg, 'num_classes': num_classes} for cfg in cfgs]
        heads = [MODELS.build(cfg) for cfg in cfgs]
        classifiers = [find_classifier(head) for head in heads]
        last = heads[-1]
        end_before_classifier(last)
        # One head keeps its keys short, a cascade is numbered as in mmseg.
        single = isinstance(seg_head, dict)
        self.seg_head = last if single else nn.ModuleList(heads)
        losses = [loss_scale] if isinstance(loss_scale, dict) else loss_scale
        self.loss_scale = nn.ModuleList(map(MODELS.build, losses or ()))
        self.reinit_classifier = reinit_classifier
        self.fast = fast
        for name in _SHARED_ATTRS:
            found = [getattr(head, name) for head in heads]
            if any(value != found[-1] for value in found):
                raise ValueError(
                    f'the seg heads in decode_head.seg_head must have the '
                    f'same {name}, got {found}'
                )
        self.num_classes = last.num_classes
        self.out_channels = last.out_channels
        self.align_corners = last.align_corners
        self.ignore_index = last.ignore_index
        self.threshold = classifiers[-1].owner.threshold

    @property
    def seg_heads(self) -> list[nn.Module]:
        """The seg heads in the order in which they run."""
        is_cascade = isinstance(self.seg_head, nn.ModuleList)
        return list(self.seg_head) if is_cascade else [self.seg_head]

    @property
    def attention_modules(self) -> list[nn.Module]:
        """What this head learns beside its seg heads; may be nothing."""
        return [
            child
            for name, child in self.named_children()
            if name != 'seg_head'
            and next(child.parameters(), None) is not None
        ]

    def check_scales(self, scales: Sequence[float], key: str) -> None:
        """Refuse scales that this head cannot combine; here none.

        Args:
            scales (Sequence[float]): Relative image sizes, lowest first.
            key (str): The config key they come from.

        Raises:
            ValueError: If the head is made for other scales.
        """

    def forward_seg_heads(
        self, feats: Sequence[Tensor], with_classifier_feats: bool = True
    ) -> SegHeadOutputs:
        """Run the seg heads at one scale, each exactly once.

        Args:
            feats (Sequence[Tensor]): Features of backbone and neck.
            with_classifier_feats (bool): Whether the last classifier's input
                is wanted. Defaults to True.

        Returns:
            SegHeadOutputs: The outputs and the last classifier's input.

        Raises:
            RuntimeError: If the last seg head does not call its classifier.
        """
        run = tiled_heads(self.seg_heads) if self.fast else None
        if run is None:
            return call_seg_heads(self.seg_heads, feats)
        outputs, classifier_feats = run(feats, with_classifier_feats)
        return SegHeadOutputs(outputs, outputs[-1], classifier_feats)

    def forward_scale(
        self, scale: float, feats: Sequence[Tensor], **kwargs
    ) -> SegHeadOutputs:
        """Run :meth:`forward_seg_heads` in training.

        Args:
            scale (float): The relative image size. Running statistics follow
                those of ``stats_scale`` alone, unless it is None.
            feats (Sequence[Tensor]): As there.
            **kwargs: As there.
        """
        if self.stats_scale in (None, scale):
            return self.forward_seg_heads(feats, **kwargs)
        with FrozenStatistics(self.seg_head):
            return self.forward_seg_heads(feats, **kwargs)

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
        """
        return self.predict_rows(inputs, input_size).whole()

    def predict_rows(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> LogitRows:
        """Combine the scales into logits whose rows may yet have to be made.

        Arguments are those of :meth:`predict`, and so are the logits.
        """
        return WholeLogits(self.combine(inputs, input_size))

    @abstractmethod
    def combine(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Do what :meth:`predict` does, as whole maps."""

    @abstractmethod
    def predict_scale_maps(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScaleMaps:
        """Combine the scales, and keep what each of them says.

        For looking at a model: it takes the memory of S + 1 predictions.

        Arguments are those of :meth:`predict`, and so are the logits.
        """

    @abstractmethod
    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute the losses of the combined scales.

        Args:
            inputs (Iterable[tuple]): ``(scale, feats)``, lowest scale first.
            input_size (Sequence[int]): Size (H, W) of the input image.
            batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: Losses and accuracies, their keys prefixed:
            ``decode.*`` for the last seg head, ``aux.*`` for the one before
            it in a cascade (``aux_0.*``, ``aux_1.*``, ... if there are
            several), ``scale_<s>.*`` for the logits of each scale if there is
            a ``loss_scale``.
        """

    def losses_of(
        self,
        scales: Sequence[float],
        seg_outputs: Sequence[SegHeadOutputs],
        combine: Callable[[Sequence[Tensor]], Tensor | LogitRows],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute the losses of combined outputs, and of each scale.

        ``combine`` is as of :func:`combine_outputs`; the result is that of
        :meth:`loss`.
        """
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

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        """Take mmseg's own checkpoints too, and none of other classes."""
        map_stock_keys(state_dict, prefix)
        own = self.state_dict(prefix=prefix)
        names = [f'{prefix}seg_head.']
        if isinstance(self.seg_head, nn.ModuleList):
            names = [f'{names[0]}{i}.' for i in range(len(self.seg_head))]
        classifiers = map(find_classifier, self.seg_heads)
        for name, found in zip(names, classifiers):
            check_num_classes(
                *(state_dict, own, name + found.weight, found.class_dim),
                self.num_classes,
                self.reinit_classifier,
            )
        check_attn_channels(
            state_dict, own, f'{prefix}scale_attn.conv0.weight'
        )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
