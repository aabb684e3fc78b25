"""A model made ready for inference before mmseg's test.py tests it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch import nn

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.utils.unwrapping import segmentor_of


@HOOKS.register_module()
class InferencePreparationHook(Hook):
    """Prepare a copy of the model for inference while a test runs.

    Training and validation are not touched.

    Args:
        fold_bn (bool): As in :func:`prepare_for_inference`.
        channels_last (bool): Likewise.
        compile (bool | dict): Likewise.
        cuda_graph (bool): Likewise.
    """

    # After EMAHook, which exchanges the weights of the model it knows.
    priority = 'LOWEST'

    def __init__(
        self,
        fold_bn: bool = True,
        channels_last: bool = True,
        compile: bool | Mapping = False,
        cuda_graph: bool = False,
    ) -> None:
        self.options = dict(
            fold_bn=fold_bn,
            channels_last=channels_last,
            compile=compile,
            cuda_graph=cuda_graph,
        )
        self._model = None

    def before_test_epoch(self, runner) -> None:
        """Put a prepared copy in the model's place, within its wrappers."""
        self._model = segmentor_of(runner.model)
        prepared = deepcopy(self._model).eval()
        prepare_for_inference(prepared, **self.options)
        _exchange(runner, self._model, prepared)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Put the model back."""
        _exchange(runner, segmentor_of(runner.model), self._model)


def _exchange(runner, old: nn.Module, new: nn.Module) -> None:
    holder, name = runner, 'model'
    while getattr(holder, name) is not old:
        holder, name = getattr(holder, name), 'module'
    setattr(holder, name, new)
