"""A model made ready for inference before mmseg's test.py tests it."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.utils.unwrapping import segmentor_of


@HOOKS.register_module()
class InferencePreparationHook(Hook):
    """Prepare the model for inference when a test begins.

    Weights are loaded then. Training and validation are not touched; a model
    that has been tested with ``fold_bn`` cannot be trained any more.

    Args:
        fold_bn (bool): As in :func:`prepare_for_inference`.
        channels_last (bool): Likewise.
        compile (bool | dict): Likewise.
    """

    def __init__(
        self,
        fold_bn: bool = True,
        channels_last: bool = True,
        compile: bool | Mapping = False,
    ) -> None:
        self.options = dict(
            fold_bn=fold_bn, channels_last=channels_last, compile=compile
        )

    def before_test(self, runner) -> None:
        """Prepare the model within all its wrappers."""
        model = segmentor_of(runner.model).eval()
        prepare_for_inference(model, **self.options)
