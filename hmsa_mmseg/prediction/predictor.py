"""A loaded model, what prepares its images, and its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.utils import to_2tuple
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.engine.hooks import InferencePreparationHook
from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.models.decode_heads import HierarchicalMSAttentionHead
from hmsa_mmseg.models.segmentors import (
    AccumulatingTTAModel,
    MultiScaleAttentionSegmentor,
)
from hmsa_mmseg.utils.loading import find_test_set, load_model
from hmsa_mmseg.visualization.scale_maps_step import add_confidence

from .errors import PredictionError, in_one_line
from .journal import digest, file_digest
from .loading import Loaded, Pipeline

# What results hold beside classes, which does not change those.
_NOT_PREDICTION = ('scale_maps', 'classes_only', 'confidence')
# Of the model's config, what is of training; test_cfg is looked at alone.
_NOT_MODEL = ('test_cfg', 'train_cfg', 'pretrained')
# Of a window, as in mmseg's own configs (769 and 513, 512 and 341).
_STRIDE = 2 / 3


class Predictor:
    """A loaded model that predicts prepared images.

    Args:
        cfg (Config): With :func:`.options.apply_options`.
        checkpoint (str): Path of its weights.
        device (str): Where it runs.
        flip (bool): Whether logits of an image and its mirror image are
            averaged.
        confidence (bool): Whether results hold ``confidence``, also of a
            stock model.

    Raises:
        OSError, ValueError: If the model is none of semantic segmentation,
            its weights do not fit or are not finite, or its classes are not
            known.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: str,
        flip: bool = False,
        confidence: bool = False,
    ) -> None:
        # First: it changes the config where that is old.
        self.pipeline = Pipeline(cfg)
        model = load_model(cfg, checkpoint)
        if not isinstance(model, EncoderDecoder):
            raise PredictionError(
                f'{cfg.filename}: model is a {type(model).__name__}; '
                'expected an EncoderDecoder of mmseg or one of its kind'
            )
        self.cfg = cfg
        self.checkpoint = checkpoint
        self.classes, self.palette = _read_classes(cfg, checkpoint, model)
        self.device = device
        self.crop_size = to_2tuple(cfg.get('crop_size'))
        try:
            model.to(device)
        # torch has no common type of error for a device that is not there.
        except (RuntimeError, AssertionError) as error:
            raise PredictionError(
                f'--device {device}: {in_one_line(error)}; expected a device '
                'that this torch can use, such as cpu'
            ) from error
        self.model = _prepared(model, cfg)
        self.confidence = confidence
        if isinstance(self.model, MultiScaleAttentionSegmentor):
            # No logits are made.
            self._set_test_cfg(classes_only=True, confidence=confidence)
        self.tta = None
        if flip:
            tta = AccumulatingTTAModel(self.model, confidence=confidence)
            self.tta = tta.eval()

    def _set_test_cfg(self, **changed: Any) -> None:
        cfg = self.model.test_cfg
        # A copy: it may be shared with the config of the run.
        self.model.test_cfg = type(cfg)({**cfg, **changed})

    @property
    def scales(self) -> tuple[float, ...]:
        """tuple[float]: Lowest first; none of a stock model."""
        if not isinstance(self.model, MultiScaleAttentionSegmentor):
            return ()
        return tuple(sorted(map(float, self.model.test_cfg['scales'])))

    @property
    def mode(self) -> str:
        """str: ``whole`` or ``slide``: how an image is seen."""
        return self.model.test_cfg.get('mode', 'whole')

    @contextmanager
    def in_mode(self, mode: str, size: Sequence[int]) -> Iterator[None]:
        """Run in another way, for a ``with``: ``slide`` or ``cpu``.

        Windows have at most half the height and width of images of a size.
        """
        cfg = self.model.test_cfg
        if mode == 'cpu':
            self.model.cpu()
        else:
            halves = [-(-side // 2) for side in size]
            crop = tuple(
                half if limit is None else min(half, limit)
                for half, limit in zip(halves, self.crop_size)
            )
            stride = tuple(max(1, int(side * _STRIDE)) for side in crop)
            self._set_test_cfg(mode='slide', crop_size=crop, stride=stride)
        try:
            yield
        finally:
            self.model.test_cfg = cfg
            self.model.to(self.device)

    def check_attention(self) -> None:
        """Refuse ``--save attention`` of a head that has none."""
        head = self.model.decode_head
        is_hierarchical = isinstance(head, HierarchicalMSAttentionHead)
        if not is_hierarchical or len(self.scales) < 2:
            raise PredictionError(
                '--save attention: there is no attention between scales '
                f'{self.scales} of a {type(head).__name__};'
                ' expected a HierarchicalMSAttentionHead at two scales or '
                'more; --save weights shows the part of each scale'
            )

    def settings(self) -> dict[str, Any]:
        """Collect what predictions depend on, in types that JSON has.

        Names of files, the device, threads, the number of images in a batch
        and what to do where memory is short are not among it: they change
        nothing, or only roundings.
        """
        cfg = self.cfg
        test_cfg = {
            key: value
            for key, value in (cfg.model.get('test_cfg') or {}).items()
            # None is the default of each.
            if key not in _NOT_PREDICTION and value is not None
        }
        parts = dict(
            model={k: v for k, v in cfg.model.items() if k not in _NOT_MODEL},
            test_cfg=test_cfg,
            pipeline=find_test_set(cfg).get('pipeline')
            or cfg.get('test_pipeline'),
            custom_hooks=cfg.get('custom_hooks'),
        )
        is_slide = test_cfg.get('mode') == 'slide'
        settings = dict(
            checkpoint_sha256=file_digest(self.checkpoint),
            config_sha256=digest(parts),
            scales=self.scales or [1.0],
            flip=self.tta is not None,
            dtype=test_cfg.get('dtype') or 'float32',
            mode=test_cfg.get('mode', 'whole'),
            crop_size=test_cfg.get('crop_size') if is_slide else None,
            stride=test_cfg.get('stride') if is_slide else None,
            classes=self.classes,
            palette=self.palette,
        )
        # As they are read back.
        return json.loads(json.dumps(settings, sort_keys=True, default=str))

    @torch.no_grad()
    def __call__(self, batch: Sequence[Loaded]) -> list[SegDataSample]:
        """Predict images of one shape.

        Results are on the CPU, at each image's original size, without
        logits.
        """
        inputs = [loaded.inputs for loaded in batch]
        samples = [loaded.data_sample.clone() for loaded in batch]
        model = self.model
        if self.tta is not None:
            model = self.tta
            inputs = [inputs, [image.flip(-1) for image in inputs]]
            flipped = [sample.clone() for sample in samples]
            for sample in flipped:
                sample.set_metainfo(
                    dict(flip=True, flip_direction='horizontal')
                )
            samples = [samples, flipped]
        results = model.test_step(dict(inputs=inputs, data_samples=samples))
        for result in results:
            if self.confidence and 'confidence' not in result:
                add_confidence(result, [result])
            # Large, and not needed on the CPU.
            if 'seg_logits' in result:
                del result.seg_logits
        return [result.cpu() for result in results]


def _read_classes(
    cfg: Config, checkpoint: str, model: nn.Module
) -> tuple[tuple[str, ...], Any]:
    meta = model.dataset_meta or {}
    classes = meta.get('classes')
    if not classes:
        raise PredictionError(
            f'neither {checkpoint} nor test_dataloader.dataset of '
            f'{cfg.filename} says what the classes are; expected for example '
            "--cfg-options test_dataloader.dataset.metainfo.classes='(road,"
            "sky)'"
        )
    if len(classes) != model.num_classes:
        raise PredictionError(
            f'{checkpoint} or test_dataloader.dataset of {cfg.filename} '
            f'names {len(classes)} classes, the model has '
            f'{model.num_classes}; expected as many'
        )
    return tuple(classes), meta.get('palette')


def _prepared(model: nn.Module, cfg: Config) -> nn.Module:
    """Prepare a model as a test with this config would."""
    for hook in cfg.get('custom_hooks') or []:
        options = dict(hook)
        options.pop('priority', None)
        if options.pop('type') in (
            'InferencePreparationHook',
            InferencePreparationHook,
        ):
            options = InferencePreparationHook(**options).options
            return prepare_for_inference(model, **options)
    return model
