"""An encoder-decoder whose settings are read when they are assigned."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.utils import ConfigType
from torch.nn.modules.batchnorm import _NormBase

from ..decode_heads.base_multi_scale_head import BaseMultiScaleHead
from ..utils.execution import is_tracing
from .settings import (
    InferenceSettings,
    TrainingSettings,
    read_test_cfg,
    read_train_cfg,
)


class ConfiguredEncoderDecoder(EncoderDecoder):
    """Reads ``train_cfg`` and ``test_cfg``; freezes parts of the model.

    Both are read when they are assigned, and again when they have been changed
    in place. Arguments are those of :class:`MultiScaleAttentionSegmentor`.
    """

    # The config, a copy that tells when it is changed, and what it says.
    _train_cfg = _train_cfg_read = None
    _train_settings = _UNTRAINED = TrainingSettings(scales=())
    _test_cfg = _test_cfg_read = _test_settings = None
    _is_built = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.attention_only:
            # No forward pass over frozen parameters records anything, and
            # DDP and optimizers pass over them.
            self.requires_grad_(False)
            for part in self.decode_head.attention_modules:
                part.requires_grad_(True)
        self._is_built = True
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
        """Settings of training."""
        return self._train_cfg

    @train_cfg.setter
    def train_cfg(self, cfg: Mapping | None) -> None:
        cfg, settings = _as_config(cfg, 'train_cfg'), self._UNTRAINED
        if cfg is not None:
            settings = read_train_cfg(cfg, self.decode_head, self.backbone)
        frozen, before = settings.attention_only, self._train_settings
        if self._is_built and cfg and frozen != before.attention_only:
            raise ValueError(
                f'model.train_cfg.attention_only={frozen} comes too late: '
                'what is frozen is settled when the model is built; set it '
                'in the config that the model is built from'
            )
        self._train_cfg, self._train_settings = cfg, settings
        self._train_cfg_read = cfg and cfg.to_dict()
        self.decode_head.stats_scale = settings.stats_scale
        if self._is_built and settings.norm_eval != before.norm_eval:
            self.train(self.training)

    @property
    def training_settings(self) -> TrainingSettings:
        """``train_cfg``, checked; a ValueError if it is missing or wrong."""
        if not is_tracing() and self._train_cfg != self._train_cfg_read:
            self.train_cfg = self._train_cfg
        if self._train_cfg is None:
            read_train_cfg({}, self.decode_head, self.backbone)
        return self._train_settings

    @property
    def test_cfg(self) -> ConfigDict | None:
        """Settings of inference."""
        return self._test_cfg

    @test_cfg.setter
    def test_cfg(self, cfg: Mapping | None) -> None:
        cfg, settings = _as_config(cfg, 'test_cfg'), None
        if cfg is not None:
            settings = read_test_cfg(cfg, self.decode_head)
        self._test_cfg, self._test_settings = cfg, settings
        self._test_cfg_read = cfg and cfg.to_dict()

    @property
    def inference_settings(self) -> InferenceSettings:
        """``test_cfg``, checked; a ValueError if it is missing or wrong."""
        if not is_tracing() and self._test_cfg != self._test_cfg_read:
            self.test_cfg = self._test_cfg
        return self._test_settings or read_test_cfg({}, self.decode_head)

    @property
    def attention_only(self) -> bool:
        """Whether all but the attention of the decode head is frozen."""
        return self._train_settings.attention_only

    def train(self, mode: bool = True) -> ConfiguredEncoderDecoder:
        """Set the mode; what is frozen stays in evaluation mode."""
        norm_eval = self._train_settings.norm_eval
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


def _as_config(cfg: Mapping | None, name: str) -> ConfigDict | None:
    """The config itself, so that it may be changed, if it is one already."""
    if cfg is None or isinstance(cfg, ConfigDict):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ValueError(
            f'model.{name} must be a dict or None, got {cfg!r}; expected for '
            f'example {name}=dict(scales=(0.5, 1.0))'
        )
    return ConfigDict(cfg)
