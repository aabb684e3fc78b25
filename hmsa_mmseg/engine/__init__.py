from .compact_iou_metric import CompactIoUMetric
from .hooks import (
    InferencePreparationHook,
    InvalidLossHook,
    IterSeedHook,
    SafeCheckpointHook,
    SignalCheckpointHook,
    TrainingPreparationHook,
)
from .loops import ResumableIterBasedTrainLoop
from .runners import SafeResumeRunner

__all__ = [
    'CompactIoUMetric',
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'SafeResumeRunner',
    'SignalCheckpointHook',
    'TrainingPreparationHook',
]
