"""An encoder-decoder whose settings are read when they are assigned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.utils import ConfigType
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import _IncompatibleKeys

from ..decode_heads.base_multi_scale_head import BaseMultiScaleHead
from ..losses.binary_cross_entropy import take_empty_labels
from ..utils.cuda_graph import GraphCache
from ..utils.errors import memory_advice, norm_advice
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
        take_empty_labels(self)
        self.data_preprocessor.register_forward_pre_hook(
            _check_sizes, with_kwargs=True
        )
        #: Whether mmengine may load a checkpoint that lacks weights, as one to
        #: train from may; a training with SafeCheckpointHook sets it.
        self.partial_weights = False
        #: Graphs of ``train_cfg.cuda_graph``.
        self.training_graphs = GraphCache('model.train_cfg.cuda_graph')
        #: Graphs of inference, where a model has been prepared for them.
        self.inference_graphs: GraphCache | None = None
        self.register_load_state_dict_post_hook(_check_loaded)
        self.train(self.training)

    def load_state_dict(self, *args, **kwargs):
        """As PyTorch's: ``strict`` says what may be missing."""
        # Weights may be assigned instead of copied.
        for graphs in (self.training_graphs, self.inference_graphs):
            if graphs is not None:
                graphs.clear()
        before, self.partial_weights = self.partial_weights, True
        try:
            return super().load_state_dict(*args, **kwargs)
        finally:
            self.partial_weights = before

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """As mmseg's; with what helps where memory or a layer fails."""
        if mode == 'tensor' or is_tracing():
            return super().forward(inputs, data_samples, mode)
        training = mode == 'loss'
        scales = self._scales(training)
        with memory_advice(inputs.shape, scales, training), norm_advice(self):
            return super().forward(inputs, data_samples, mode)

    def train_step(self, data, optim_wrapper) -> dict:
        """As mmengine's; the backward pass takes memory, too."""
        if is_tracing():
            return super().train_step(data, optim_wrapper)
        shape = (len(data['inputs']), *data['inputs'][0].shape)
        with memory_advice(shape, self._scales(True), True):
            return super().train_step(data, optim_wrapper)

    def _scales(self, training: bool) -> Sequence[float]:
        if training:
            return self.training_settings.scales
        return self.inference_settings.scales

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


def _check_sizes(pads: nn.Module, args: tuple, kwargs: dict) -> None:
    """Refuse training images that cannot be padded to one size."""
    data, training = [*args, *kwargs.values(), False][:2]
    size = getattr(pads, 'size', None)
    if not training or size is None:
        return
    found = [tuple(image.shape[-2:]) for image in data['inputs']]
    if len({tuple(map(max, one, size)) for one in found}) > 1:
        large = max(range(len(found)), key=found.__getitem__)
        path = data['data_samples'][large].get('img_path')
        raise ValueError(
            f'{path}: {found[large]} (height, width) in one batch with '
            f'{min(found)}; model.data_preprocessor.size={tuple(size)} pads '
            'images to that size, and cuts none; expected a step such as '
            f'RandomCrop(crop_size={tuple(size)}) in the training pipeline'
        )


def _check_loaded(
    model: ConfiguredEncoderDecoder, keys: _IncompatibleKeys
) -> None:
    """Refuse weights that predict nonsense.

    mmengine warns of those that are missing, and predicts with what was
    drawn at random.
    """
    if model.partial_weights:
        return
    missing = [
        key for key in keys.missing_keys if 'num_batches_tracked' not in key
    ]
    if missing:
        raise ValueError(
            f'the checkpoint lacks {len(missing)} of the weights of the '
            f'model, such as {missing[0]}, and has '
            f'{len(keys.unexpected_keys)} entries that the model has not; '
            'expected a checkpoint of the same config; a training from part '
            'of it needs default_hooks.checkpoint.type=SafeCheckpointHook'
        )
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f'the checkpoint has NaN or infinity in {name}; expected the '
                'weights of a training that has not diverged'
            )


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
