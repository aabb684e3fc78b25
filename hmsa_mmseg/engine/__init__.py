from .compact_iou_metric import CompactIoUMetric
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
    'CompactIoUMetric',
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'SafeResumeRunner',
    'SignalCheckpointHook',
]
