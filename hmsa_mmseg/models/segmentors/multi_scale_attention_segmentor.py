"""Segmentor that sees one image at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptSampleList, SampleList
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from ..decode_heads.base_multi_scale_head import (
    BaseMultiScaleHead,
    ScaleFeats,
)
from ..fast.logit_rows import LogitRows, WholeLogits
from ..inference.memory_budget import (
    logits_within_budget,
    results_within_budget,
)
from ..scale_fusion import resize_image
from ..utils import (
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from .results import results_of_logits, results_of_rows
from .scale_maps import predict_with_scale_maps
from .settings import (
    InferenceSettings,
    check_train_cfg,
    read_scales,
    read_test_cfg,
)
from .slide import mean_over_windows


@MODELS.register_module()
class MultiScaleAttentionSegmentor(EncoderDecoder):
    """An encoder-decoder that runs once per scale and combines the scales.

    The image is resized to each scale, backbone, neck and decode head run
    once on it, and the decode head combines what they give
    (https://arxiv.org/abs/2005.10821). Sliding-window inference, padding,
    flips and results are :class:`EncoderDecoder`'s.

    Args:
        decode_head (dict): Config of a head for several scales, such as
            :class:`HierarchicalMSAttentionHead`.
        train_cfg (dict, optional): With ``scales``, the relative sizes at
            which the image is seen in training, (0.5, 1.0) in the paper.
            ``checkpoint`` names what is computed again in the backward pass
            to save memory, with the same result: ``'scales'``, backbone and
            neck at all scales but the highest, and ``'backbone'``, the
            backbone's blocks at all scales; by default nothing.
            ``attention_only=True`` freezes everything but the attention of
            the decode head: no gradients, fixed BN statistics, no dropout,
            no auxiliary heads. ``stats_scale`` names the scale whose batches
            the running statistics of batch normalisation in backbone, neck
            and seg heads are taken from; by default all scales', as in the
            authors' code, which fit none of them. ``norm_eval=True``
            normalises with running statistics and leaves them as they are,
            everywhere but in the attention, as a trained model needs when it
            is trained on at several scales. None for a model that is not
            trained.
        test_cfg (dict, optional): With ``scales``, the relative sizes at
            test time, (0.5, 1.0, 2.0) in the paper, beside ``mode`` and the
            settings of ``slide`` inference, whose windows are sized at 1.0.
            ``dtype``, ``'bfloat16'`` or ``'float16'``, is the type in which
            backbone and heads run under autocast; logits, attention and
            their blend stay float32. ``classes_only=True`` leaves the
            logits out of the results; classes are int16 then.
            ``confidence=True`` adds to the results ``confidence``, float32
            (1, h, w), the probability of the class that each pixel is given.
            ``memory_budget`` is the number of bytes that tensors made by a
            call may hold at once, weights and images apart; where it is
            too little for a scale, ``over_budget='error'``, the default,
            stops, and ``'slide'`` computes that scale in overlapping
            windows, an approximation. See :mod:`..inference.memory_budget`.
            ``scale_maps=True`` adds to the results what each scale says by
            itself, for looking at a model; see :mod:`.scale_maps`.
        **kwargs: As in :class:`EncoderDecoder`. Auxiliary heads read the
            features of the training scale nearest to 1.0.

    Raises:
        TypeError: If the decode head is not one for several scales.
        ValueError: If ``scales`` is missing or makes no sense, or
            ``train_cfg`` asks for what this model does not have.
    """

    def __init__(
        self,
        *args,
        train_cfg: ConfigType | None = None,
        test_cfg: ConfigType | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            *args, train_cfg=train_cfg, test_cfg=test_cfg, **kwargs
        )
        if not isinstance(self.decode_head, BaseMultiScaleHead):
            raise TypeError(
                f'model.decode_head: {type(self.decode_head).__name__} does '
                'not combine scales; expected HierarchicalMSAttentionHead, '
                'with this head as its seg_head'
            )
        if self.train_cfg is not None:
            scales = self._scales('train_cfg')
            check_train_cfg(self.train_cfg, scales, self.backbone)
            self.decode_head.stats_scale = self.train_cfg.get('stats_scale')
        if self.test_cfg is not None:
            read_test_cfg(self.test_cfg, self.decode_head)
        if self._attention_only:
            self._freeze_all_but_attention()
        self.train(self.training)

    @property
    def _attention_only(self) -> bool:
        return (self.train_cfg or {}).get('attention_only', False)

    @property
    def _checkpoint(self) -> tuple[str, ...]:
        return (self.train_cfg or {}).get('checkpoint') or ()

    def _freeze_all_but_attention(self) -> None:
        parts = self.decode_head.attention_modules
        if not parts:
            raise ValueError(
                'model.train_cfg.attention_only=True: '
                f'{type(self.decode_head).__name__} has no attention to '
                'train; expected model.decode_head to be one that has, such '
                'as HierarchicalMSAttentionHead'
            )
        # No forward pass over frozen parameters records anything, and DDP
        # and optimizers pass over them.
        self.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> MultiScaleAttentionSegmentor:
        """Set the mode; what is frozen stays in evaluation mode."""
        norm_eval = (self.train_cfg or {}).get('norm_eval', False)
        super().train(mode and not self._attention_only)
        self.training = mode
        if mode and norm_eval:
            for layer in self.modules():
                if isinstance(layer, _NormBase):
                    layer.eval()
        if mode and (norm_eval or self._attention_only):
            for part in self.decode_head.attention_modules:
                part.train()
        return self

    def _scales(self, cfg_name: str) -> tuple[float, ...]:
        """Read the scales of ``train_cfg`` or ``test_cfg``, lowest first."""
        return read_scales(getattr(self, cfg_name), cfg_name, self.decode_head)

    def _extract_scales(
        self, inputs: Tensor, scales: Iterable[float]
    ) -> Iterator[ScaleFeats]:
        """Yield ``(scale, feats)``, each computed when it is asked for."""
        for scale in scales:
            # Nothing is given a name, which would keep it in memory while the
            # head runs.
            yield (
                scale,
                self.extract_feat(
                    resize_image(inputs, scale, self.align_corners)
                ),
            )

    def _extract_for_training(self, inputs: Tensor) -> list[ScaleFeats]:
        """Compute the features of all scales, checkpointed as asked for."""
        *lower, top = self._scales('train_cfg')
        names = self._checkpoint
        blocks = []
        if 'backbone' in names:
            blocks = checkpointable_blocks(self.backbone)

        def extract(scale: float, scaled: Tensor) -> Sequence[Tensor]:
            counts = self.decode_head.stats_scale in (None, scale)
            statistics = nullcontext() if counts else FrozenStatistics(self)
            with statistics, checkpoint_modules(blocks):
                return self.extract_feat(scaled)

        scale_feats = []
        for scale in (*lower, top):
            scaled = resize_image(inputs, scale, self.align_corners)
            # The highest comes first in the backward pass: computed again
            # it would take the same memory again, at once.
            if 'scales' in names and scale < top:
                feats = recompute(self, partial(extract, scale), scaled)
            else:
                feats = extract(scale, scaled)
            scale_feats.append((scale, feats))
        return scale_feats

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: list[dict] | None = None
    ) -> Tensor:
        """Predict from all scales of ``test_cfg``, highest first.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W), any H and W.
            batch_img_metas (list[dict], optional): Not read: the sizes are
                those of ``inputs``.

        Returns:
            Tensor: Combined logits, shape (N, K, H, W), float32.
        """
        return self._combine(inputs)

    def _combine(self, inputs: Tensor, reserved: int = 0) -> Tensor:
        """Run all scales and combine them as ``test_cfg`` says.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).
            reserved (int): Bytes of the memory budget that are taken.
                Defaults to 0.

        Returns:
            Tensor: Logits (N, K, H, W).
        """
        settings = read_test_cfg(self.test_cfg, self.decode_head)
        with settings.autocast(inputs.device):
            if settings.memory_budget is not None:
                return logits_within_budget(self, inputs, settings, reserved)
            return self.decode_head.predict(
                self._extract_scales(inputs, reversed(settings.scales)),
                inputs.shape[2:],
            )

    def predict_rows(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping] | None = None
    ) -> LogitRows:
        """Predict as :meth:`inference`, but no row before it is asked for.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).
            batch_img_metas (list[dict], optional): Of the images.

        Returns:
            LogitRows: Shape (N, K, H, W), float32. Whole logits in ``slide``
            mode, with a memory budget, and of heads that cannot but make
            them.
        """
        settings = read_test_cfg(self.test_cfg, self.decode_head)
        if settings.mode == 'slide' or settings.memory_budget is not None:
            return WholeLogits(self.inference(inputs, batch_img_metas))
        with settings.autocast(inputs.device):
            return self.decode_head.predict_rows(
                self._extract_scales(inputs, reversed(settings.scales)),
                inputs.shape[2:],
            )

    def predict(
        self, inputs: Tensor, data_samples: OptSampleList = None
    ) -> SampleList:
        """Predict results as ``test_cfg`` says.

        With ``classes_only``, images that are seen whole never become
        logits, neither at the size of the input nor at that of the file:
        rows are blended, resized and decided a few at a time. In ``slide``
        mode there are logits of the input's size, the mean over windows.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).
            data_samples (list[SegDataSample], optional): Of the images.

        Returns:
            list[SegDataSample]: With ``pred_sem_seg`` and, unless only
            classes are asked for, ``seg_logits``; with ``confidence`` that
            too, and with ``scale_maps`` what :mod:`.scale_maps` lists.
        """
        settings = read_test_cfg(self.test_cfg, self.decode_head)
        if settings.scale_maps:
            return predict_with_scale_maps(
                self, inputs, settings, data_samples
            )
        if not settings.classes_only or settings.mode == 'slide':
            return super().predict(inputs, data_samples)
        if settings.memory_budget is not None:
            return self._results_within_budget(inputs, data_samples, settings)
        return self._results(self.predict_rows(inputs), data_samples)

    def _results_within_budget(
        self,
        inputs: Tensor,
        data_samples: OptSampleList,
        settings: InferenceSettings,
    ) -> SampleList:
        metas = None
        if data_samples is not None:
            metas = [sample.metainfo for sample in data_samples]

        def finish(seg_logits: LogitRows, images: slice) -> SampleList:
            samples = None if metas is None else data_samples[images]
            return self._results(seg_logits, samples)

        with settings.autocast(inputs.device):
            return results_within_budget(self, inputs, settings, metas, finish)

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping]
    ) -> Tensor:
        """Average the logits of windows, as mmseg, in less memory."""
        settings = read_test_cfg(self.test_cfg, self.decode_head)
        return mean_over_windows(
            self._combine,
            inputs,
            self.out_channels,
            settings.crop_size,
            settings.stride,
        )

    def postprocess_result(
        self, seg_logits: Tensor, data_samples: OptSampleList = None
    ) -> SampleList:
        """Make results of logits, as mmseg, without needless copies."""
        return self._results(WholeLogits(seg_logits), data_samples)

    def _results(
        self, seg_logits: LogitRows, data_samples: OptSampleList
    ) -> SampleList:
        """Make results as ``test_cfg`` says; with logits if they are whole."""
        settings = read_test_cfg(self.test_cfg, self.decode_head)
        make = results_of_rows
        if not settings.classes_only:
            seg_logits, make = seg_logits.logits, results_of_logits
        return make(
            seg_logits,
            data_samples,
            self.align_corners,
            self.decode_head.threshold,
            settings.confidence,
        )

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict:
        """Compute losses over all scales of ``train_cfg``, lowest first.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).
            data_samples (list[SegDataSample]): With ``gt_sem_seg`` of the
                images' size.

        Returns:
            dict[str, Tensor]: The decode head's losses, and ``aux*.*`` of
            the auxiliary heads unless only attention is trained.
        """
        scale_feats = self._extract_for_training(inputs)
        losses = self.decode_head.loss(
            scale_feats, inputs.shape[2:], data_samples
        )
        if self.with_auxiliary_head and not self._attention_only:
            _, feats = min(scale_feats, key=lambda item: abs(item[0] - 1))
            aux = self._auxiliary_head_forward_train(feats, data_samples)
            if aux.keys() & losses.keys():
                # A cascade's earlier head has taken the name `aux` already.
                aux = {f'backbone_{key}': aux[key] for key in aux}
            losses.update(aux)
        return losses

    def _forward(
        self, inputs: Tensor, data_samples: OptSampleList = None
    ) -> Tensor:
        """Return the combined logits, shape (N, K, H, W)."""
        return self.encode_decode(inputs)
