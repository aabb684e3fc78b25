from .hooks import (
    ChannelsLastHook,
    InferencePreparationHook,
    InvalidLossHook,
    IterSeedHook,
    SafeCheckpointHook,
    SignalCheckpointHook,
)
from .loops import ResumableIterBasedTrainLoop
from .runners import SafeResumeRunner

__all__ = [
    'ChannelsLastHook',
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'SafeResumeRunner',
    'SignalCheckpointHook',
]
