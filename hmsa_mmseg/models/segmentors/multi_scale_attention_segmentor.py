"""Segmentor that sees one image at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptSampleList, SampleList
from torch import Tensor

from ..decode_heads.base_multi_scale_head import (
    BaseMultiScaleHead,
    ScaleFeats,
)
from ..scale_fusion import check_scales, resize_image
from ..utils import (
    CAN_CHECKPOINT,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)

_CHECKPOINT = ('scales', 'backbone')
_TRAIN_CFG_KEYS = ('scales', 'checkpoint', 'attention_only')


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
            no auxiliary heads. None for a model that is not trained.
        test_cfg (dict, optional): With ``scales``, the relative sizes at
            test time, (0.5, 1.0, 2.0) in the paper, beside ``mode`` and the
            settings of ``slide`` inference, whose windows are sized at 1.0.
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
        for name in ('train_cfg', 'test_cfg'):
            if getattr(self, name) is not None:
                self._scales(name)
        if self.train_cfg is not None:
            self._check_train_cfg()
        if self._attention_only:
            self._freeze_all_but_attention()

    def _check_train_cfg(self) -> None:
        unknown = set(self.train_cfg) - set(_TRAIN_CFG_KEYS)
        if unknown:
            raise ValueError(
                f'model.train_cfg has no setting {sorted(unknown)}; expected '
                f'some of {list(_TRAIN_CFG_KEYS)}'
            )
        if not isinstance(self._attention_only, bool):
            raise ValueError(
                'model.train_cfg.attention_only must be True or False, got '
                f'{self._attention_only!r}'
            )
        names = self._checkpoint
        is_list = isinstance(names, (list, tuple))
        if not is_list or not all(name in _CHECKPOINT for name in names):
            raise ValueError(
                'model.train_cfg.checkpoint must be a list of some of '
                f'{list(_CHECKPOINT)}, got {names!r}'
            )
        if names and self._attention_only:
            raise ValueError(
                f'model.train_cfg.checkpoint={names!r} has nothing to save '
                'with model.train_cfg.attention_only=True, where backbone '
                'and neck keep nothing for a backward pass; remove one'
            )
        if names and not CAN_CHECKPOINT:
            raise ValueError(
                f'model.train_cfg.checkpoint={names!r} needs torch 2.1 or '
                f'newer, found {torch.__version__}'
            )
        if 'backbone' in names and not checkpointable_blocks(self.backbone):
            raise ValueError(
                "model.train_cfg.checkpoint: 'backbone' is not possible with "
                f'{type(self.backbone).__name__}, which has no blocks that '
                "mmseg could checkpoint (attribute `with_cp`); use ('scales',)"
            )

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
        self.train(self.training)

    def train(self, mode: bool = True) -> MultiScaleAttentionSegmentor:
        """Set the mode; what is frozen stays in evaluation mode."""
        if not (mode and self._attention_only):
            return super().train(mode)
        super().train(False)
        self.training = True
        for part in self.decode_head.attention_modules:
            part.train()
        return self

    def _scales(self, cfg_name: str) -> tuple[float, ...]:
        """Read the scales of ``train_cfg`` or ``test_cfg``, lowest first."""
        cfg = getattr(self, cfg_name)
        if cfg is None or cfg.get('scales') is None:
            raise ValueError(
                f'model.{cfg_name}.scales is missing: expected the relative '
                'image sizes, for example '
                f'{cfg_name}=dict(scales=(0.5, 1.0)); got {cfg_name}={cfg}'
            )
        is_train = cfg_name == 'train_cfg'
        key = f'model.{cfg_name}.scales'
        scales = check_scales(
            cfg['scales'],
            key=key,
            min_scales=self.decode_head.min_train_scales if is_train else 1,
        )
        self.decode_head.check_scales(scales, key)
        return scales

    def _extract_scales(
        self, inputs: Tensor, scales: Iterable[float]
    ) -> Iterator[ScaleFeats]:
        """Yield ``(scale, feats)``, each computed when it is asked for."""
        for scale in scales:
            scaled = resize_image(inputs, scale, self.align_corners)
            yield scale, self.extract_feat(scaled)

    def _extract_for_training(self, inputs: Tensor) -> list[ScaleFeats]:
        """Compute the features of all scales, checkpointed as asked for."""
        *lower, top = self._scales('train_cfg')
        names = self._checkpoint
        blocks = []
        if 'backbone' in names:
            blocks = checkpointable_blocks(self.backbone)

        def extract(scaled: Tensor) -> Sequence[Tensor]:
            with checkpoint_modules(blocks):
                return self.extract_feat(scaled)

        scale_feats = []
        for scale in (*lower, top):
            scaled = resize_image(inputs, scale, self.align_corners)
            # The highest comes first in the backward pass: computed again
            # it would take the same memory again, at once.
            if 'scales' in names and scale < top:
                feats = recompute(self, extract, scaled)
            else:
                feats = extract(scaled)
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
        highest_first = reversed(self._scales('test_cfg'))
        return self.decode_head.predict(
            self._extract_scales(inputs, highest_first), inputs.shape[2:]
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
