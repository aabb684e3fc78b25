"""Training with channels as the innermost dimension of tensors."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from hmsa_mmseg.utils.unwrapping import unwrapped


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep the weights of convolutions in ``torch.channels_last``.

    Their outputs follow, so that convolutions, above all those of few
    channels each, take less time; results are the same up to rounding. For
    training; :class:`InferencePreparationHook` does the same for testing.
    """

    def before_train(self, runner: Runner) -> None:
        """Convert the model, in place."""
        unwrapped(runner.model).to(memory_format=torch.channels_last)
