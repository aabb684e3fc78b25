from .inference_preparation_hook import InferencePreparationHook
from .invalid_loss_hook import InvalidLossHook
from .iter_seed_hook import IterSeedHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .signal_checkpoint_hook import SignalCheckpointHook
from .training_preparation_hook import TrainingPreparationHook

__all__ = [
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'SafeCheckpointHook',
    'SignalCheckpointHook',
    'TrainingPreparationHook',
]
