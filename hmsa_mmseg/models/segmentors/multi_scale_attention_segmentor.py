"""Segmentor that sees one image at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptSampleList, SampleList
from torch import Tensor

from ..decode_heads.base_multi_scale_head import (
    BaseMultiScaleHead,
    ScaleFeats,
)
from ..scale_fusion import check_scales, resize_image


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
            None for a model that is not trained.
        test_cfg (dict, optional): With ``scales``, the relative sizes at
            test time, (0.5, 1.0, 2.0) in the paper, beside ``mode`` and the
            settings of ``slide`` inference, whose windows are sized at 1.0.
        **kwargs: As in :class:`EncoderDecoder`. Auxiliary heads read the
            features of the training scale nearest to 1.0.

    Raises:
        TypeError: If the decode head is not one for several scales.
        ValueError: If ``scales`` is missing or makes no sense.
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
        return check_scales(
            cfg['scales'],
            key=f'model.{cfg_name}.scales',
            min_scales=self.decode_head.min_train_scales if is_train else 1,
        )

    def _extract_scales(
        self, inputs: Tensor, scales: Iterable[float]
    ) -> Iterator[ScaleFeats]:
        """Yield ``(scale, feats)``, each computed when it is asked for."""
        for scale in scales:
            scaled = resize_image(inputs, scale, self.align_corners)
            yield scale, self.extract_feat(scaled)

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
            the auxiliary heads.
        """
        scale_feats = list(
            self._extract_scales(inputs, self._scales('train_cfg'))
        )
        losses = self.decode_head.loss(
            scale_feats, inputs.shape[2:], data_samples
        )
        if self.with_auxiliary_head:
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
