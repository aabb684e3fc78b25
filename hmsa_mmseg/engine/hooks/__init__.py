from .channels_last_hook import ChannelsLastHook
from .inference_preparation_hook import InferencePreparationHook
from .invalid_loss_hook import InvalidLossHook
from .iter_seed_hook import IterSeedHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .signal_checkpoint_hook import SignalCheckpointHook

__all__ = [
    'ChannelsLastHook',
    'InferencePreparationHook',
    'InvalidLossHook',
    'IterSeedHook',
    'SafeCheckpointHook',
    'SignalCheckpointHook',
]
