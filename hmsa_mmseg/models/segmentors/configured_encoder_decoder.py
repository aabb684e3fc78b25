"""An encoder-decoder whose settings are read when they are assigned."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.utils import ConfigType
from torch.nn.modules.batchnorm import _NormBase

from ..decode_heads.base_multi_scale_head import BaseMultiScaleHead
from ..utils import is_tracing
from .settings import (
    InferenceSettings,
    TrainingSettings,
    read_test_cfg,
    read_train_cfg,
)


class ConfiguredEncoderDecoder(EncoderDecoder):
    """Reads ``train_cfg`` and ``test_cfg``; freezes parts of the model.

    Args:
        *args: As in :class:`MultiScaleAttentionSegmentor`.
        **kwargs: As in :class:`MultiScaleAttentionSegmentor`.
    """

    # Read when the config is given.
    _training: TrainingSettings | None = None
    _settings: InferenceSettings | None = None
    _settings_of: dict | None = None

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.attention_only:
            # No forward pass over frozen parameters records anything, and
            # DDP and optimizers pass over them.
            self.requires_grad_(False)
            for part in self.decode_head.attention_modules:
                part.requires_grad_(True)
        self.train(self.training)

    def _init_decode_head(self, decode_head: ConfigType) -> None:
        super()._init_decode_head(decode_head)
        if not isinstance(self.decode_head, BaseMultiScaleHead):
            raise TypeError(
                f'model.decode_head: {type(self.decode_head).__name__} does '
                'not combine scales; expected HierarchicalMSAttentionHead, '
                'with this head as its seg_head'
            )

    @property
    def train_cfg(self) -> ConfigDict | None:
        """Settings of training, read when they are assigned."""
        return self._train_cfg

    @train_cfg.setter
    def train_cfg(self, cfg: Mapping | None) -> None:
        training = stats_scale = None
        if cfg is not None:
            cfg = ConfigDict(cfg)
            training = read_train_cfg(cfg, self.decode_head, self.backbone)
            stats_scale = training.stats_scale
        self._train_cfg, self._training = cfg, training
        self.decode_head.stats_scale = stats_scale

    @property
    def training_settings(self) -> TrainingSettings:
        """``train_cfg``, checked.

        Raises:
            ValueError: If there is none.
        """
        if self._training is None:
            return read_train_cfg({}, self.decode_head, self.backbone)
        return self._training

    @property
    def test_cfg(self) -> ConfigDict | None:
        """Settings of inference, read when they are assigned or changed."""
        return self._test_cfg

    @test_cfg.setter
    def test_cfg(self, cfg: Mapping | None) -> None:
        settings = settings_of = None
        if cfg is not None:
            cfg = ConfigDict(cfg)
            settings = read_test_cfg(cfg, self.decode_head)
            settings_of = cfg.to_dict()
        self._test_cfg, self._settings_of = cfg, settings_of
        self._settings = settings

    @property
    def inference_settings(self) -> InferenceSettings:
        """``test_cfg``, checked.

        Raises:
            ValueError: If there is none, or it has been changed to one that
                makes no sense.
        """
        if not is_tracing() and self._test_cfg != self._settings_of:
            self.test_cfg = self._test_cfg
        if self._settings is None:
            return read_test_cfg({}, self.decode_head)
        return self._settings

    @property
    def attention_only(self) -> bool:
        """Whether all but the attention of the decode head is frozen."""
        return self._training is not None and self._training.attention_only

    def train(self, mode: bool = True) -> ConfiguredEncoderDecoder:
        """Set the mode; what is frozen stays in evaluation mode."""
        norm_eval = self._training is not None and self._training.norm_eval
        super().train(mode and not self.attention_only)
        self.training = mode
        if mode and norm_eval:
            for layer in self.modules():
                if isinstance(layer, _NormBase):
                    layer.eval()
        if mode and (norm_eval or self.attention_only):
            for part in self.decode_head.attention_modules:
                part.train()
        return self
