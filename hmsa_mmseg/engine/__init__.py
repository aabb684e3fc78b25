from .hooks import (
    InferencePreparationHook,
    InvalidLossHook,
    IterSeedHook,
    SafeCheckpointHook,
    ScaleMapsVisualizationHook,
    SignalCheckpointHook,
    TeacherLeakageHook,
)
from .loops import ResumableIterBasedTrainLoop
from .process_groups import close_gloo
from .runners import SafeResumeRunner

__all__ = [
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'SafeResumeRunner',
    'ScaleMapsVisualizationHook',
    'SignalCheckpointHook',
    'TeacherLeakageHook',
    'close_gloo',
]
