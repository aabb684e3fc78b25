"""A model made ready for training: the same step in less time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch.nn.parallel import DistributedDataParallel

from hmsa_mmseg.models.preparation import compile_options
from hmsa_mmseg.utils.unwrapping import unwrapped


@HOOKS.register_module(name=['TrainingPreparationHook', 'ChannelsLastHook'])
class TrainingPreparationHook(Hook):
    """Switches for training; losses and gradients are equal up to rounding.

    :class:`InferencePreparationHook` has those for testing.

    Args:
        channels_last (bool): Whether convolutions keep channels together in
            memory, which most kernels prefer. Defaults to True.
        compile (bool | dict): Whether ``torch.compile`` compiles the
            backbone, with its backward pass, in the first iteration: a graph
            for each scale, of fixed size, so that all crops must have one.
            Validation, where sizes differ, runs without. A dict holds its
            arguments. Defaults to False.

    Raises:
        ValueError: If torch cannot compile it.
    """

    def __init__(
        self, channels_last: bool = True, compile: bool | Mapping = False
    ) -> None:
        self.channels_last = channels_last
        self.compile_options = compile_options(
            compile, 'TrainingPreparationHook'
        )
        self._compiled = None

    def before_train(self, runner: Runner) -> None:
        """Change the model, in place; its keys stay."""
        model = unwrapped(runner.model)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
            for module in runner.model.modules():
                if isinstance(module, DistributedDataParallel):
                    # Else it reads the first gradients that it sums by the
                    # new strides where it has put them by the old.
                    module.__setstate__(module.__getstate__())
        if self.compile_options is None:
            return
        settings = getattr(model, 'training_settings', None)
        if settings and 'backbone' in settings.checkpoint:
            raise ValueError(
                'TrainingPreparationHook: compile does not go with '
                f'model.train_cfg.checkpoint={settings.checkpoint}, whose '
                "'backbone' is computed again block by block; expected "
                "checkpoint=('scales',), or compile=False"
            )
        model.backbone.compile(**self.compile_options)
        self._compiled = model.backbone._compiled_call_impl

    def before_val_epoch(self, runner: Runner) -> None:
        """Validate without: each size would be compiled."""
        self._exchange(runner, None)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        """Train on with it."""
        self._exchange(runner, self._compiled)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was built."""
        self._exchange(runner, None)

    def _exchange(self, runner: Runner, call) -> None:
        if self._compiled is not None:
            unwrapped(runner.model).backbone._compiled_call_impl = call
