"""Segmentor that sees one image at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ..decode_heads.base_multi_scale_head import DecodedScales, ScaleFeats
from ..decode_heads.combining import losses_of_aux_heads
from ..scale_fusion import resize_image
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..utils.checkpointing import (
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from ..utils.execution import is_tracing
from ..utils.norm_layers import (
    PassWeights,
    counting_at_once,
    plain_norm_layers,
)
from .configured_encoder_decoder import ConfiguredEncoderDecoder
from .results import make_results
from .scale_map_results import results_with_scale_maps
from .settings import InferenceSettings
from .slide import mean_over_windows


@MODELS.register_module()
class MultiScaleAttentionSegmentor(ConfiguredEncoderDecoder):
    """An encoder-decoder that runs once per scale and combines the scales.

    The image is resized to each scale, backbone, neck and decode head run
    once on it, and the decode head combines what they give
    (https://arxiv.org/abs/2005.10821). Windows of ``slide`` and results are
    mmseg's in less memory (:mod:`.slide`, :mod:`.results`). A prediction
    keeps nothing on the model: threads may share one.

    Args:
        decode_head (dict): Config of a head for several scales, such as
            :class:`HierarchicalMSAttentionHead`.
        train_cfg (dict, optional): ``scales`` and other settings of training,
            see :class:`.settings.TrainingSettings`. None for a model that is
            not trained.
        test_cfg (dict, optional): ``scales``, ``mode`` and other settings of
            inference, see :class:`.settings.InferenceSettings`.
        **kwargs: As in :class:`EncoderDecoder`. Auxiliary heads read the
            features of the training scale nearest to 1.0.

    Raises:
        TypeError: If the decode head is not one for several scales.
        ValueError: If ``scales`` is missing or makes no sense, or a setting
            asks for what this model does not have.
    """

    def extract_scales(
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
        settings = self.training_settings
        weights = PassWeights(
            plain_norm_layers(self.backbone), len(settings.scales)
        )
        blocks = []
        if 'backbone' in settings.checkpoint:
            blocks = checkpointable_blocks(self.backbone)

        def extract(scale: float, scaled: Tensor) -> Sequence[Tensor]:
            counts = settings.stats_scale in (None, scale)
            statistics = nullcontext() if counts else FrozenStatistics(self)
            again = checkpoint_modules(blocks) if blocks else nullcontext()
            with statistics, again:
                return self.extract_feat(scaled)

        scale_feats = []
        for i, scale in enumerate(settings.scales):
            scaled = resize_image(inputs, scale, self.align_corners)
            # The highest comes first in the backward pass: computed again
            # it would take the same memory again, at once.
            is_top = scale == settings.scales[-1]
            with weights.of_pass(i):
                if 'scales' in settings.checkpoint and not is_top:
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
        settings = self.inference_settings
        with settings.autocast(inputs.device):
            return self.decode_head.predict_rows(
                self._decoded(inputs), inputs.shape[2:]
            ).whole()

    def _decoded(self, inputs: Tensor) -> DecodedScales:
        """Run backbone and heads at all scales of ``test_cfg``."""
        scales = self.inference_settings.scales

        def decoded(inputs: Tensor) -> DecodedScales:
            return self.decode_head.decode(
                self.extract_scales(inputs, scales[::-1])
            )

        found = None
        if self.inference_graphs is not None and not is_tracing():
            found = self.inference_graphs(self, decoded, (inputs,), scales)
        return decoded(inputs) if found is None else found

    def predict_rows(self, inputs: Tensor) -> LogitRows:
        """Predict as :meth:`inference`, but no row before it is asked for.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).

        Returns:
            LogitRows: Shape (N, K, H, W), float32. Whole logits in ``slide``
            mode, with ``decode_head.fast=False``, of heads other than
            :class:`HierarchicalMSAttentionHead`, with gradients, and while a
            graph is traced.
        """
        settings = self.inference_settings
        if settings.mode == 'slide':
            return WholeLogits(self.slide_inference(inputs, None))
        with settings.autocast(inputs.device):
            return self.decode_head.predict_rows(
                self._decoded(inputs), inputs.shape[2:]
            )

    def predict(
        self, inputs: Tensor, data_samples: OptSampleList = None
    ) -> SampleList:
        """Predict results as ``test_cfg`` says.

        With ``classes_only``, rows are blended, resized and decided a few at
        a time, where :meth:`predict_rows` gives no whole logits.

        Args:
            inputs (Tensor): Images, shape (N, 3, H, W).
            data_samples (list[SegDataSample], optional): Of the images.

        Returns:
            list[SegDataSample]: With ``pred_sem_seg`` and, unless only
            classes are asked for, ``seg_logits``; with ``confidence`` that
            too, and with ``scale_maps`` what
            :mod:`.scale_map_results` lists.
        """
        settings = self.inference_settings
        if settings.scale_maps:
            return results_with_scale_maps(
                partial(self._stacked_scales, settings),
                inputs,
                data_samples,
                settings,
                self.out_channels,
                self.align_corners,
                self.decode_head.threshold,
            )
        if not settings.classes_only:
            return super().predict(inputs, data_samples)
        return self._results(self.predict_rows(inputs), data_samples)

    def _stacked_scales(
        self, settings: InferenceSettings, inputs: Tensor
    ) -> Tensor:
        """What each scale says, see :meth:`ScaleMaps.stacked`."""
        with settings.autocast(inputs.device):
            return self.decode_head.predict_scale_maps(
                self._decoded(inputs), inputs.shape[2:]
            ).stacked()

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping] | None
    ) -> Tensor:
        """Average the logits of windows, as mmseg, in less memory."""
        settings = self.inference_settings
        return mean_over_windows(
            self.encode_decode,
            inputs,
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
        """Make results as ``test_cfg`` says."""
        settings = self.inference_settings
        return make_results(
            seg_logits,
            data_samples,
            self.align_corners,
            self.decode_head.threshold,
            settings.classes_only,
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
        if self.training_settings.cuda_graph and not is_tracing():
            found = self._losses_by_graph(inputs, data_samples)
            if found is not None:
                return found
        return self._losses(inputs, data_samples)

    def _losses_by_graph(
        self, inputs: Tensor, data_samples: SampleList
    ) -> dict | None:
        """Replay the losses, if there is a graph of them."""

        def losses(inputs: Tensor, labels: Tensor) -> dict:
            samples = [
                SegDataSample(gt_sem_seg=PixelData(data=label))
                for label in labels
            ]
            return self._losses(inputs, samples)

        labels = torch.stack([x.gt_sem_seg.data for x in data_samples])
        return self.training_graphs(
            self, losses, (inputs, labels), self.training_settings
        )

    def _losses(self, inputs: Tensor, data_samples: SampleList) -> dict:
        with counting_at_once(plain_norm_layers(self)):
            scale_feats = self._extract_for_training(inputs)
            losses = self.decode_head.loss(
                scale_feats, inputs.shape[2:], data_samples
            )
        if self.with_auxiliary_head and not self.attention_only:
            _, feats = min(scale_feats, key=lambda item: abs(item[0] - 1))
            aux = self._auxiliary_head_forward_train(feats, data_samples)
            if aux.keys() & losses.keys():
                # A cascade's earlier head has taken the name `aux` already.
                aux = {f'backbone_{key}': aux[key] for key in aux}
            losses.update(aux)
        return losses

    def _auxiliary_head_forward_train(
        self, inputs: Sequence[Tensor], data_samples: SampleList
    ) -> dict:
        """Compute losses of auxiliary heads, as mmseg, but in tiles."""
        if not self.decode_head.fast or is_tracing():
            return super()._auxiliary_head_forward_train(inputs, data_samples)
        return losses_of_aux_heads(
            self.auxiliary_head, inputs, data_samples, self.train_cfg
        )

    def _forward(
        self, inputs: Tensor, data_samples: OptSampleList = None
    ) -> Tensor:
        """Return the combined logits, shape (N, K, H, W)."""
        return self.encode_decode(inputs)
