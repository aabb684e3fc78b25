"""What the heads that combine several scales have in common.

Shape shorthand in this module:
    N: batch, K: output channels (classes), h, w: size of the seg head's
    features at one scale.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Sequence

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptMultiConfig, SampleList, add_prefix
from torch import Tensor, nn

from ..fast.logit_rows import LogitRows, WholeLogits
from ..fast.ocr import fast_heads
from ..fast.row_losses import LazyOutput, loss_by_feat
from ..utils import FrozenStatistics
from .classifiers import Classifier, find_classifier
from .loading import (
    check_attn_channels,
    check_num_classes,
    map_stock_keys,
)
from .scale_predictions import ScalePredictions
from .seg_head_outputs import (
    SegHeadOutputs,
    as_loss_takes_it,
    call_seg_heads,
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
    ``(scale, feats)`` pairs and knows nothing else about it.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier (:func:`find_classifier`), or of a cascade
            of them, each reading its predecessor's output, as OCRNet's.
        num_classes (int, optional): Overrides ``num_classes`` of every seg
            head. Defaults to None.
        reinit_classifier (bool): Whether a checkpoint with another number of
            classes may be loaded, its classifiers left out; otherwise it is
            an error. Defaults to False.
        fast (bool): Whether to compute the same by ways that take less time
            and memory where there are any (:mod:`hmsa_mmseg.models.fast`).
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
        # One head keeps its keys short, a cascade is numbered as in mmseg.
        single = isinstance(seg_head, dict)
        self.seg_head = heads[0] if single else nn.ModuleList(heads)
        self.reinit_classifier = reinit_classifier
        self.fast = fast

        last = heads[-1]
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
    def classifier(self) -> Classifier:
        """The last seg head's classifier, whose features attention reads."""
        return find_classifier(self.seg_heads[-1])

    @property
    def attention_modules(self) -> list[nn.Module]:
        """What this head learns beside its seg heads; may be nothing."""
        return [
            child
            for name, child in self.named_children()
            if name != 'seg_head'
            and next(child.parameters(), None) is not None
        ]

    @property
    def fuses_in_rows(self) -> bool:
        """Whether scales are decoded alone, then combined in row tiles."""
        return False

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
        run_fast = fast_heads(self.seg_heads) if self.fast else None
        if run_fast is not None:
            stages, classifier_feats = run_fast(feats, with_classifier_feats)
            return SegHeadOutputs(stages, stages[-1], classifier_feats)
        return call_seg_heads(self.seg_heads, feats)

    def forward_scale(
        self, scale: float, feats: Sequence[Tensor], **kwargs
    ) -> SegHeadOutputs:
        """Run :meth:`forward_seg_heads`, also in training.

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

    def loss_by_stage(
        self,
        stages: Sequence[LazyOutput],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Let each seg head compute its own losses on combined outputs.

        Args:
            stages (Sequence[Tensor | RowLogits | tuple]): Per seg head the
                same structure as its ``forward`` gives, at the input's size,
                made or yet to be made.
            batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: ``decode.*`` for the last seg head, ``aux.*``
            for the one before it (``aux_0.*``, ``aux_1.*``, ... if there are
            several).
        """
        num_aux = len(stages) - 1
        prefixes = [f'aux_{i}' for i in range(num_aux)]
        if num_aux == 1:
            prefixes = ['aux']
        losses = {}
        for prefix, head, output in zip(
            [*prefixes, 'decode'], self.seg_heads, stages
        ):
            stage_losses = loss_by_feat(
                head, as_loss_takes_it(head, output), batch_data_samples
            )
            losses.update(add_prefix(stage_losses, prefix))
        return losses

    @abstractmethod
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

    def predict_rows(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> LogitRows:
        """Get ready to combine the scales, row by row where it is possible.

        Args:
            inputs (Iterable[tuple]): As for :meth:`predict`.
            input_size (Sequence[int]): Size (H, W) of the input image.

        Returns:
            LogitRows: Those of :meth:`predict`, up to rounding.
        """
        return WholeLogits(self.predict(inputs, input_size))

    @abstractmethod
    def predict_scales(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScalePredictions:
        """Combine the scales, and keep what each of them says.

        For looking at a model: it takes the memory of S + 1 predictions.

        Args:
            inputs (Iterable[tuple]): As for :meth:`predict`.
            input_size (Sequence[int]): Size (H, W) of the input image.

        Returns:
            ScalePredictions: With the logits of :meth:`predict`.
        """

    def num_scale_attns(self, num_scales: int) -> int:
        """Count the attention maps of :meth:`predict_scales`; here none."""
        return 0

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
            dict[str, Tensor]: Losses and accuracies, their keys prefixed.
        """

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        """Take mmseg's own checkpoints too, and none of other classes."""
        map_stock_keys(state_dict, prefix)
        check_num_classes(self, state_dict, prefix)
        check_attn_channels(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
